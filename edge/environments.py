"""The interpreters: this one, and the Paddle Lite environment (CPython 3.10 only); and what the processor can do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

from edge.children import child_environment
from edge.errors import Unavailable

LITE_HINT = "install CPython 3.10 (pyenv install 3.10, or uv python install 3.10), then run: make setup"


def lite_python() -> Path:
    """The interpreter of the Paddle Lite environment: $EDGE_LITE_PYTHON, else ``.venv-lite`` beside this environment.

    Raises:
        Unavailable: there is none; the hint says how to get one.
    """
    named = os.environ.get("EDGE_LITE_PYTHON")
    path = Path(named) if named else Path(sys.prefix).parent / ".venv-lite" / "bin" / "python"
    if not path.is_file():
        raise Unavailable(f"needs CPython 3.10 with paddlelite: {path} is not there", hint=LITE_HINT)
    return path


@cache
def paddlelite_version(python: Path) -> str:
    """What the metadata of the Paddle Lite environment says.

    Raises:
        Unavailable: paddlelite is not installed there.
    """
    script = "import importlib.metadata as m; print(m.version('paddlelite'))"
    try:
        done = subprocess.run([python, "-c", script], env=child_environment(), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{python} does not run: {error}", hint=LITE_HINT) from error
    if done.returncode:
        raise Unavailable(f"{python} has no paddlelite", hint=LITE_HINT)
    return done.stdout.strip()


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor in /proc/cpuinfo (``flags`` on x86, ``Features`` on ARM)."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def machine_arch() -> str:
    """``x86`` or ``arm``, the names used for artifacts; else what the platform says."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64", "i686"):
        return "x86"
    return "arm" if machine.startswith(("aarch64", "arm")) else machine
