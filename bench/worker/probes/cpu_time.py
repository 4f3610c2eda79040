"""CPU time of this process."""

from __future__ import annotations

import time

from edge_worker.probes.reading import Reader


class CpuTime(Reader):
    """CPU seconds of all threads of this process, user and system; children are not included (clock_gettime(2))."""

    unit = "s"

    def _begin(self) -> None:
        self._began = time.process_time()

    def _end(self) -> float:
        return time.process_time() - self._began
