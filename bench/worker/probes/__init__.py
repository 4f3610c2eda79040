"""Readers of CPU time, instructions, energy, memory and the state of the machine.

The interface of an energy reader (``reading.Reader``):

- ``unit`` is "s", "count" or "mJ", ``provenance`` "measured" or "counted", ``scope`` what the figure covers, or None;
- ``start()`` and ``stop() -> (value, reason)``, of which exactly one is None. A counter that is not there, or fails half way, is None
  with a reason: never 0, never an exception. What a reader needs is looked up when it is made, not between start and stop.

Energy is that of the machine or of its processor, idle power included: ``idle`` takes that off.
"""

from __future__ import annotations

import os

from edge_worker.probes.battery import Battery
from edge_worker.probes.cpu_time import CpuTime
from edge_worker.probes.ina3221 import Ina3221
from edge_worker.probes.instructions import Instructions

# the function hides the submodule of its name here: ``from edge_worker.probes.memory import pss`` works all the same
from edge_worker.probes.memory import memory
from edge_worker.probes.nvml import Nvml
from edge_worker.probes.pmic import Pmic
from edge_worker.probes.rapl import Rapl

__all__ = ["ENERGY_PROBES", "Energy", "energy_readers", "memory"]

#: Name in the result -> reader. Per-inference values are the reading over the count of inferences.
ENERGY_PROBES = {
    "cpu_time": CpuTime,
    "instructions": Instructions,
    "energy_rapl": Rapl,
    "energy_ina3221": Ina3221,
    "energy_pmic": Pmic,
    "energy_battery": Battery,
    "energy_nvml": Nvml,
}


def energy_readers(root: str = "/", vcgencmd: str = "vcgencmd", nvml=None) -> dict:
    """Name -> reader, in the order of ENERGY_PROBES, of the machine whose files lie under ``root``."""
    where = {
        "energy_rapl": os.path.join(root, "sys/class/powercap"),
        "energy_ina3221": os.path.join(root, "sys/bus/i2c/drivers"),
        "energy_pmic": vcgencmd,
        "energy_battery": os.path.join(root, "sys/class/power_supply"),
        "energy_nvml": nvml,
    }
    return {name: reader(where[name]) if name in where else reader() for name, reader in ENERGY_PROBES.items()}


class Energy:
    """All readers around one piece of work. The first is started last and stopped first, so that CPU time and instructions
    hold little of what the others cost."""

    def __init__(self, readers: dict | None = None) -> None:
        self.readers = energy_readers() if readers is None else readers

    def start(self) -> None:
        for reader in reversed(list(self.readers.values())):
            reader.start()

    def stop(self) -> dict:
        """{name: {value, unit, provenance, scope, reason}}"""
        return {name: _answer(reader) for name, reader in self.readers.items()}


def _answer(reader) -> dict:
    value, reason = reader.stop()
    return {"value": value, "unit": reader.unit, "provenance": reader.provenance, "scope": reader.scope if reason is None else None, "reason": reason}
