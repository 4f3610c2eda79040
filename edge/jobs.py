"""Work that runs in a child process: training and conversions.

A conversion that aborts must not take the tool with it, a flag that Paddle reads at import needs a fresh interpreter, and
the environment of the child is built here, explicitly: nothing of the parent's PYTHONPATH or thread settings leaks in.

The protocol: the parent writes a request file, the child runs ``edge.module:function(**arguments)`` and writes a reply file
(written, then renamed). Progress comes as JSON lines on a pipe of its own, so stdout stays free for chatty tools.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edge import errors
from edge.errors import ConversionFailed, EdgeError, Interrupted
from edge.files import write_atomic

#: Called with (done, total, note) while a job runs.
JobProgress = Callable[[int, int, str], None]

#: Names that a child inherits; all else it gets is stated by the caller.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "EDGE_MNIST", "EDGE_LITE_PYTHON")
_LIVE: set[subprocess.Popen[bytes]] = set()
_LIVE_LOCK = threading.Lock()
#: Set while an interrupt is on its way: a thread between two children must not start the next.
_STOPPING = threading.Event()
#: What tools put around a line, and before it: Paddle's log header (kind, time, thread, file), a date.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HEADER = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ \S+\] |^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?=\[)")
#: Lines around the one that says what is wrong: Paddle's crash report, warnings.
_NOISE = re.compile(
    r"-{4,}$|C\+\+ Traceback|Error Message Summary|FatalError: `|\[(?:TimeInfo|SignalInfo|WARNING|INFO)\b|\d+\s+\w.*[)\]]$|No stack trace"
    r"|.*Warning: |warnings\.warn\(|\[Paddle2ONNX\]$"
)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The explicit environment of a child: a few inherited names, no user site, no module from the working directory (Python 3.11 and newer),
    and what ``extra`` states."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1", **(extra or {})}


def run_child(
    command: Sequence[str | os.PathLike[str]],
    *,
    environment: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Run a command to its end with stdout and stderr in ``log``; the caller blocks, it does not poll.

    Returns:
        The exit status, negative for a signal (`subprocess` convention).

    Raises:
        subprocess.TimeoutExpired: after ``timeout`` seconds; the child is dead by then.
        Interrupted: the user has interrupted; nothing was started.
    """
    if _STOPPING.is_set():
        raise Interrupted("interrupted")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [os.fspath(part) for part in command], env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=pass_fds
        )
        with _LIVE_LOCK:
            _LIVE.add(process)
        try:
            return process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            with _LIVE_LOCK:
                _LIVE.discard(process)


def kill_children() -> None:
    """Kill every running child, and let none start until `side_by_side` has wound down."""
    _STOPPING.set()
    with _LIVE_LOCK:
        for process in _LIVE:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def last_words(log: Path, lines: int = 3) -> str:
    """The last lines a tool printed, for an error message: without colours, dates, blank lines and the crash report behind them."""
    try:
        text = log.read_bytes()[-8000:].decode(errors="replace")
    except OSError:
        return "it printed nothing"
    printed = [line for raw in _COLOUR.sub("", text).replace("\r", "\n").splitlines() if (line := _HEADER.sub("", raw.strip()).strip())]
    kept = [line for line in printed if not _NOISE.match(line)] or printed
    return " | ".join(line[:300] for line in kept[-lines:]) or "it printed nothing"


def cause_of_death(status: int) -> str:
    """``exit status 3`` or ``SIGSEGV``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def run_job(
    target: str,
    arguments: dict[str, Any],
    *,
    flags: Mapping[str, str] | None = None,
    on_progress: JobProgress | None = None,
    timeout: float | None = None,
) -> Any:
    """Run ``edge.module:function`` with JSON arguments in a child of this interpreter and return its JSON result.

    Args:
        flags: environment variables for the child, e.g. ``{"FLAGS_enable_pir_api": "0"}``.

    Raises:
        EdgeError: the error that the job raised, of the same class.
        ConversionFailed: the child died (signal, exit status, timeout); the message ends with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="edge-job.") as folder:
        request, reply, log = (Path(folder, name) for name in ("request.json", "reply.json", "log.txt"))
        request.write_text(json.dumps({"target": target, "arguments": arguments}))
        with _progress_pipe(on_progress) as descriptor:
            command = [sys.executable, "-m", "edge.jobs", str(request), str(reply), str(descriptor)]
            try:
                status = run_child(command, environment=child_environment(flags), log=log, timeout=timeout, pass_fds=(descriptor,))
            except subprocess.TimeoutExpired:
                raise ConversionFailed(f"{target} did not finish within {timeout:g} s") from None
        if not reply.is_file():
            raise ConversionFailed(f"{target} died of {cause_of_death(status)}; its last words: {last_words(log)}")
        answer = json.loads(reply.read_text())
    if "error" in answer:
        raise _error_from(answer["error"])
    return answer["result"]


@contextlib.contextmanager
def side_by_side(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that each wait for one child; an interrupt or error kills the children before it travels on."""
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        kill_children()
        raise
    finally:
        pool.shutdown(wait=True)
        _STOPPING.clear()


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that no orphan goes on working."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


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


def _error_from(answer: dict[str, Any]) -> EdgeError:
    kind = getattr(errors, str(answer.get("class")), ConversionFailed)
    return kind(answer["message"], hint=answer.get("hint")) if issubclass(kind, EdgeError) else ConversionFailed(answer["message"])


def _main(request: str, reply: str, descriptor: str) -> None:
    die_with_parent()
    order = json.loads(Path(request).read_text())
    pipe = os.fdopen(int(descriptor), "w")

    def progress(done: int, total: int, note: str = "") -> None:
        pipe.write(json.dumps([done, total, note]) + "\n")
        pipe.flush()

    module, _, name = order["target"].partition(":")
    try:
        if not module.startswith("edge."):
            raise errors.BadInput(f"{module} is not a module of this tool")
        answer = {"result": getattr(importlib.import_module(module), name)(progress=progress, **order["arguments"])}
    except EdgeError as error:
        answer = {"error": {"class": type(error).__name__, "message": error.message, "hint": error.hint}}
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split()) or "no message"
        answer = {"error": {"class": "ConversionFailed", "message": f"{order['target']}: {type(error).__name__}: {text[-600:]}", "hint": None}}
    write_atomic(Path(reply), json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:4])
