"""Energy of NVIDIA cards, from the driver's management library."""

from __future__ import annotations

from edge_worker.probes.power import PowerReader
from edge_worker.probes.reading import Unavailable


class Nvml(PowerReader):
    """Energy in mJ of all NVIDIA cards, idle power included: nvmlDeviceGetTotalEnergyConsumption (mJ since the driver was loaded,
    Volta and newer), else nvmlDeviceGetPowerUsage (mW) integrated (docs.nvidia.com/deploy/nvml-api, "Device Queries").

    ``module`` is ``pynvml``, which the package nvidia-ml-py brings; it is imported here, before anything is measured. Newer
    cards give power as the mean of the last second.
    """

    def __init__(self, module=None) -> None:
        self._absent: str | None = None
        try:
            if module is None:
                import pynvml as module
            self._nvml = module
            self._nvml.nvmlInit()
            self._cards = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())]
            self.scope = "%d NVIDIA card%s" % (len(self._cards), "" if len(self._cards) == 1 else "s")
        except ImportError:
            self._absent = "pynvml is not installed (the package nvidia-ml-py)"
        except Exception as error:
            self._absent = "NVML does not start: %s" % error

    def milliwatts(self) -> float:
        return sum(self._nvml.nvmlDeviceGetPowerUsage(card) for card in self._cards)

    def _begin(self) -> None:
        if self._absent is not None or not self._cards:
            raise Unavailable(self._absent or "NVML finds no NVIDIA card")
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
