"""What its modules share: the places on the board, whose it is, the locks that say who is at work, and how files are read and written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import IO, Any, Dict, Iterator, List, Tuple

CACHE = os.path.expanduser("~/.cache")
ROOT = os.path.join(CACHE, "paddle-edge")
FILES, JOBS, OWNER = (os.path.join(ROOT, name) for name in ("files", "jobs", "owner.json"))

Request = Dict[str, Any]
#: What stands in the first line, and the files to send.
Reply = Tuple[Dict[str, Any], List[str]]


class Refused(Exception):
    """A request that cannot be served: its kind, and what there is to know."""


def check_owner(request: Request) -> None:
    owner = read(OWNER)
    if owner is None or owner["session"] != request["session"]:
        raise Refused("gone", owner and owner["session"])
    os.utime(OWNER)


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """One request at a time. The lock is on a folder that stays: a file would have to be left behind."""
    lock = os.open(os.path.expanduser("~"), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def held(path: str) -> bool:
    """Whether a process holds this lock: the system gives it back when that ends, however it ends."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def interpreter(request: Request) -> str:
    """As it was named, from where a session starts: a job has another folder. (Under an emulator sys.executable is no name of it.)"""
    python: str = request["python"]
    return os.path.abspath(python) if os.sep in python else python


def receive(source: IO[bytes], file: IO[bytes], size: int) -> None:
    while size:
        block = source.read(min(size, 1 << 20))
        if not block:
            raise EOFError("the link was cut")
        file.write(block)
        size -= len(block)


def read(path: str) -> Any:
    """A JSON file, None where there is none."""
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def write(path: str, content: Any) -> None:
    with open(path + ".new", "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
