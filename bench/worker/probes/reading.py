"""What all readers share: one kind of failure, one way to read a file, one way to run a command, one life cycle."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess

from edge_worker.failures import Unavailable


class Reader:
    """``start()``, the work, then ``stop() -> (value, None)`` or ``(None, reason)``; neither ever raises.

    A subclass gives ``_begin`` and ``_end``, which raise when there is nothing to read. ``reason`` is None from ``start`` on
    as long as the reader answers. ``scope`` says what the figure covers, where that is not obvious.
    """

    unit = "mJ"
    provenance = "measured"
    scope: str | None = None
    reason: str | None = "the reader was not started"

    def start(self) -> None:
        self.reason = None
        try:
            self._begin()
        except Exception as error:
            self.reason = reason_of(error)

    def stop(self) -> tuple[float | None, str | None]:
        if self.reason is None:
            try:
                return self._end(), None
            except Exception as error:
                self.reason = reason_of(error)
        return None, self.reason

    def _begin(self) -> None:
        raise NotImplementedError

    def _end(self) -> float:
        raise NotImplementedError


def reason_of(error: Exception) -> str:
    return str(error) if isinstance(error, Unavailable) else "%s: %s" % (type(error).__name__, error)


def text(path: str) -> str:
    """A small file of /sys or /proc, without the white space around it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError as error:
        raise Unavailable("%s is not readable: %s" % (path, error.strerror)) from error


def integer(path: str) -> int:
    """A file that holds one whole number of at most 64 bits, as sysfs writes it."""
    found = text(path)
    if not re.match(r"[+-]?[0-9]{1,20}\Z", found):
        raise Unavailable("%s holds no number: %r" % (path, found[:40]))
    return int(found)


def known(read, *arguments):
    """What ``read`` finds, None where it finds nothing."""
    try:
        return read(*arguments)
    except (Unavailable, ValueError):
        return None


#: Where a command is; looked up once.
which = functools.lru_cache(maxsize=None)(shutil.which)


def command(name: str, *arguments: str, timeout: float = 2.0) -> str:
    """What a command prints, run without a shell and killed after ``timeout`` seconds."""
    path, called = which(name), " ".join((name, *arguments))
    if path is None:
        raise Unavailable("there is no %s here" % name)
    try:
        # close_fds=False lets Python use posix_spawn, which copies no page tables of a large process
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, close_fds=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("%s did not answer within %g s" % (called, timeout)) from None
    except OSError as error:
        raise Unavailable("%s cannot be run: %s" % (called, error.strerror)) from error
    printed = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        raise Unavailable("%s failed with status %d: %s" % (called, done.returncode, " ".join(printed.split())[:200]))
    return printed
