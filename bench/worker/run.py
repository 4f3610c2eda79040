"""Reads the spec, runs its task, writes the result. A failure is a result too, with the reason."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback

from edge_worker import SCHEMA_VERSION
from edge_worker.failures import BadOutput, Unavailable, UnsupportedPrecision
from edge_worker.machine import describe_machine

#: Package of a format's runtime.
PACKAGES = {"onnx": "onnxruntime", "paddle-inference": "paddlepaddle", "paddle-lite": "paddlelite"}

#: What onnxruntime, Paddle and C++ itself say when they are refused memory.
REFUSED = ("Failed to allocate memory", "Fail to alloc memory", "std::bad_alloc")


def main(arguments: list[str]) -> int:
    """Exit status 0 when a result was written (also a failed one), 2 on wrong usage."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python worker SPEC.json RESULT.json\n")
        return 2
    die_with_parent()
    with open(arguments[0]) as file:
        spec = json.load(file)
    result_file = os.path.abspath(arguments[1])
    os.chdir(os.path.dirname(result_file))  # relative paths of the spec lie there, and what a runtime drops
    if spec.get("schema_version") != SCHEMA_VERSION:
        return refuse("schema version", arguments[0])
    result = {"schema_version": SCHEMA_VERSION, "task": spec.get("task"), "status": "ok", "error": None, "figures": {}}
    began = time.perf_counter()
    try:
        from edge_worker.tasks import TASKS  # here, since it imports numpy, which a bare board does not have

        if spec.get("task") not in TASKS:
            return refuse("task", arguments[0])
        if spec.get("affinity"):
            _bind(spec["affinity"])
        result["figures"] = TASKS[spec["task"]](spec)
    except (BadOutput, Unavailable, UnsupportedPrecision) as error:
        result.update(status="failed", error="%s: %s" % (type(error).__name__, error))
    except ImportError as error:
        traceback.print_exc()
        result.update(status="failed", error="Unavailable: " + _missing(spec, error))
    except MemoryError:
        result.update(status="failed", error="MemoryError: out of memory")
    except Exception as error:
        traceback.print_exc()
        kind = "MemoryError" if any(words in str(error) for words in REFUSED) else type(error).__name__
        result.update(status="failed", error="%s: %s" % (kind, " ".join(str(error).split())[-600:]))
    result["seconds"] = time.perf_counter() - began
    result["environment"] = describe_machine(spec["threads"])
    write_result(result_file, result)
    return 0


def refuse(what: str, spec_file: str) -> int:
    sys.stderr.write("worker: unknown %s in %s\n" % (what, spec_file))
    return 2


def _missing(spec: dict, error: ImportError) -> str:
    package = "numpy" if error.name == "numpy" else PACKAGES.get(spec.get("format"), "a module")
    return "%s is not on %s: %s (%s)" % (package, platform.node(), " ".join(str(error).split())[-300:], spec.get("install", "run: make setup"))


def _bind(cpus: list) -> None:
    """Run on these CPUs only."""
    try:
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError, OverflowError) as error:
        raise Unavailable("cannot run on the CPUs %s: %s" % (", ".join(map(str, cpus)), error)) from error


def write_result(path: str, result: dict) -> None:
    folder = os.path.dirname(path)
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
