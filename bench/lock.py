"""One measurement at a time on a machine: a second one waits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def measuring(waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the machine's lock, which the system gives back when this process dies.

    Args:
        waiting: called with a sentence when another process holds it.
    """
    descriptor = _opened(Path(tempfile.gettempdir(), "edge-measuring.lock"))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "?"
            waiting(f"another measurement runs on this machine (process {holder}): waiting for its end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # another user's file is locked, and not written to
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """The lock file, made where it is missing. A file that another user has made can be locked by one who may only read it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
