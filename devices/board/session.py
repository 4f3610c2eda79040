"""A session: it takes the board, leaves its files there, and takes all away again."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import time
from typing import IO, Any

from edge.devices.board.bundles import at_work, versions_of
from edge.devices.board.jobs import running, stop
from edge.devices.board.state import CACHE, FILES, OWNER, ROOT, Refused, Reply, Request, check_owner, guard, read, receive, text, write

#: Seconds after which a session that was not heard of, and whose job has ended, has lost the board to the next.
LEASE = 600
#: Bytes that must stay free.
RESERVE = 16 << 20


def begin(request: Request, source: IO[bytes]) -> Reply:
    """A session takes the board, and hears what it is and which files are there from one that was cut off."""
    made = [folder for folder in (CACHE,) if not os.path.isdir(folder)]
    os.makedirs(CACHE, exist_ok=True)
    with guard():
        owner = read(OWNER)
        mine = owner is None or owner["session"] in (request["session"], request["evict"])
        # a board without a battery for its clock may set it back, and then nothing is younger than now
        if not mine and (running() or at_work(owner) or abs(time.time() - os.path.getmtime(OWNER)) < LEASE):
            raise Refused("busy", owner["session"])
        os.makedirs(FILES, mode=0o700, exist_ok=True)
        write(OWNER, {"session": request["session"], "made": owner["made"] if owner else made})
    stop()
    for name in os.listdir(FILES):
        if name.endswith(".part"):
            shutil.rmtree(os.path.join(FILES, name))
    return {"root": ROOT, "there": os.listdir(FILES), **describe()}, []


def put(request: Request, source: IO[bytes]) -> Reply:
    """Take files into a folder of their own, which appears when it is whole."""
    check_owner(request)
    final, size = os.path.join(FILES, request["digest"]), sum(size for _, size in request["files"])
    if shutil.disk_usage(ROOT).free < size + RESERVE:
        raise Refused("full", "%d MiB are free" % (shutil.disk_usage(ROOT).free >> 20))
    part = "%s.%d.part" % (final, os.getpid())  # an attempt whose link was lost may still wait for its end
    os.makedirs(part, exist_ok=True)
    try:
        for name, size in request["files"]:
            path = os.path.join(part, *name.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                receive(source, file, size)
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {}, []


def leave(request: Request, source: IO[bytes]) -> Reply:
    """The session is over: nothing stays, and a request of it that goes on switches no bundle. Of the one that is named, which version is current."""
    check_owner(request)
    stop()
    owner = read(OWNER)
    with guard():
        shutil.rmtree(ROOT)
    for folder in owner["made"]:
        with contextlib.suppress(OSError):  # somebody else has put something in it
            os.rmdir(folder)
    return versions_of(request) if "name" in request else {}, []


def describe() -> dict[str, Any]:
    cpu: dict[str, str] = {}
    for line in text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    return {
        "python": list(sys.version_info[:2]),
        "glibc": platform.libc_ver()[1],
        "machine": platform.machine() if sys.maxsize >> 32 else "armv8l",  # a 32-bit Python under a 64-bit kernel
        "node": platform.node(),
        "model": text("/proc/device-tree/model").strip("\0\n "),
        "cpu": cpu.get("model name") or cpu.get("Model") or cpu.get("Hardware") or "",
        "flags": (cpu.get("flags") or cpu.get("Features") or "").split(),
    }
