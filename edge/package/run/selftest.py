"""``self-test``: is this the bundle that was packed, is this the device that it is for, and does the model say here what it said on the desk?

It writes nothing. Each check that fails is a sentence; what could kill a process is looked at before anything is loaded, and models run in a process
of their own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import machine
from .bundle import ROOT, damage, sums

#: Seconds for the samples of one artifact; a small board, or one that is emulated, is slow.
PATIENCE = 1800
#: Called with (what was checked, None or what is wrong).
Say = Callable[[str, Optional[str]], None]


def self_test(manifest: Dict[str, Any], artifacts: List[Dict[str, Any]], say: Say) -> bool:
    """Whether everything is as it should be."""
    if not _said(say, "checksums of %d files" % len(sums()), damage()):
        return False
    if not _said(say, "processor", machine.misfits(manifest, artifacts)):
        return False
    machine.use_site()  # not before its checksums are right: it may stand for modules of Python's own
    passed = True
    for artifact in artifacts:
        if not _said(say, "packages for %s" % artifact["name"], machine.missing_packages(artifact)):
            passed = False
            continue
        problem, detail = outputs_of(artifact["name"])
        say("outputs of %s%s" % (artifact["name"], detail), problem)
        passed = passed and problem is None
    return passed


def _said(say: Say, what: str, problems: Iterator[str]) -> bool:
    found = list(problems)
    for problem in found:
        say(what, problem)
    if not found:
        say(what, None)
    return not found


def outputs_of(name: str) -> Tuple[Optional[str], str]:
    """(None or what is wrong with the outputs of the samples, how near they are)."""
    command = [sys.executable, "-B", "-m", "run.child", name]
    try:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return "did not finish within %d s" % PATIENCE, ""
    if done.returncode < 0:
        return _killed(-done.returncode), ""
    try:
        found = json.loads(done.stdout)
    except ValueError:
        said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        return "its process ended with status %d: %s" % (done.returncode, said), ""
    if found["problem"]:
        return found["problem"], ""
    classes = "" if found["agreement"] is None else ", %g %% equal classes" % found["agreement"]
    return None, ": %d samples, at most %.1e x max|output| apart, cosine %.6f%s" % (found["samples"], found["max_rel"], found["cosine"], classes)


def _killed(number: int) -> str:
    why = {
        signal.SIGILL: "the runtime uses an instruction that this processor does not have",
        signal.SIGKILL: "the system has stopped it, most likely for want of memory",
    }.get(signal.Signals(number), "the runtime has crashed")
    return "its process died of signal %d (%s): %s" % (number, signal.Signals(number).name, why)
