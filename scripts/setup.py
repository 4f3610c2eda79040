#!/usr/bin/env python3
"""Makes the environments in the checkout: .venv for the tool, .venv-lite for Paddle Lite. Standard library only.

    python3 scripts/setup.py

Does nothing where the environments already match the requirements files. Without a CPython 3.10 it says what that costs and
succeeds: everything but Paddle Lite works.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAIN_VERSIONS = ((3, 11), (3, 12), (3, 10))
LITE_VERSION = (3, 10)


def main() -> int:
    python = find_python(MAIN_VERSIONS)
    if python is None:
        return fail("needs CPython 3.11, 3.12 or 3.10", "on Debian: apt install python3 python3-venv")
    if not make_environment(ROOT / ".venv", python, ROOT / "requirements" / "main.txt", editable=True):
        return 1
    lite = find_python((LITE_VERSION,))
    if lite is None:
        print("setup: no CPython 3.10 was found, so the Paddle Lite cells will say 'unavailable'; all else works.")
        print("       To mend it: pyenv install 3.10 (or: uv python install 3.10), then run make setup again.")
        return 0
    return 0 if make_environment(ROOT / ".venv-lite", lite, ROOT / "requirements" / "lite.txt", editable=False) else 1


def find_python(versions: tuple[tuple[int, int], ...]) -> str | None:
    """The first interpreter that really runs and has one of the versions, in the order given."""
    for major, minor in versions:
        for candidate in candidates(major, minor):
            if version_of(candidate) == (major, minor):
                return candidate
    return None


def candidates(major: int, minor: int) -> list[str]:
    """$EDGE_PYTHON3xx, this interpreter, PATH, then the version folders of pyenv and uv.

    A pyenv shim on PATH exists for every version and fails for those that are not active, so a found name is not yet a find.
    """
    named = os.environ.get(f"EDGE_PYTHON{major}{minor}")
    if named is not None:
        return [named]
    found = [sys.executable, shutil.which(f"python{major}.{minor}"), shutil.which("python3")]
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    roots += [Path(entry).parent for entry in os.environ.get("PATH", "").split(os.pathsep) if entry.endswith("shims")]
    found += [str(path) for root in roots for path in sorted(root.glob(f"versions/{major}.{minor}.*/bin/python"))]
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    found += [str(path) for path in sorted(uv.glob(f"cpython-{major}.{minor}.*/bin/python3"))]
    return [path for path in found if path]


def version_of(python: str) -> tuple[int, int] | None:
    try:
        answer = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, timeout=30)
        major, minor = answer.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def make_environment(folder: Path, python: str, requirements: Path, *, editable: bool) -> bool:
    """Create or bring up to date one environment; its stamp is written last, so an interrupted set-up starts over."""
    stamp = folder / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes() + (ROOT / "pyproject.toml").read_bytes() * editable).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return True
    print(f"setup: {folder.name} from {requirements.relative_to(ROOT)} with {python}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    steps = [[python, "-m", "venv", str(folder)], [*pip, "--require-hashes", "--no-deps", "-r", str(requirements)]]
    if editable:
        steps.append([*pip, "--no-build-isolation", "--no-deps", "--editable", str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    for step in steps:
        done = subprocess.run(step, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return not fail(
                f"{' '.join(step[:4])} ... failed", "read the lines above; on Debian: apt install python3-venv; is the package registry reachable?"
            )
    stamp.write_text(wanted)
    return True


def fail(message: str, hint: str) -> int:
    print(f"setup: {message}\n       {hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
