"""Energy of the processor packages, from RAPL (Intel since Sandy Bridge, AMD since Zen)."""

from __future__ import annotations

import glob
import os

from edge_worker.probes.power import Sampler
from edge_worker.probes.reading import Reader, Unavailable, integer, known, text


class Rapl(Reader):
    """Package energy in mJ, idle power included, from Linux powercap (docs.kernel.org/power/powercap/powercap.html).

    Zones at the top (``intel-rapl:0``) are packages; their sub-zones (``intel-rapl:0:0``, the cores) are part of them, and a
    zone named ``psys`` holds the packages itself: neither is added. ``energy_uj`` is for root only since Linux 5.10.
    """

    #: A counter wraps at max_energy_range_uj, at the least 65 kJ: read every 10 s, one wrap is told from two up to 6.5 kW.
    period = 10.0

    def __init__(self, folder: str = "/sys/class/powercap") -> None:
        self._folder = folder
        top = [zone for zone in sorted(glob.glob(os.path.join(folder, "intel-rapl:*"))) if os.path.basename(zone).count(":") == 1]
        self._zones = [zone for zone in top if known(text, os.path.join(zone, "name")) != "psys"]
        self.scope = "%d processor package%s" % (len(self._zones), "" if len(self._zones) == 1 else "s")

    def _begin(self) -> None:
        if not self._zones:
            raise Unavailable("no RAPL package under %s" % self._folder)
        self._limits = [integer(os.path.join(zone, "max_energy_range_uj")) for zone in self._zones]
        self._used, self._last = 0, self._read()
        self._sampler = Sampler(self._add, self.period)
        self._sampler.start()

    def _end(self) -> float:
        self._sampler.stop()
        if self._used == 0:
            raise Unavailable("the RAPL counter did not move")
        return self._used / 1000.0

    def _add(self) -> None:
        now = self._read()
        self._used += sum(_step(*counter) for counter in zip(self._last, now, self._limits))
        self._last = now

    def _read(self) -> list:
        return [integer(os.path.join(zone, "energy_uj")) for zone in self._zones]


def _step(before: int, now: int, limit: int) -> int:
    """What a counter that wraps at ``limit`` has moved."""
    if not (0 <= before <= limit and 0 <= now <= limit):
        raise Unavailable("a RAPL counter that went from %d to %d is outside of its range, 0 to %d" % (before, now, limit))
    return now - before if now >= before else now - before + limit
