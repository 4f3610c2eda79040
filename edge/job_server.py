"""A process that imports once and forks for every job: the child's side of `edge.jobs`.

python -m edge.job_server SOCKET [MODULE ...]

A message on the socket is the path of a request file, with three descriptors: a socket for the answers, the log, the pipe for
progress. The answers are the child's process number, and its exit status.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from edge import errors
from edge.children import die_with_parent
from edge.errors import EdgeError
from edge.files import write_atomic


def serve(control: socket.socket) -> None:
    """Fork for every message, until the parent has closed its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides who dies of it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are not waited for
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 4096, 3)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _watch(Path(os.fsdecode(request)), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(request: Path, answers: int, log: int, progress: int) -> NoReturn:
    """Fork the job itself, and say how it ended: the server must be free for the next one."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(answers)
        _work(request, log, progress)
    os.close(progress)
    with socket.socket(fileno=answers) as parent, contextlib.suppress(BrokenPipeError):
        parent.send(str(child).encode())
        parent.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def _work(request: Path, log: int, progress: int) -> NoReturn:
    die_with_parent()
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        _answer(json.loads(request.read_text()), progress)
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _answer(order: dict[str, Any], descriptor: int) -> None:
    """Run the function that is asked for and write the reply file: its result, or its error."""
    pipe = os.fdopen(descriptor, "w")

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
        answer = {"error": _unforeseen(order["target"], error)}
    write_atomic(Path(order["reply"]), json.dumps(answer))


def _unforeseen(target: str, error: Exception) -> dict[str, str | None]:
    """An error that no code has named; a full disk is nobody's fault."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "free some space and run the same command again"
        return {"class": "ConversionFailed", "message": f"{error.filename or 'a file'}: {error.strerror}", "hint": hint}
    text = " ".join(str(error).split()) or "no message"
    return {"class": "ConversionFailed", "message": f"{target}: {type(error).__name__}: {text[-600:]}", "hint": None}


if __name__ == "__main__":
    for module in sys.argv[2:]:
        with contextlib.suppress(Exception):  # a job that needs it says what is wrong
            importlib.import_module(module)
    serve(socket.socket(fileno=int(sys.argv[1])))
