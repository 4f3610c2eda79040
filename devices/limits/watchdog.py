"""Without root and without control groups: a limit that the process sets itself, and a look at it now and then."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.children import running, wait
from edge.devices.limits.mechanism import Limits, Seen, entering

#: Between two looks, in s.
LOOK = 0.02
#: What a process may reserve beyond its limit, in B: runtimes reserve memory that they never touch (measured: onnxruntime 45 MiB, Paddle
#: 170 MiB), and no two of them fail alike where they are refused it. So much can one that grows fast take of the machine between two looks.
RESERVE = 1 << 30


class Watchdog:
    """Kills the process when its own memory is more than the limit.

    Its own are anonymous and shared pages (``RssAnon`` and ``RssShmem`` of proc_pid_status(5)). Pages of files are not counted: a kernel short of
    memory takes those back, and kills only for the others. ``memory_peak`` is the most that was seen: a peak shorter than 20 ms may be missed, and
    what the process starts itself is not seen at all.

    Args:
        proc: where the kernel tells of processes.
    """

    name = "rlimit and watchdog"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.proc = proc

    def lacks(self, limits: Limits) -> str | None:
        if limits.quota is not None:
            return "a CPU quota needs control groups"
        if limits.memory is not None and not self._held(os.getpid()):
            return f"{self.proc}/PID/status does not tell the memory of a process"
        return None

    def run(self, command: Sequence[str], limits: Limits, *, environment: Mapping[str, str], log: Path, timeout: float) -> Seen:
        data = None if limits.memory is None else limits.memory + RESERVE
        with running(entering(command, limits, data=data), environment=environment, log=log) as process:
            if limits.memory is None:
                return Seen(wait(process, timeout))
            return self._watch(process, limits.memory, timeout)

    def _watch(self, process: subprocess.Popen[bytes], limit: int, timeout: float) -> Seen:
        peak, end = 0, time.monotonic() + timeout
        while peak <= limit:
            try:
                return Seen(wait(process, LOOK), None, _peak(peak))
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    raise
                peak = max(peak, self._held(process.pid))
        process.kill()
        return Seen(process.wait(), f"it held {peak / 2**20:.0f} MiB when the watchdog killed it", _peak(peak))

    def _held(self, pid: int) -> int:
        """Bytes of its own that a process holds; 0 where that is not told (before Linux 4.5), or it has ended."""
        try:
            lines = (self.proc / str(pid) / "status").read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _peak(peak: int) -> dict[str, tuple[float, str]]:
    return {"memory_peak": (peak, "B")} if peak else {}
