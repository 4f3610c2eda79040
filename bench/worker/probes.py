"""Readers of memory, CPU time, instruction counts and energy. A counter that is not there is None with a reason, never 0."""

from __future__ import annotations

import ctypes
import glob
import os
import platform
import struct
import time


def memory(field: str) -> int | None:
    """A field of /proc/self/status in bytes: ``VmRSS`` resident now, ``VmHWM`` the peak of this process alone.

    ``ru_maxrss`` will not do: across fork and exec it keeps the peak of the parent.
    """
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


#: Number of the system call perf_event_open.
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}


class CpuTime:
    """CPU seconds of all threads of this process (user and system)."""

    unit = "s"

    def start(self) -> None:
        self.began = time.process_time()

    def stop(self) -> tuple[float | None, str | None]:
        return time.process_time() - self.began, None


class Instructions:
    """Instructions in user space by all threads started after ``start``, from perf_event_open(2)."""

    unit = "count"
    #: struct perf_event_attr: type hardware, size, config instructions; flags disabled=0, inherit, exclude_kernel, exclude_hv.
    FLAGS = 1 << 1 | 1 << 5 | 1 << 6

    def start(self) -> None:
        self.descriptor, self.reason = -1, None
        number = PERF_EVENT_OPEN.get(platform.machine())
        if number is None:
            self.reason = "no perf_event_open known on %s" % platform.machine()
            return
        attributes = struct.pack("IIQQQQQ", 0, 112, 1, 0, 0, 0, self.FLAGS).ljust(112, b"\0")
        buffer = ctypes.create_string_buffer(attributes, 112)
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.syscall(number, buffer, 0, -1, -1, 0)
        if self.descriptor < 0:
            self.reason = "no hardware instruction counter: %s" % os.strerror(ctypes.get_errno())

    def stop(self) -> tuple[int | None, str | None]:
        if self.descriptor < 0:
            return None, self.reason
        try:
            return struct.unpack("Q", os.read(self.descriptor, 8))[0], None
        except (OSError, struct.error) as error:
            return None, "the instruction counter could not be read: %s" % error
        finally:
            os.close(self.descriptor)


class Rapl:
    """Package energy in mJ from Linux powercap: the whole package, idle power included."""

    unit = "mJ"

    def __init__(self, root: str = "/sys/class/powercap") -> None:
        self.zones = sorted(zone for zone in glob.glob(os.path.join(root, "intel-rapl:*")) if os.path.basename(zone).count(":") == 1)

    def start(self) -> None:
        self.before = self._read()

    def stop(self) -> tuple[float | None, str | None]:
        after = self._read()
        if not self.zones:
            return None, "no RAPL zone under /sys/class/powercap"
        if None in self.before or None in after:
            return None, "RAPL is there but not readable (root only on recent kernels)"
        used = 0
        for zone, first, last in zip(self.zones, self.before, after):
            used += last - first if last >= first else last - first + (_number(os.path.join(zone, "max_energy_range_uj")) or 0)
        return used / 1000.0, None

    def _read(self) -> list:
        return [_number(os.path.join(zone, "energy_uj")) for zone in self.zones]


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


#: Name in the result -> reader. Per-inference values are the reading over the count of inferences.
ENERGY_PROBES = {"cpu_time": CpuTime, "instructions": Instructions, "energy_rapl": Rapl}
