"""A job, under a supervisor that outlives the link: whoever asks for it again, by its id, waits for that one and gets what it wrote."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import signal
import site
import subprocess
import time
from typing import IO, Any

from edge.devices.board.state import JOBS, Refused, Reply, Request, check_owner, guard, held, interpreter, read, text, write


class Ended(BaseException):
    """A signal to the supervisor: the deadline has passed (SIGALRM), or the job is to stop (SIGTERM)."""


def run(request: Request, source: IO[bytes]) -> Reply:
    """Start the job, or find it at work, and wait for its end."""
    check_owner(request)
    folder = os.path.join(JOBS, request["id"])
    with guard():
        claim = None if os.path.exists(folder) else prepare(folder)
    if claim is not None:
        write(os.path.join(folder, "spec.json"), request["spec"])
        if os.fork() == 0:
            try:
                supervise(request, folder, claim)
            finally:
                os._exit(0)
        os.close(claim)
    lock = os.open(folder + ".lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)  # the supervisor holds it until it ends, however it ends
    status = read(folder + ".status")
    if status is None:
        raise Refused("died", "")
    written = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name[0] != "." and name != "spec.json"]
    return status, [path for path in written if os.path.isfile(path) and not os.path.islink(path)]


def prepare(folder: str) -> int:
    """The job's folder, and its lock, held."""
    stop()
    os.makedirs(folder)
    lock = os.open(folder + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def supervise(request: Request, folder: str, claim: int) -> None:
    """Run the worker in a session of its own until it ends, its deadline passes, or this process is told to stop; then write its status."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)  # ssh ends a call when nobody has its streams any more
    worker = None
    status: dict[str, Any] = {"status": None, "timed_out": False, "out_of_memory": False, "error": None}
    killed_before = out_of_memory_kills()
    try:
        for number in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, end)
        os.pwrite(claim, b"%d" % os.getpid(), 0)
        worker = start_worker(request, folder)
        signal.alarm(math.ceil(request["timeout"]))
        status["status"] = worker.wait()
    except OSError as error:
        status["error"] = str(error)
    except Ended as reason:
        status["timed_out"] = reason.args[0] == signal.SIGALRM
    if worker:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    status["out_of_memory"] = status["status"] == -signal.SIGKILL and out_of_memory_kills() > killed_before
    write(folder + ".status", status)


def end(number: int, frame: object) -> None:
    for each in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Ended(number)


def start_worker(request: Request, folder: str) -> subprocess.Popen[bytes]:
    with open(os.path.join(folder, "log.txt"), "wb") as log:
        worker = subprocess.Popen(
            [interpreter(request), request["worker"], os.path.join(folder, "spec.json"), os.path.join(folder, "result.json")],
            cwd=folder,
            env={**os.environ, **own_places(folder), **request["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with contextlib.suppress(OSError), open("/proc/%d/oom_score_adj" % worker.pid, "w") as file:
        file.write("1000")  # where memory runs out it is the worker that the kernel kills, and nothing else of the board
    return worker


def own_places(folder: str) -> dict[str, str]:
    """A home and a temporary folder for what runtimes drop there; Python finds the user's packages none the less."""
    place = folder + ".home"
    os.makedirs(place)
    return {"HOME": place, "TMPDIR": place, "PYTHONUSERBASE": site.getuserbase()}


def stop() -> None:
    """End every job, and forget it."""
    for lock in locks():
        while held(lock):
            with open(lock) as file:
                pid = file.read()
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
            time.sleep(0.02)
    shutil.rmtree(JOBS, ignore_errors=True)


def running() -> bool:
    return any(held(lock) for lock in locks())


def locks() -> list[str]:
    if not os.path.isdir(JOBS):
        return []
    return [os.path.join(JOBS, name) for name in os.listdir(JOBS) if name.endswith(".lock")]


def out_of_memory_kills() -> int:
    """How often this kernel has killed a process for want of memory (since Linux 4.13; 0 before)."""
    for line in text("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
