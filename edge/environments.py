"""The interpreters: this one, the Paddle Lite environment (CPython 3.10 only), that of the GPU packages; and what the processor can do."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from edge.children import child_environment
from edge.errors import Unavailable

LITE_HINT = "install CPython 3.10 (pyenv install 3.10, or uv python install 3.10), then run: make setup"

GPU_HINT = (
    "run: python3.11 -m venv .venv-gpu && .venv-gpu/bin/python -m pip install --require-hashes --no-deps -r requirements/gpu.txt (about 3 GB), "
    "or name an interpreter that has them: EDGE_GPU_PYTHON"
)


def lite_python() -> Path:
    """The interpreter of the Paddle Lite environment: $EDGE_LITE_PYTHON, else ``.venv-lite`` beside this environment.

    Raises:
        Unavailable: there is none; the hint says how to get one.
    """
    return _other_python("EDGE_LITE_PYTHON", ".venv-lite", "CPython 3.10 with paddlelite", LITE_HINT)


def gpu_python() -> Path:
    """The interpreter of the environment with the GPU packages: $EDGE_GPU_PYTHON, else ``.venv-gpu`` beside this environment.

    Raises:
        Unavailable: there is none; the hint says how to make one.
    """
    return _other_python("EDGE_GPU_PYTHON", ".venv-gpu", "an environment with the GPU packages", GPU_HINT)


def _other_python(variable: str, folder: str, what: str, hint: str) -> Path:
    named = os.environ.get(variable)
    path = Path(named) if named else Path(sys.prefix).parent / folder / "bin" / "python"
    if not path.is_file():
        raise Unavailable(f"needs {what}: {path} is not there", hint=hint)
    return path


def paddlelite_version(python: Path) -> str:
    """What the metadata of the Paddle Lite environment says.

    Raises:
        Unavailable: paddlelite is not installed there.
    """
    return package_version(python, "paddlelite", LITE_HINT)


@cache
def package_version(python: Path, package: str, hint: str) -> str:
    """What the metadata of another interpreter's environment says of a package.

    Raises:
        Unavailable: it is not installed there, or the interpreter does not run.
    """
    script = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    try:
        done = subprocess.run([python, "-c", script, package], env=child_environment(), capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{python} does not run: {error}", hint=hint) from error
    if done.returncode:
        raise Unavailable(f"{python} has no {package}", hint=hint)
    return done.stdout.strip()


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor in /proc/cpuinfo (``flags`` on x86, ``Features`` on ARM)."""
    return frozenset(_cpuinfo("flags", "Features").split())


def cpu_vendor() -> str:
    """As an x86 processor says of itself: ``GenuineIntel``, ``AuthenticAMD``; elsewhere nothing."""
    return _cpuinfo("vendor_id")


def _cpuinfo(*names: str) -> str:
    """The first value in /proc/cpuinfo that has one of the names."""
    try:
        fields = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        return next((value.strip() for name, _, value in fields if name.strip() in names), "")
    except OSError:
        return ""


def machine_arch() -> str:
    """`arch_of` this machine."""
    return arch_of(platform.machine())


def arch_of(machine: str) -> str:
    """``x86`` or ``arm``, the names used for artifacts, for what a kernel calls its processor; else that name."""
    machine = machine.lower()
    if machine in ("x86_64", "amd64", "i686"):
        return "x86"
    return "arm" if machine.startswith(("aarch64", "arm")) else machine


def machine_names() -> str:
    """What the machine says of itself: the board's model from the device tree, and the processor's name."""
    names = []
    for path, line in (("/proc/device-tree/model", r"(.*)"), ("/proc/cpuinfo", r"^(?:model name|Model|Hardware)\s*:\s*(.*)$")):
        with contextlib.suppress(OSError):
            found = re.search(line, Path(path).read_text(errors="replace").replace("\0", ""), re.MULTILINE)
            names.append(found[1] if found else "")
    return "\n".join(names)
