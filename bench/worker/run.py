"""Reads the spec, runs its task, writes the result. A failure is a result too, with the reason."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
import traceback

from edge_worker import SCHEMA_VERSION
from edge_worker.machine import describe_machine
from edge_worker.tasks import TASKS, BadOutput, Unavailable, UnsupportedPrecision


def main(arguments: list[str]) -> int:
    """Exit status 0 when a result was written (also a failed one), 2 on wrong usage."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python worker SPEC.json RESULT.json\n")
        return 2
    die_with_parent()
    with open(arguments[0]) as file:
        spec = json.load(file)
    if spec.get("schema_version") != SCHEMA_VERSION or spec.get("task") not in TASKS:
        sys.stderr.write("worker: unknown schema version or task in %s\n" % arguments[0])
        return 2
    result = {"schema_version": SCHEMA_VERSION, "task": spec["task"], "status": "ok", "error": None, "figures": {}}
    began = time.perf_counter()
    try:
        if spec.get("affinity"):
            _bind(spec["affinity"])
        result["figures"] = TASKS[spec["task"]](spec)
    except (BadOutput, Unavailable, UnsupportedPrecision) as error:
        result.update(status="failed", error="%s: %s" % (type(error).__name__, error))
    except MemoryError:
        result.update(status="failed", error="MemoryError: out of memory")
    except Exception as error:
        traceback.print_exc()
        result.update(status="failed", error="%s: %s" % (type(error).__name__, " ".join(str(error).split())[-600:]))
    result["seconds"] = time.perf_counter() - began
    result["environment"] = describe_machine(spec["threads"])
    write_result(arguments[1], result)
    return 0


def _bind(cpus: list) -> None:
    """Run on these CPUs only."""
    try:
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError, OverflowError) as error:
        raise Unavailable("cannot run on the CPUs %s: %s" % (", ".join(map(str, cpus)), error)) from error


def write_result(path: str, result: dict) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    handle, name = tempfile.mkstemp(dir=folder, prefix=".result.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(result, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def die_with_parent() -> None:
    """On Linux: be killed when the process that started this one dies."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
