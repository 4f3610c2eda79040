"""Energy drawn from a battery: the whole machine, screen and all."""

from __future__ import annotations

import glob
import os

from edge_worker.probes.power import PowerReader
from edge_worker.probes.reading import Unavailable, integer, known, text


class Battery(PowerReader):
    """Energy in mJ out of the batteries that discharge, idle power included (Documentation/ABI/testing/sysfs-class-power).

    On mains there is no figure: what a charger feeds past the battery is not seen. Many gauges renew their reading only
    every few seconds, so a short measurement repeats an old one.
    """

    def __init__(self, folder: str = "/sys/class/power_supply") -> None:
        self._folder = folder

    def milliwatts(self) -> float:
        batteries = [supply for supply in sorted(glob.glob(os.path.join(self._folder, "*"))) if _feeds_the_machine(supply)]
        if not batteries:
            raise Unavailable("no battery under %s" % self._folder)
        states = {battery: text(os.path.join(battery, "status")) for battery in batteries}
        draining = [battery for battery, status in states.items() if status == "Discharging"]
        if not draining:
            raise Unavailable("the battery is not discharging: %s" % ", ".join(sorted(set(states.values()))))
        self.scope = "battery " + " + ".join(map(os.path.basename, draining))
        return sum(map(_power, draining))


def _feeds_the_machine(supply: str) -> bool:
    """A battery, and not that of a mouse or a pen (those have the scope Device)."""
    return known(text, os.path.join(supply, "type")) == "Battery" and known(text, os.path.join(supply, "scope")) != "Device"


def _power(battery: str) -> float:
    """mW: power_now in uW, else current_now in uA x voltage_now in uV. A current out of the battery is negative by the kernel's
    documentation and positive in many drivers; the status has said which way it flows."""
    power = os.path.join(battery, "power_now")
    if os.path.exists(power):
        found = abs(integer(power)) / 1e3
    else:
        found = abs(integer(os.path.join(battery, "current_now"))) * integer(os.path.join(battery, "voltage_now")) / 1e9
    if found <= 0:
        raise Unavailable("%s discharges at %g mW by its own account" % (battery, found))
    return found
