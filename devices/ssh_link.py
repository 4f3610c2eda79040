"""Requests to a board through the system's OpenSSH client: the user's own configuration, agent and known hosts count.

One connection is shared by all requests (ControlMaster), so that a request costs no login. A lost connection is made again, and the request is
sent again: every request of `edge.devices.board` may be repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter

from edge.children import last_words
from edge.devices.board.serve import MARK
from edge.devices.board.state import receive
from edge.errors import BadInput, CheckFailed, LinkLost, Unavailable

#: What runs over there, each after those that it imports.
BOARD = tuple(f"edge.devices.board.{name}" for name in ("state", "jobs", "bundles", "session", "serve"))
#: Runs what follows on stdin; a Python that is too old for it is found out first.
BOOT = "import sys;sys.version_info>=(3,8)or sys.exit('too old: %d.%d'%sys.version_info[:2]);exec(sys.stdin.buffer.read(int(sys.argv[1])))"
#: A dead link is noticed within three seconds. Nothing is asked, no key is taken unseen, and nothing of the user's own set-up is started over there.
OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "1",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "60",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}
ADDRESS = re.compile(r"ssh:(?:(?P<user>\w[\w.-]*)@)?(?P<host>\w[\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>\d{1,5}))?", re.ASCII)
#: What comes from a board has plain names, and is not larger than this, all in all, in bytes.
PlainName = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}$")]
FILES = TypeAdapter(Annotated[list[tuple[PlainName, Annotated[int, Field(strict=True, ge=0)]]], Field(max_length=1000)])
MAX_PULL, MAX_HEADER, MAX_NOISE, MAX_DETAIL = 1 << 30, 1 << 20, 1 << 16, 1000
AGAIN = "run the same command again to go on: what was measured is kept"
#: Longest pause between two attempts to connect, in seconds.
LONGEST_PAUSE = 8.0


@dataclass(frozen=True)
class Address:
    """``ssh:[USER@]HOST[:PORT]``; a host may be a name of the user's ssh configuration."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, name: str) -> Address:
        """
        Raises:
            BadInput: it is no such name.
        """
        found = ADDRESS.fullmatch(name)
        if not found or not 0 < int(found["port"] or 22) < 65536:
            raise BadInput(f"{name!r} names no board", hint="name it like ssh:pi@raspberrypi or ssh:pi@192.168.1.20:2222")
        return cls(found["host"].strip("[]"), found["user"], int(found["port"]) if found["port"] else None)

    @property
    def arguments(self) -> list[str]:
        return [*(["-p", str(self.port)] if self.port else []), "--", f"{self.user}@{self.host}" if self.user else self.host]

    @property
    def by_hand(self) -> str:
        """The command by which a user logs in, for a hint."""
        return shlex.join(["ssh", *(part for part in self.arguments if part != "--")])


class Broken(Exception):
    """A request was not answered. Attributes: was_up: the board was there when it was asked."""

    def __init__(self, said: str, *, was_up: bool) -> None:
        super().__init__(said)
        self.was_up = was_up


class Refused(Exception):
    """The board does not serve a request, for a reason of `edge.devices.board`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


class Link:
    """Requests to one board.

    Args:
        python: the interpreter there.

    Attributes:
        known: the board has answered once.
    """

    def __init__(self, address: Address, *, python: str) -> None:
        self.address, self.host, self.python = address, address.host, python
        self.known = False
        self._folder: Path | None = None

    def ask(
        self, request: Mapping[str, Any], *, files: Sequence[tuple[str, Path]], into: Path | None, limit: float, patience: float
    ) -> dict[str, Any]:
        """The board's reply.

        Args:
            files: sent along, (name there, file here). into: for the files that come back.
            limit: seconds for an answer, all attempts together. patience: seconds for which a lost link is waited for.

        Raises:
            Unavailable: the board cannot be reached, or has no Python that serves.
            LinkLost: it was there, and stays away.
            Refused: by the board.
        """
        sent = {**request, "files": [[name, path.stat().st_size] for name, path in files]}
        paths, pause, lost_at = [path for _, path in files], 0.5, time.monotonic()
        deadline = lost_at + limit
        while True:
            try:
                return self._exchange(sent, paths, into, deadline - time.monotonic())
            except Broken as broken:
                now = time.monotonic()
                if broken.was_up:
                    lost_at, pause = now, 0.5
                if not self.known:
                    hint = f"is it on, and does it run an sshd? try: {self.address.by_hand}"
                    raise Unavailable(f"{self.host} cannot be reached: {broken}", hint=hint) from None
                if now + pause > min(deadline, lost_at + patience):
                    what = f"the link to {self.host} was lost and did not come back within {patience:g} s"
                    raise LinkLost(what if now < deadline else f"{self.host} has not answered within {limit:g} s", hint=AGAIN) from None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(self._ssh("-O", "exit", *self.address.arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def _exchange(self, request: dict[str, Any], paths: list[Path], into: Path | None, limit: float) -> dict[str, Any]:
        """One attempt."""
        program = board_program()
        with tempfile.NamedTemporaryFile(prefix="edge-ssh.") as log, self._calling(len(program), log, limit) as process:
            assert process.stdin and process.stdout  # noqa: S101
            up = False
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin as sink:
                    sink.write(program + json.dumps(request).encode() + b"\n")
                    for path in paths:
                        with path.open("rb") as file:
                            shutil.copyfileobj(file, sink)
                up = _skip_to_mark(process.stdout)
                if up:
                    self.known = True
                    return _read_reply(process.stdout, into)
            except EOFError:
                pass
            process.stdout.close()
            status = process.wait()
            said = last_words(Path(log.name), 1)
            if up and 0 < status < 128:  # above that a signal has ended it, or the link
                raise CheckFailed(f"the program on {self.host} that serves this tool has failed: {said}")
            if not up:
                self._refuse(status, Path(log.name).read_text(errors="replace"), said)
            raise Broken(said, was_up=up)

    @contextlib.contextmanager
    def _calling(self, size: int, log: IO[bytes], limit: float) -> Iterator[subprocess.Popen[bytes]]:
        """The ssh client with the board's Python at its other end; it is dead when the block ends, or after ``limit`` seconds."""
        command = shlex.join([self.python, "-c", BOOT, str(size)])
        process = subprocess.Popen(
            self._ssh(*self.address.arguments, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for this process: the link is needed to clean up
        )
        timer = threading.Timer(max(limit, 0), process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream and stream.close()

    def _ssh(self, *arguments: str) -> list[str]:
        client = shutil.which("ssh")
        if client is None:
            raise Unavailable("there is no ssh client on this machine", hint="install it: sudo apt install openssh-client")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="edge-ssh."))
        config = os.environ.get("EDGE_SSH_CONFIG")
        options = [part for name, value in {**OPTIONS, "ControlPath": f"{self._folder}/link"}.items() for part in ("-o", f"{name}={value}")]
        return [client, *(["-F", config] if config else []), "-T", "-a", "-x", *options, *arguments]

    def _refuse(self, status: int, log: str, said: str) -> None:
        """Say what time will not mend.

        Raises:
            Unavailable: what it is, and what to do about it; LinkLost where the board was there before.
        """
        host, by_hand, kind = self.host, self.address.by_hand, LinkLost if self.known else Unavailable
        if "HOST IDENTIFICATION HAS CHANGED" in log:
            found = re.search(r"Offending .*key in (.+):(\d+)", log)
            where = f" in {found[1]} line {found[2]}" if found else ""
            raise kind(
                f"{host} shows another host key than the one known{where}: it was set up anew, or it is not {host}",
                hint=f"where you know that it was set up anew, remove that line, then: {by_hand}",
            )
        if "Host key verification failed" in log or "host key is known" in log:
            raise kind(f"the host key of {host} is not known", hint=f"run once, compare the key it shows with the board's, and accept it: {by_hand}")
        if status == 255 and "Permission denied" in log:
            copy = by_hand.replace("ssh", "ssh-copy-id", 1)
            raise kind(f"{host} refuses the login: {said}", hint=f"a login by key, without a question, is needed: {copy}")
        if old := re.search(r"^too old: (\d+\.\d+)", log, re.MULTILINE):
            raise kind(f"{self.python} on {host} is Python {old[1]}: 3.8 or newer is needed", hint="install a newer python3 there")
        if status in (126, 127):
            raise kind(f"{host} has no {self.python}: {said}", hint=f"install it there, e.g.: {by_hand} sudo apt install python3")
        if status != 255 and status >= 0:
            raise kind(f"{self.python} does not run on {host}: {said}", hint=f"try: {by_hand} {self.python} --version")


def board_program() -> bytes:
    """The modules of the far side as one program: they cannot be imported there, as they come on stdin and are never written."""
    texts = [(name, Path(__file__).parent.joinpath("board", f"{name.rpartition('.')[2]}.py").read_text()) for name in BOARD]
    return f"""import sys, types
for name, text in {texts!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
module.main()
""".encode()


def printable(text: str) -> str:
    """What a board says, without what would steer the terminal."""
    return "".join(filter(str.isprintable, text))


def _skip_to_mark(stream: IO[bytes]) -> bool:
    """Read what a login shell prints, up to the mark; whether it came."""
    seen = bytearray()
    while not seen.endswith(MARK):
        byte = stream.read(1)
        if not byte or len(seen) > MAX_NOISE:
            return False
        seen += byte
    return True


def _read_reply(stream: IO[bytes], into: Path | None) -> dict[str, Any]:
    """The reply, with its files in ``into``.

    Raises:
        EOFError: the link was cut.
        CheckFailed: it is no reply, or its files have no plain names, or are too many or too large.
        Refused: it is a refusal.
    """
    line = stream.readline(MAX_HEADER)
    if not line.endswith(b"\n") and len(line) < MAX_HEADER:
        raise EOFError
    try:
        reply: dict[str, Any] = json.loads(line)
        files = FILES.validate_python(reply.pop("files"))
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise CheckFailed(f"the board's reply cannot be read: {' '.join(str(error).split())[:200]}") from None
    if "refused" in reply:
        raise Refused(str(reply["refused"]), printable(str(reply.get("detail") or ""))[:MAX_DETAIL])
    if sum(size for _, size in files) > MAX_PULL:
        raise CheckFailed(f"the board sends more than {MAX_PULL >> 20} MiB")
    for name, size in files if into else []:
        with Path(into or "", name).open("wb") as file:
            receive(stream, file, size)
    return reply
