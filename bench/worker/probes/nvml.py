"""Energy and memory of NVIDIA cards, from the driver's management library (docs.nvidia.com/deploy/nvml-api, "Device Queries").

``module`` is everywhere ``pynvml``, which the package nvidia-ml-py brings; without one it is imported.
"""

from __future__ import annotations

import os

from edge_worker.probes.power import PowerReader
from edge_worker.probes.reading import Unavailable, reason_of


class Nvml(PowerReader):
    """Energy in mJ of the cards that this process may use, idle power included: nvmlDeviceGetTotalEnergyConsumption (mJ since the driver
    was loaded, Volta and newer), else nvmlDeviceGetPowerUsage (mW) integrated.

    NVML is opened here, before anything is measured. Newer cards give power as the mean of the last second. What else runs on the card counts too;
    the idle power is that of a card that holds the loaded model, and it may still clock high after the warm-up.
    """

    def __init__(self, module=None) -> None:
        self._absent: str | None = None
        try:
            self._nvml, self._cards = _opened(module)
            self.scope = "%d NVIDIA card%s" % (len(self._cards), "" if len(self._cards) == 1 else "s")
        except Exception as error:
            self._absent = reason_of(error)

    def milliwatts(self) -> float:
        return sum(self._nvml.nvmlDeviceGetPowerUsage(card) for card in self._cards)

    def _begin(self) -> None:
        if self._absent is not None:
            raise Unavailable(self._absent)
        try:
            self._before = self._counter()
        except Exception:
            self._before = None
            super()._begin()

    def _end(self) -> float:
        if self._before is None:
            return super()._end()
        used = self._counter() - self._before
        if used <= 0:
            raise Unavailable("the energy counter of the card did not move (it is renewed about ten times a second)")
        return float(used)

    def _counter(self) -> int:
        return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in self._cards)


def gpu_memory(module=None) -> dict:
    """Bytes that this process holds on the cards it may use, its context and the runtime's pool included: {value, reason}, one of them None."""
    try:
        nvml, cards = _opened(module)
        held = [process.usedGpuMemory for card in cards for process in nvml.nvmlDeviceGetComputeRunningProcesses(card) if process.pid == os.getpid()]
        if not held:
            raise Unavailable("NVML does not list this process: in a container it knows processes by other numbers")
        if None in held:
            raise Unavailable("the driver does not tell the memory of single processes")
        return {"value": sum(held), "reason": None}
    except Exception as error:
        return {"value": None, "reason": reason_of(error)}


def _opened(module):
    """(NVML, the cards that this process may use).

    Those are the ones that CUDA_VISIBLE_DEVICES names, by number or UUID, and all where it is not set (CUDA C++ Programming Guide, "CUDA Environment
    Variables"). NVML numbers the cards by their place on the bus, CUDA does so with CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        Unavailable: there is no NVML, or no card.
    """
    try:
        if module is None:
            import pynvml as module
        module.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(index) for index in range(module.nvmlDeviceGetCount())] if named is None else named.replace(" ", "").split(",")
        cards = [module.nvmlDeviceGetHandleByIndex(int(n)) if n.isdigit() else module.nvmlDeviceGetHandleByUUID(n) for n in names if n]
    except ImportError:
        raise Unavailable("pynvml is not installed (the package nvidia-ml-py)") from None
    except Exception as error:
        raise Unavailable("NVML does not start: %s" % error) from error
    if not cards:
        raise Unavailable("NVML finds no NVIDIA card")
    return module, cards
