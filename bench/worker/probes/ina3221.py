"""Energy of an NVIDIA Jetson, from the INA3221 power monitors on its board."""

from __future__ import annotations

import glob
import os

from edge_worker.probes.power import PowerReader
from edge_worker.probes.reading import Unavailable, integer, known, text

#: Labels that together stand for all power of a module, the best first. VDD_IN: TX1, TX2, Xavier NX, Orin NX, Orin Nano;
#: POM_5V_IN: Nano; the AGX boards have no rail for the whole, theirs run in parallel. Sources: NVIDIA Jetson Developer
#: Guide, "Platform Power and Performance"; the labels in tegra234-p3701.dtsi and tegra194-p2888.dtsi of Linux.
TOTALS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)


class Ina3221(PowerReader):
    """Energy in mJ of the whole module, idle power included; ``scope`` names the rails. Boards without a known set give none."""

    def __init__(self, folder: str = "/sys/bus/i2c/drivers") -> None:
        self._folder = folder
        self._rails = _rails(folder)
        self._chosen = next((total for total in TOTALS if all(label in self._rails for label in total)), ())
        self.scope = "rail " + " + ".join(self._chosen) if self._chosen else None

    def milliwatts(self) -> float:
        if not self._rails:
            raise Unavailable("no INA3221 under %s" % self._folder)
        if not self._chosen:
            raise Unavailable("no rail known to carry the whole board among %s" % ", ".join(sorted(self._rails)))
        return sum(_power(*self._rails[label]) for label in self._chosen)


def _rails(folder: str) -> dict:
    """Label -> (folder, number) of each channel, in the layout of Linux and JetPack 5 and in that of JetPack 4 and before. (hwmon's
    ``in7_label`` is a sum of shunt voltages and no channel.)"""
    found: dict = {}
    for layout, first in (("hwmon/hwmon*/in%d_label", 1), ("iio:device*/rail_name_%d", 0)):
        for number in range(first, first + 3):
            for path in sorted(glob.glob(os.path.join(folder, "ina3221*", "*", layout % number))):
                found.setdefault(known(text, path) or "unnamed", (os.path.dirname(path), number))
    return found


def _power(folder: str, number: int) -> float:
    """mW of a channel: hwmon gives mV and mA (docs.kernel.org/hwmon/ina3221.html), and uW where a driver computes power
    (docs.kernel.org/hwmon/sysfs-interface.html); JetPack 4 gives mW."""
    if "iio:device" in os.path.basename(folder):
        return integer(os.path.join(folder, "in_power%d_input" % number))
    power = os.path.join(folder, "power%d_input" % number)
    if os.path.exists(power):
        return integer(power) / 1000.0
    return integer(os.path.join(folder, "in%d_input" % number)) * integer(os.path.join(folder, "curr%d_input" % number)) / 1000.0
