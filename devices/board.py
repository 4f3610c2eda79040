"""The far side of an ssh target: one request on stdin, one reply on stdout. It needs Python 3.8 and its standard library.

It comes with every request, so nothing is installed there but the bundles that are deployed. All else that it keeps lies in one folder, which
belongs to one session at a time. A job runs under a supervisor that outlives the link: whoever asks for the job again, by its id, waits for that
one and gets what it wrote.

A request and a reply are alike: a line of JSON, then the bytes of the files that its ``files`` lists as [name, size].
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import platform
import shutil
import signal
import site
import subprocess
import sys
import time
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple

#: Comes before the reply: what a login shell prints stands before it.
MARK = b"\0paddle-edge\n"
CACHE = os.path.expanduser("~/.cache")
ROOT = os.path.join(CACHE, "paddle-edge")
FILES, JOBS, OWNER = (os.path.join(ROOT, name) for name in ("files", "jobs", "owner.json"))
#: Seconds after which a session that was not heard of, and whose job has ended, has lost the board to the next.
LEASE = 600
#: Bytes that must stay free.
RESERVE = 16 << 20


Request = Dict[str, Any]
#: What stands in the first line, and the files to send.
Reply = Tuple[Dict[str, Any], List[str]]


class Refused(Exception):
    """A request that cannot be served: its kind, and what there is to know."""


class Ended(BaseException):
    """A signal to the supervisor: the deadline has passed (SIGALRM), or the job is to stop (SIGTERM)."""


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(MARK)
    sink.flush()
    request = json.loads(source.readline())
    try:
        reply, paths = VERBS[request["verb"]](request, source)
    except Refused as refusal:
        reply, paths = {"refused": refusal.args[0], "detail": refusal.args[1]}, []
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reply, paths = {"refused": "full", "detail": str(error)}, []
    reply["files"] = [[os.path.basename(path), os.path.getsize(path)] for path in paths]
    sink.write(json.dumps(reply).encode() + b"\n")
    for path in paths:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sink)
    sink.flush()


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


def leave(request: Request, source: IO[bytes]) -> Reply:
    """The session is over: nothing stays."""
    check_owner(request)
    stop()
    owner = read(OWNER)
    shutil.rmtree(ROOT)
    for folder in owner["made"]:
        with contextlib.suppress(OSError):  # somebody else has put something in it
            os.rmdir(folder)
    return {}, []


def versions(request: Request, source: IO[bytes]) -> Reply:
    """Which versions of a bundle are the current and the previous one."""
    check_owner(request)
    base = place_of(request)
    return {"current": linked(base, "current"), "previous": previous_of(base)}, []


def install(request: Request, source: IO[bytes]) -> Reply:
    """A bundle that was put here becomes a version of its own, proves itself there, and only then is the one that ``current`` names.

    It gets its name when it is proven; one that is there already is proven again, and replaced where it fails.
    """
    base, name = place_of(request), request["version"]
    with held_by(request, base):
        version = os.path.join(base, "versions", name)
        proof = proven(request, version) or renewed(request, version)
        check_owner(request)  # whoever asked may be gone by now, and then nothing changes
        was = linked(base, "current")
        if was not in (None, name):
            link(base, "previous", was)
        link(base, "current", name)
        remarks = ["%s could not be removed: remove it by hand" % path for path in forget_others(base)]
        return {"place": os.path.join(base, "current"), "previous": linked(base, "previous"), "said": [*proof, *remarks]}, []


def roll_back(request: Request, source: IO[bytes]) -> Reply:
    """The version ``to`` is the current one again, in the place of ``replaced``, where it still proves itself. It may be asked for twice."""
    base, to = place_of(request), request["to"]
    with held_by(request, base):
        if linked(base, "current") not in (request["replaced"], to):
            raise Refused("rollback", "another version has become the current one meanwhile")
        proof = said(request, "self-test", [], os.path.join(base, "versions", to))
        check_owner(request)
        link(base, "previous", request["replaced"])
        link(base, "current", to)
        return {"place": os.path.join(base, "current"), "previous": request["replaced"], "said": proof}, []


def bench(request: Request, source: IO[bytes]) -> Reply:
    """What the current version of a bundle measures here; asked for again, after a lost link, it is what was measured before."""
    base, path = place_of(request), os.path.join(ROOT, "bench-%s.json" % request["id"])
    with held_by(request, base):
        if not os.path.exists(path):
            said(request, "bench", ["--out", path], os.path.join(base, "current"))
        return {}, [path]


VERBS = {
    "begin": begin, "put": put, "run": run, "leave": leave,
    "versions": versions, "install": install, "roll-back": roll_back, "bench": bench,
}  # fmt: skip


def place_of(request: Request) -> str:
    home: str = request["home"]
    return os.path.join(os.path.abspath(os.path.expanduser(home)), request["name"])


@contextlib.contextmanager
def held_by(request: Request, base: str) -> Iterator[None]:
    """One request at a time has the place of a bundle: one whose link was lost goes on, and the next waits for its end."""
    check_owner(request)
    try:
        os.makedirs(os.path.join(base, "versions"), exist_ok=True)
        lock = os.open(os.path.join(base, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            owner = read(OWNER)
            write(OWNER, {**owner, "lock": os.path.join(base, ".lock")})  # whoever wants the board sees that it is at work
            fcntl.flock(lock, fcntl.LOCK_EX)
            check_owner(request)
            for name in os.listdir(os.path.join(base, "versions")):
                if name.startswith("."):  # what a request has left that was killed
                    clear(os.path.join(base, "versions", name))
            yield
        finally:
            os.close(lock)
    except OSError as error:
        raise Refused("place", "%s: %s" % (error.filename or base, error.strerror)) from None


def proven(request: Request, version: str) -> Optional[List[str]]:
    """What the self-test of a version says, None where there is no such version or it fails."""
    try:
        return said(request, "self-test", [], version) if os.path.isdir(version) else None
    except Refused:
        return None


def renewed(request: Request, version: str) -> List[str]:
    """The bundle that was put here as this version, once it has proven itself; what had the name stays until then."""
    new, old = (os.path.join(os.path.dirname(version), "." + name) for name in ("new", os.path.basename(version)))
    try:
        said(request, "install", [new], os.path.join(FILES, request["digest"], request["name"]))
        proof = said(request, "self-test", [], new)
        check_owner(request)
    except Refused:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if os.path.isdir(version):
        os.rename(version, old)
    os.rename(new, version)
    sync(os.path.dirname(version))
    shutil.rmtree(old, ignore_errors=True)
    return proof


def clear(left: str) -> None:
    """Remove an unproven version, or one that was replaced; where a kill came before its successor had the name it gets that again."""
    folder, name = os.path.split(left)
    version = os.path.join(folder, name[1:])
    if name == ".new":
        shutil.rmtree(left)
    elif os.path.isdir(version):
        shutil.rmtree(left, ignore_errors=True)
    else:
        os.rename(left, version)


def forget_others(base: str) -> List[str]:
    """Remove the versions that no link names; returns those that cannot be."""
    kept = {linked(base, "current"), linked(base, "previous")}
    others = [os.path.join(base, "versions", name) for name in sorted(os.listdir(os.path.join(base, "versions"))) if name not in kept]
    for version in others:
        shutil.rmtree(version, ignore_errors=True)
    return [version for version in others if os.path.exists(version)]


def previous_of(base: str) -> Optional[str]:
    """The version that ``previous`` names; where that is the current one, as a request was killed between the links, the oldest other."""
    current, previous = linked(base, "current"), linked(base, "previous")
    if previous is None or previous != current:
        return previous
    folder = os.path.join(base, "versions")
    others = [name for name in os.listdir(folder) if name != current and not name.startswith(".")]
    return min(others, key=lambda name: os.path.getmtime(os.path.join(folder, name)), default=None)


def said(request: Request, command: str, arguments: List[str], folder: str) -> List[str]:
    """The lines that a command of a bundle prints."""
    done = subprocess.run(
        [interpreter(request), "-m", "run", command, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode:
        raise Refused(command, "; ".join(line for line in lines if not line.startswith("ok "))[-900:] or "status %d" % done.returncode)
    return [line[:900] for line in lines[-100:]]


def interpreter(request: Request) -> str:
    """As it was named, from where a session starts: a job has another folder. (Under an emulator sys.executable is no name of it.)"""
    python: str = request["python"]
    return os.path.abspath(python) if os.sep in python else python


def linked(base: str, name: str) -> Optional[str]:
    """The version that a link names, None where there is none."""
    try:
        return os.path.basename(os.readlink(os.path.join(base, name)))
    except OSError:
        return None


def link(base: str, name: str, version: str) -> None:
    """In one step: whoever follows the link finds the old version or the new one."""
    new = os.path.join(base, ".%s.new" % name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(os.path.join("versions", version), new)
    os.replace(new, os.path.join(base, name))
    sync(base)


def sync(path: str) -> None:
    """What a folder's names stand for is so after a power cut too."""
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


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


def at_work(owner: Dict[str, Any]) -> bool:
    """Whether a request of a session has the place of a bundle."""
    return os.path.exists(owner.get("lock", "")) and held(owner["lock"])


def locks() -> list[str]:
    if not os.path.isdir(JOBS):
        return []
    return [os.path.join(JOBS, name) for name in os.listdir(JOBS) if name.endswith(".lock")]


def held(path: str) -> bool:
    """Whether a supervisor holds this lock: the system gives it back when that ends, however it ends."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """One request at a time. The lock is on a folder that stays: a file would have to be left behind."""
    lock = os.open(os.path.expanduser("~"), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def check_owner(request: Request) -> None:
    owner = read(OWNER)
    if owner is None or owner["session"] != request["session"]:
        raise Refused("gone", owner and owner["session"])
    os.utime(OWNER)


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


def out_of_memory_kills() -> int:
    """How often this kernel has killed a process for want of memory (since Linux 4.13; 0 before)."""
    for line in text("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


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


def text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
