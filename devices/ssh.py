"""A board that is reached over ssh. It needs an sshd and python3, and for a measurement numpy and a runtime: installed there, or sent as wheels.

Nothing stays there but bundles that are deployed: see `edge.devices.board`. The worker runs under a supervisor of its own, so that a link that is
lost costs no measurement; while it runs, both ends wait blocked.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from pydantic import AfterValidator, Field, ValidationError

from edge.artifact import MODEL_NAME
from edge.devices.local import worker_variables
from edge.devices.ssh_link import AGAIN, Address, Link, Refused, printable
from edge.devices.target import Ending, Job
from edge.environments import arch_of
from edge.errors import BadInput, CheckFailed, EdgeError, Interrupted, LinkLost, Unavailable
from edge.files import sha256_of, write_atomic
from edge.vocabulary import Format, Frozen

if TYPE_CHECKING:
    from edge.devices.profile import Profile

#: Seconds for an answer: of a board that has nothing to do; and, of files, the slowest link in bytes per second.
ANSWER, SLOWEST = 60.0, 20_000
#: Seconds for the last answer, when somebody who has pressed Ctrl-C waits for it.
PARTING = 10.0
#: Times the size of a wheel that it may unpack to.
UNPACKS_TO = 50
#: Seconds for the decoding and the self-test of a bundle on a slow board.
INSTALLING = 3600.0
#: What a board says of a bundle that it does not take.
REFUSALS = {
    "install": "the bundle could not be installed",
    "self-test": "the self-test failed",
    "rollback": "nothing was rolled back",
    "bench": "it could not be measured",
    "place": "the folder of the bundles cannot be used",
}
#: What follows, where it is not only that what was current is so still.
NEXT = {
    "bench": "the bundle is installed and current; to measure it, run the same command again",
    "self-test": "what was current is so still; the files that it names are in the bundle, and edge pack --wheels DIR packs the runtime along",
}
Line = Annotated[str, Field(max_length=1000), AfterValidator(printable)]


class Board(Frozen):
    """What a board says of itself; ``there``: digests of the files that it has from a session that was cut off."""

    root: Line
    there: frozenset[Line]
    python: tuple[int, int]
    glibc: Line
    machine: Line
    node: Line
    model: Line
    cpu: Line
    flags: frozenset[Line]


class Installed(Frozen):
    """Where the current version of a bundle lies, which one it has replaced, and what its self-test said."""

    place: Line
    previous: Line | None
    said: tuple[Line, ...]


class Versions(Frozen):
    """Of a bundle, null where there is none."""

    current: Line | None
    previous: Line | None


class Outcome(Frozen):
    """How a job ended: the worker's exit status, null where it was killed by its supervisor or did not start."""

    status: int | None
    timed_out: bool
    out_of_memory: bool
    error: Line | None


class SshTarget:
    """
    Args:
        name: ``ssh:[USER@]HOST[:PORT]``.
        profile: that the board is to be; it gives its name to the results where the board fits it.
        wheels: a folder of wheels for the board, or one that ``pip install --target`` has filled for it.
        python: the interpreter there.
        patience: seconds for which a lost link is waited for.

    Raises:
        BadInput: no such name. Whatever asks the board: Unavailable, and BadInput where its processor is not the profile's.
    """

    emulated = here = False

    def __init__(
        self, name: str, profile: Profile | None = None, *, wheels: Path | None = None, python: str = "python3", patience: float = 60.0
    ) -> None:
        self.name, self._profile, self._wheels = name, profile, wheels
        self._link, self._patience = Link(Address.parse(name), python=python), patience
        self.settings: Mapping[str, Any] = {"wheels": str(wheels)} if wheels else {}
        self._session = f"{_here()} process {os.getpid()}"
        self._pushed: set[str] = set()
        self._begun = False
        #: Name, folder over there and version of the bundle that a request was to make current; and whether the answer came.
        self._asked: tuple[str, str, str] | None = None
        self._switched = False

    @property
    def device(self) -> str:
        """The profile's name where the board is recognised, else its model, or its own name."""
        board, profile = self._board, self._profile
        if profile and (not profile.identity or profile.is_named_in(f"{board.model}\n{board.cpu}")):
            return profile.name
        return board.model or board.node or self._link.host

    @property
    def arch(self) -> str:
        return arch_of(self._board.machine)

    @property
    def flags(self) -> frozenset[str]:
        return self._board.flags

    def lacks(self, format: Format) -> str | None:
        return None

    def push(self, path: Path) -> str:
        return f"{self._board.root}/files/{self._put(path)}/{path.name}"

    def _put(self, path: Path) -> str:
        """Send what is not there yet; its digest names its place."""
        files = [(path.name, path)] if path.is_file() else _files_in(path)
        digest = hashlib.sha256(json.dumps([[name, sha256_of(file)] for name, file in files]).encode()).hexdigest()
        if digest not in self._board.there | self._pushed:
            seconds = ANSWER + sum(file.stat().st_size for _, file in files) / SLOWEST
            self._ask("put", limit=seconds, files=files, digest=digest)
            self._pushed.add(digest)
        return digest

    def run(self, job: Job) -> Ending:
        reply = self._ask(
            "run",
            limit=job.timeout + self._patience + ANSWER,
            into=job.folder,
            id=uuid.uuid4().hex,
            python=self._link.python,
            worker=job.worker,
            spec={**job.spec, "install": f"install it on {self._link.host}, or send the board's wheels along: --wheels DIR"},
            environment={**worker_variables(job), **self._modules},
            timeout=job.timeout,
        )
        outcome = _checked(Outcome, reply)
        if outcome.timed_out:
            raise subprocess.TimeoutExpired(f"the worker on {self._link.host}", job.timeout)
        if outcome.error or outcome.status is None:
            raise CheckFailed(f"the worker did not run on {self._link.host}: {outcome.error or 'it was told to stop'}")
        killed = f"took more memory than {self._link.host} has: the kernel there has killed it"
        return Ending(outcome.status, killed if outcome.out_of_memory else None)

    def install(self, folder: Path, name: str, version: str, into: str) -> Installed:
        """Install a bundle, which has the folder, beside its earlier versions; it becomes the current one when it has proven itself there.

        Args:
            into: folder over there, ``~`` is the home of whoever logs in.

        Raises:
            CheckFailed: it could not be installed, or its self-test failed: the version that was current is so still.
        """
        digest = self._put(folder)
        return self._switch("install", name, into, version, digest=digest, version=version)

    def roll_back(self, name: str, into: str) -> Installed:
        """The previous version of a bundle is the current one again.

        Raises:
            BadInput: this is no name of a bundle. CheckFailed: there is no such bundle, or no previous version, or its self-test fails.
        """
        if not re.fullmatch(MODEL_NAME, name):
            raise BadInput(f"{name!r} is no name of a bundle: letters, digits, dots and dashes", hint="its name is camera in camera.bundle.tar.zst")
        _ = self._board  # begins the session
        found = _checked(Versions, self._ask("versions", limit=ANSWER, name=name, home=into))
        if found.current is None:
            raise CheckFailed(f"{self._link.host}: there is no bundle {name} in {into}", hint=f"look what is: {self._link.address.by_hand} ls {into}")
        if found.previous is None:
            raise CheckFailed(f"{self._link.host}: there is no previous version of {name} in {into}", hint="what was current is so still")
        try:
            return self._switch("roll-back", name, into, found.previous, replaced=found.current, to=found.previous)
        except LinkLost as lost:
            raise LinkLost(lost.message, hint=self._look(name, into)) from None  # what was rolled back would be taken up again by the same command

    def _switch(self, verb: str, name: str, into: str, wanted: str, **details: Any) -> Installed:
        self._asked = name, into, wanted
        found = _checked(Installed, self._ask(verb, limit=INSTALLING, name=name, home=into, python=self._link.python, **details))
        self._switched = True
        return found

    def let_go(self, again: str | None) -> Interrupted:
        """After Ctrl-C: end the session, after which nothing that it has asked for makes another version current, and say which one is.

        Args:
            again: what follows where nothing has changed.
        """
        host, reply = self._link.host, None
        if self._begun:
            self._begun = False  # in one attempt
            place: dict[str, Any] = dict(zip(("name", "home"), self._asked or (), strict=False))
            with contextlib.suppress(EdgeError):
                reply = self._ask("leave", limit=PARTING, patience=0, **place)
        if self._asked is None:
            return Interrupted(f"interrupted; what was current on {host} is so still", hint=again)
        name, into, version = self._asked
        if reply is None and not self._switched:
            return Interrupted(f"interrupted, and {host} does not say whether {name} {version} is current", hint=self._look(name, into))
        current = version if self._switched else _checked(Versions, reply or {}).current
        if current == version:
            return Interrupted(f"interrupted, but {name} {version} is proven and current already on {host}")
        return Interrupted(f"interrupted; what was current on {host} is so still: {current or 'nothing'}", hint=again)

    def _look(self, name: str, into: str) -> str:
        return f"look what is current, before anything else: {self._link.address.by_hand} readlink {into}/{name}/current"

    def bench(self, name: str, into: str, out: Path) -> None:
        """Measure with the current version of a bundle, and write ``out``, which `edge.bench.results.read_results` takes.

        Raises:
            CheckFailed: it could not be measured.
        """
        with tempfile.TemporaryDirectory(prefix="edge-bench.") as scratch:
            self._ask("bench", limit=INSTALLING, id=uuid.uuid4().hex, name=name, home=into, python=self._link.python, into=Path(scratch))
            (written,) = Path(scratch).iterdir()
            write_atomic(out, written.read_bytes())

    def close(self) -> None:
        """Clean up over there, in one attempt: where the link is gone, the next session does it."""
        if self._begun:
            with contextlib.suppress(EdgeError):
                self._ask("leave", limit=ANSWER, patience=0)
        for known in ("_board", "_modules"):
            self.__dict__.pop(known, None)
        self._begun = False
        self._pushed.clear()
        self._link.close()
        atexit.unregister(self.close)

    @cached_property
    def _board(self) -> Board:
        atexit.register(self.close)
        board = self._begin(None)
        arch, profile = arch_of(board.machine), self._profile
        if profile and profile.arch != arch:
            hint = "name the profile of that board, or leave the profile out"
            raise BadInput(f"{self._link.host} is {arch} ({board.machine}), and {profile.name} is {profile.arch.value}", hint=hint)
        return board

    def _begin(self, evict: str | None) -> Board:
        """Begin a session. One of a process of this machine that is gone is ended by it."""
        try:
            reply = self._ask("begin", limit=ANSWER, evict=evict)
        except _Busy as busy:
            if evict is None and _was_ours(busy.owner):
                return self._begin(busy.owner)
            hint = "wait for its end; one that was cut off counts as ended after ten minutes"
            raise Unavailable(f"{self._link.host} is in use: {busy.owner}", hint=hint) from None
        self._begun = True
        return _checked(Board, reply)

    @cached_property
    def _modules(self) -> dict[str, str]:
        """Where the board's Python finds what was sent along."""
        if self._wheels is None:
            return {}
        with tempfile.TemporaryDirectory(prefix="edge-wheels.") as scratch:
            return {"PYTHONPATH": self.push(unpacked(self._wheels.resolve(), Path(scratch, "wheels"), self._board))}

    def _ask(
        self,
        verb: str,
        *,
        limit: float,
        files: Sequence[tuple[str, Path]] = (),
        into: Path | None = None,
        patience: float | None = None,
        **details: Any,
    ) -> dict[str, Any]:
        """A request of `edge.devices.board`, and its refusals put into words."""
        request, host = {"verb": verb, "session": self._session, **details}, self._link.host
        try:
            return self._link.ask(request, files=files, into=into, limit=limit, patience=self._patience if patience is None else patience)
        except Refused as refused:
            if refused.kind == "busy":
                raise _Busy(refused.detail) from None
            if refused.kind == "full":
                size = sum(file.stat().st_size for _, file in files)
                hint = f"free some space there: {self._link.address.by_hand} df -h ."
                raise Unavailable(f"{host} has no room for {size / (1 << 20):.1f} MiB: {refused.detail}", hint=hint) from None
            if refused.kind in REFUSALS:
                raise CheckFailed(
                    f"{host}: {REFUSALS[refused.kind]}: {refused.detail}", hint=NEXT.get(refused.kind, "what was current is so still")
                ) from None
            if refused.kind == "gone":
                taken = f"was taken over by {refused.detail}" if refused.detail else "was cleaned up by another run"
                raise LinkLost(f"{host} {taken}", hint=AGAIN) from None
            raise CheckFailed(f"{host} went down while it measured, or the worker's supervisor was killed there") from None


class _Busy(Exception):
    """Another session has the board."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def unpacked(wheels: Path, folder: Path, board: Board) -> Path:
    """The modules of a folder of wheels, unpacked into ``folder``; a folder without wheels as it is.

    Raises:
        BadInput: no such folder, an empty one, or a wheel that is damaged or not for the board.
    """
    if not wheels.is_dir():
        raise BadInput(f"{wheels}: no such folder")
    if not any(wheels.iterdir()):
        raise BadInput(f"{wheels}: the folder is empty", hint="fill it, e.g.: pip download --dest DIR onnxruntime")
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        _check_wheel(wheel, board)
        try:
            with zipfile.ZipFile(wheel) as archive:
                if sum(info.file_size for info in archive.infolist()) > UNPACKS_TO * wheel.stat().st_size:
                    raise BadInput(f"{wheel}: unpacks to more than {UNPACKS_TO} times its size")
                archive.extractall(folder)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, OSError) as error:
            raise BadInput(f"{wheel}: cannot be unpacked: {error}") from error
    for library in [*folder.glob("*.data/purelib"), *folder.glob("*.data/platlib")]:
        shutil.copytree(library, folder, dirs_exist_ok=True)
    return folder if found else wheels


def _check_wheel(wheel: Path, board: Board) -> None:
    """By its name, as pip does (PEP 425, PEP 600)."""
    machine, glibc = board.machine, re.match(r"2\.(\d{1,3})\b", board.glibc)
    libc = [f"manylinux_2_{n}" for n in range(5, int(glibc[1]) + 1)] + ["manylinux2014"] if glibc else ["musllinux_1_1", "musllinux_1_2"]
    platforms = [f"{name}_{machine}" for name in [*libc, "linux"]]
    fitting = {*cpython_tags(board.python, platforms=platforms), *compatible_tags(board.python, f"cp{board.python[0]}{board.python[1]}", platforms)}
    try:
        tags = parse_wheel_filename(wheel.name)[3]
    except InvalidWheelFilename as error:
        raise BadInput(f"{wheel}: not the name of a wheel: {error}") from error
    if not tags & fitting:
        version = ".".join(map(str, board.python))
        hint = f"pip download --only-binary=:all: --python-version {version} --platform manylinux_2_28_{machine} NAME"
        raise BadInput(f"{wheel.name} is not for {board.node}: Python {version} on {machine}, glibc {board.glibc or 'none'}", hint=hint)


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    """(name from the folder's own on, file), in the order of the names."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parent.parts)
    return [(f"{folder.name}/{path.relative_to(folder).as_posix()}", path) for path in found]


def _was_ours(session: str) -> bool:
    """Whether this is a session of a process of this user and machine that is gone."""
    here, _, pid = session.partition(" process ")
    if here != _here() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, ValueError):
        return False
    return False


def _here() -> str:
    return f"{getpass.getuser()}@{platform.node()}"


Read = TypeVar("Read", bound=Frozen)


def _checked(model: type[Read], reply: dict[str, Any]) -> Read:
    try:
        return model.model_validate(reply)
    except ValidationError as error:
        raise CheckFailed(f"the board's reply cannot be read: {' '.join(str(error).split())[:200]}") from None
