"""The versions of a bundle: each proves itself in a folder of its own, and only then is the one that ``current`` names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from typing import IO, Any, Dict, Iterator, List, Optional

from edge.devices.board.state import FILES, OWNER, ROOT, Refused, Reply, Request, check_owner, guard, held, interpreter, read, write


def versions(request: Request, source: IO[bytes]) -> Reply:
    """Which versions of a bundle are the current and the previous one."""
    check_owner(request)
    return versions_of(request), []


def versions_of(request: Request) -> Dict[str, Optional[str]]:
    base = place_of(request)
    return {"current": linked(base, "current"), "previous": previous_of(base)}


def install(request: Request, source: IO[bytes]) -> Reply:
    """A bundle that was put here becomes a version of its own, proves itself there, and only then is the one that ``current`` names.

    It gets its name when it is proven; one that is there already is proven again, and replaced where it fails.
    """
    base, name = place_of(request), request["version"]
    with held_by(request, base):
        version = os.path.join(base, "versions", name)
        proof = proven(request, version) or renewed(request, version)
        was = linked(base, "current")
        switch(request, base, name, None if was == name else was)
        remarks = ["%s could not be removed: remove it by hand" % path for path in forget_others(base)]
        return {"place": os.path.join(base, "current"), "previous": linked(base, "previous"), "said": [*proof, *remarks]}, []


def roll_back(request: Request, source: IO[bytes]) -> Reply:
    """The version ``to`` is the current one again, in the place of ``replaced``, where it still proves itself. It may be asked for twice."""
    base, to = place_of(request), request["to"]
    with held_by(request, base):
        if linked(base, "current") not in (request["replaced"], to):
            raise Refused("rollback", "another version has become the current one meanwhile")
        proof = said(request, "self-test", [], os.path.join(base, "versions", to))
        switch(request, base, to, request["replaced"])
        return {"place": os.path.join(base, "current"), "previous": request["replaced"], "said": proof}, []


def bench(request: Request, source: IO[bytes]) -> Reply:
    """What the current version of a bundle measures here; asked for again, after a lost link, it is what was measured before."""
    base, path = place_of(request), os.path.join(ROOT, "bench-%s.json" % request["id"])
    with held_by(request, base):
        if not os.path.exists(path):
            said(request, "bench", ["--out", path], os.path.join(base, "current"))
        return {}, [path]


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


def at_work(owner: Dict[str, Any]) -> bool:
    """Whether a request of a session has the place of a bundle."""
    return os.path.exists(owner.get("lock", "")) and held(owner["lock"])


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


def linked(base: str, name: str) -> Optional[str]:
    """The version that a link names, None where there is none."""
    try:
        return os.path.basename(os.readlink(os.path.join(base, name)))
    except OSError:
        return None


def switch(request: Request, base: str, to: str, replaced: Optional[str]) -> None:
    """Make a version the current one, unless whoever asked is gone by now. A session does not end half-way through it: see `session.leave`."""
    with guard():
        check_owner(request)
        if replaced is not None:
            link(base, "previous", replaced)
        link(base, "current", to)


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
