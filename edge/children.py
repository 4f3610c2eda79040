"""Child processes: started with an environment that is built here, killed with their parent, and their death put into words."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge.errors import Interrupted

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
    """The explicit environment of a child: a few inherited names, no user site, no module from the working directory (Python 3.11 and newer), no
    reports of onnxruntime to its maker, and what ``extra`` states."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1", "ORT_DISABLE_TELEMETRY": "1", **(extra or {})}


@contextlib.contextmanager
def running(
    command: Sequence[str | os.PathLike[str]], *, environment: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A child with stdout and stderr in ``log``; it is dead when the block ends.

    Raises:
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
        yield process
    finally:
        process.kill()
        process.wait()
        with _LIVE_LOCK:
            _LIVE.discard(process)


def run_child(
    command: Sequence[str | os.PathLike[str]],
    *,
    environment: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
) -> int:
    """Run a command to its end with stdout and stderr in ``log``; the caller blocks, it does not poll.

    Returns:
        The exit status, negative for a signal (`subprocess` convention).

    Raises:
        subprocess.TimeoutExpired: after ``timeout`` seconds; the child is dead by then.
        Interrupted: the user has interrupted; nothing was started.
    """
    with running(command, environment=environment, log=log) as process:
        return wait(process, timeout)


def wait(process: subprocess.Popen[bytes], timeout: float | None) -> int:
    """Block until the process ends. `subprocess` itself looks 20 times a second when it is given a timeout, which disturbs what the child measures
    and finds its end 25 ms late; Linux has a descriptor to wait on (pidfd_open(2), since 5.3)."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        return process.wait(timeout)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        if not ended.poll(None if timeout is None else 1e3 * timeout):
            raise subprocess.TimeoutExpired(process.args, timeout or 0)
    finally:
        os.close(descriptor)
    return process.wait()


def kill_children() -> None:
    """Kill every running child, and let none start until `side_by_side` has wound down."""
    _STOPPING.set()
    with _LIVE_LOCK:
        for process in _LIVE:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def interrupted() -> bool:
    """Whether the children were killed because the user has interrupted, or something else has failed."""
    return _STOPPING.is_set()


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
