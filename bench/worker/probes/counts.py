"""What the emulator's plugin counts in this process (devices/counter.c): instructions, and the guest's resident memory.

A mark is the system call getsid with a number that no session has; the plugin sees it and adds a line to the file that EDGE_COUNTS names.
"""

from __future__ import annotations

import contextlib
import os
import platform

from edge_worker.probes.reading import Unavailable, text

#: "EDGE"; devices/counter.c names the same number.
MARK = -0x45444745
#: The columns of a line: counted since the process began; and bytes at that moment.
COUNTED, BYTES = ("instructions", "dot", "matrix", "half"), ("resident", "peak")
#: Marks that show what the marks themselves count.
EMPTY = 3


class Counts:
    """Marks, and what was counted between each two.

    Raises:
        Unavailable: no counting plugin runs with this process.
    """

    def __init__(self) -> None:
        self._path = os.environ.get("EDGE_COUNTS")
        if not self._path:
            raise Unavailable("no counting plugin runs with this process: instructions are counted on the target qemu")
        for _ in range(EMPTY):
            self.mark()
        lines = self._lines()
        if len(lines) != EMPTY:
            raise Unavailable("the counting plugin does not answer in %s" % self._path)
        self._empty = lines[-1]["instructions"] - lines[-2]["instructions"]

    def mark(self) -> None:
        with contextlib.suppress(OSError):
            os.getsid(MARK)

    def regions(self) -> list:
        """One dict for each two neighbouring marks: what was counted between, the marks' own instructions taken off, null where the plugin does
        not know the processor's; and bytes ``resident`` at its end, at most so far ``peak``."""
        lines = self._lines()[EMPTY:]
        known = COUNTED if platform.machine() == "aarch64" else ("instructions",)
        regions = []
        for before, after in zip(lines, lines[1:]):
            counted = {name: after[name] - before[name] if name in known else None for name in COUNTED}
            counted["instructions"] -= self._empty
            regions.append({**counted, **{name: after[name] for name in BYTES}})
        return regions

    def _lines(self) -> list:
        try:
            return [dict(zip(COUNTED + BYTES, map(int, line.split()))) for line in text(self._path).splitlines()]
        except ValueError as error:
            raise Unavailable("the counting plugin wrote what is no count: %s" % error) from error
