"""Instructions executed, from the processor's own counter."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

from edge_worker.probes.reading import Reader, Unavailable

#: Number of the system call perf_event_open (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}


class Instructions(Reader):
    """Instructions in user space by this thread and by all threads and children started after ``start`` (perf_event_open(2))."""

    unit = "count"
    provenance = "counted"
    #: struct perf_event_attr: type hardware, size, config instructions; flags disabled=0, inherit, exclude_kernel, exclude_hv.
    FLAGS = 1 << 1 | 1 << 5 | 1 << 6
    _descriptor = -1

    def _begin(self) -> None:
        number = PERF_EVENT_OPEN.get(platform.machine()) if sys.platform.startswith("linux") else None
        if number is None:
            raise Unavailable("no perf_event_open known on %s %s" % (sys.platform, platform.machine()))
        attributes = struct.pack("IIQQQQQ", 0, 112, 1, 0, 0, 0, self.FLAGS).ljust(112, b"\0")
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.syscall(number, ctypes.create_string_buffer(attributes, 112), 0, -1, -1, 0)
        if self._descriptor < 0:
            raise Unavailable("no hardware instruction counter: %s" % os.strerror(ctypes.get_errno()))

    def _end(self) -> float:
        try:
            count = struct.unpack("Q", os.read(self._descriptor, 8))[0]
        except (OSError, struct.error) as error:
            raise Unavailable("the instruction counter could not be read: %s" % error) from error
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
        if count == 0:
            raise Unavailable("the instruction counter did not count")
        return count
