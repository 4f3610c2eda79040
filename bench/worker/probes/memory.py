"""Memory and threads of this process, as the kernel accounts for them (proc(5))."""

from __future__ import annotations

import re

from edge_worker.probes.reading import Unavailable, text


def memory(field: str, path: str = "/proc/self/status") -> int | None:
    """A field of /proc/self/status in bytes: ``VmRSS`` resident now, ``VmHWM`` the peak of this process alone.

    ``ru_maxrss`` will not do: across fork and exec it keeps the peak of the parent.
    """
    kibibytes = _field(path, field)
    return None if kibibytes is None else kibibytes * 1024


def pss(path: str = "/proc/self/smaps_rollup") -> int | None:
    """Bytes resident, each shared page divided by the number of processes that share it. Linux 4.14 and newer."""
    return memory("Pss", path)


def _field(path: str, name: str) -> int | None:
    try:
        found = re.search(r"^%s:\s*([0-9]{1,20})\b" % re.escape(name), text(path), re.MULTILINE)
    except Unavailable:
        return None
    return int(found.group(1)) if found else None
