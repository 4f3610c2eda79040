"""Work that runs in a child process: training and conversions.

A conversion that aborts must not take the tool with it, a flag that Paddle reads at import needs a fresh interpreter, and
the environment of the child is built, explicitly: nothing of the parent's PYTHONPATH or thread settings leaks in.

The protocol: the parent writes a request file, the child runs ``edge.module:function(**arguments)`` and writes a reply file
(written, then renamed). Progress comes as JSON lines on a pipe of its own, so stdout stays free for chatty tools. Importing
Paddle takes about two seconds, a fork ten milliseconds: a server (`edge.job_server`) imports once and forks for every job.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge import errors
from edge.children import cause_of_death, child_environment, last_words, running
from edge.errors import ConversionFailed, EdgeError

#: Called with (done, total, note) while a job runs.
JobProgress = Callable[[int, int, str], None]


def run_job(
    target: str,
    arguments: dict[str, Any],
    *,
    flags: Mapping[str, str] | None = None,
    on_progress: JobProgress | None = None,
    timeout: float | None = None,
    servers: WarmServers | None = None,
) -> Any:
    """Run ``edge.module:function`` with JSON arguments in a process of its own and return its JSON result.

    Args:
        flags: environment variables for the child, e.g. ``{"FLAGS_enable_pir_api": "0"}``.
        servers: where the child is forked; without them it starts cold.

    Raises:
        EdgeError: the error that the job raised, of the same class.
        ConversionFailed: the child died (signal, exit status, timeout); the message ends with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="edge-job.") as folder:
        request, reply, log = (Path(folder, name) for name in ("request.json", "reply.json", "log.txt"))
        request.write_text(json.dumps({"target": target, "arguments": arguments, "reply": str(reply)}))
        with _progress_pipe(on_progress) as descriptor, log.open("wb") as output, contextlib.ExitStack() as stack:
            server = servers.of(flags or {}) if servers else _Server(stack, flags or {}, ())
            try:
                status = server.run(request, output.fileno(), descriptor, timeout)
            except TimeoutError:
                raise ConversionFailed(f"{target} did not finish within {timeout:g} s") from None
            if not reply.is_file():
                words = last_words(log if log.stat().st_size else server.log)
                raise ConversionFailed(f"{target} died of {cause_of_death(status)}; its last words: {words}")
        answer = json.loads(reply.read_text())
    if "error" in answer:
        raise _error_from(answer["error"])
    return answer["result"]


class WarmServers:
    """Servers that have imported Paddle, one for each set of flags, for jobs that follow each other; a context manager.

    Args:
        flags: sets of flags whose servers start at once, side by side.
    """

    def __init__(self, *flags: Mapping[str, str]) -> None:
        self.stack, self.lock = contextlib.ExitStack(), threading.Lock()
        self.servers: dict[frozenset[tuple[str, str]], _Server] = {}
        self.flags = flags

    def __enter__(self) -> WarmServers:
        with self.stack:
            for flags in self.flags:
                self.of(flags)
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def of(self, flags: Mapping[str, str]) -> _Server:
        """The server for these flags; a new one where there is none, or it has died."""
        with self.lock:
            key = frozenset(flags.items())
            server = self.servers.get(key)
            if server is None or not server.alive:
                server = self.servers[key] = _Server(self.stack, flags, ("paddle",))
            return server


class _Server:
    """Parent's side of one `edge.job_server`; closed by ``stack``."""

    def __init__(self, stack: contextlib.ExitStack, flags: Mapping[str, str], imports: tuple[str, ...]) -> None:
        self.log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-server.")), "log.txt")
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(self.control)
        with theirs:
            command = [sys.executable, "-m", "edge.job_server", str(theirs.fileno()), *imports]
            self.process = stack.enter_context(running(command, environment=child_environment(flags), log=self.log, pass_fds=(theirs.fileno(),)))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def run(self, request: Path, log: int, progress: int, timeout: float | None) -> int:
        """Fork a child for the request, wait for its end and return its status, negative for a signal; the server's own where that dies first.

        Raises:
            TimeoutError: after ``timeout`` seconds; the child is dead by then.
        """
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answers:
            with theirs, contextlib.suppress(BrokenPipeError):
                socket.send_fds(self.control, [os.fsencode(request)], [theirs.fileno(), log, progress])
            child = 0
            try:
                child = int(answers.recv(32) or 0)
                answers.settimeout(timeout)  # of the job: a server that is still importing is not its fault
                status = answers.recv(32) if child else b""
                if status:
                    return int(status)
                self.process.kill()  # its watcher died, or it has itself: a server that cannot say how a job ended serves no more
                return self.process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child or self.process.pid, signal.SIGKILL)
                raise


def _error_from(answer: dict[str, Any]) -> EdgeError:
    kind = getattr(errors, str(answer.get("class")), ConversionFailed)
    return kind(answer["message"], hint=answer.get("hint")) if issubclass(kind, EdgeError) else ConversionFailed(answer["message"])


@contextlib.contextmanager
def _progress_pipe(on_progress: JobProgress | None) -> Iterator[int]:
    """The write end of a pipe whose JSON lines a thread hands to ``on_progress``."""
    reader, writer = os.pipe()

    def listen() -> None:
        with os.fdopen(reader, "r", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, TypeError):
                    done, total, note = json.loads(line)
                    if on_progress:
                        on_progress(int(done), int(total), str(note))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join()
