"""Energy of a Raspberry Pi 5, from the converters of its power management chip."""

from __future__ import annotations

import re

from edge_worker.probes.power import PowerReader
from edge_worker.probes.reading import Unavailable, command

#: ``VDD_CORE_A current(7)=1.54489000A`` and ``VDD_CORE_V volt(15)=0.88725180V``: the firmware's own print, written down whole in
#: github.com/leukipp/touchkio/issues/35 and github.com/ml-energy/zeus/issues/273 (no document of Raspberry Pi defines it).
READING = re.compile(r"(\w+)_([AV]) +(?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)([AV])\Z")


class Pmic(PowerReader):
    """Energy in mJ of all rails the chip feeds, idle power included. What the chip itself loses and what hangs on the 5 V input (USB,
    fan, HAT) is not in it: people who metered the plug put that at 15 % and 0.6 W (the first issue). Each sample starts a
    process. A Raspberry Pi 4 and older do not answer."""

    scope = "output rails of the PMIC"

    def __init__(self, vcgencmd: str = "vcgencmd", timeout: float = 2.0) -> None:
        self._vcgencmd, self._timeout = vcgencmd, timeout

    def milliwatts(self) -> float:
        return 1000 * watts(command(self._vcgencmd, "pmic_read_adc", timeout=self._timeout))


def watts(printed: str) -> float:
    """Sum of V x A over the rails. EXT5V and BATT have a voltage only: they feed the chip and are no rails of it."""
    readings: dict = {"A": {}, "V": {}}
    for line in filter(None, map(str.strip, printed.splitlines())):
        match = READING.match(line)
        if match and match.group(2) == match.group(4):
            readings[match.group(2)][match.group(1)] = float(match.group(3))
        elif "current(" in line or "volt(" in line:
            raise Unavailable("vcgencmd pmic_read_adc printed %r" % line[:80])
    if not readings["A"]:
        raise Unavailable("vcgencmd pmic_read_adc gave no currents (only a Raspberry Pi 5 does): %r" % printed[:80])
    unpaired = sorted((set(readings["A"]) ^ set(readings["V"])) - {"EXT5V", "BATT"})
    if unpaired:
        raise Unavailable("vcgencmd pmic_read_adc gave only one of volts and amperes for %s" % ", ".join(unpaired))
    return sum(current * readings["V"][rail] for rail, current in readings["A"].items())
