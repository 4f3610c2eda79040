"""What the data fetchers share. Standard library only: they run before the environment is made."""

from __future__ import annotations

import ast
import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: A download that takes longer is given up, in seconds.
PATIENCE = 300


def pinned_files(module: str) -> dict[str, str]:
    """The names and checksums that a loader in edge/datasets pins as FILES, read without importing the tool."""
    tree = ast.parse((ROOT / "edge" / "datasets" / f"{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FILES":
            value: dict[str, str] = ast.literal_eval(node.value)
            return value
    raise SystemExit(f"edge/datasets/{module}.py pins no FILES")


def wrong_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """The pinned files that are missing in ``folder`` or have other content."""
    return [name for name, digest in files.items() if not (folder / name).is_file() or _sha256(folder / name) != digest]


def run(command: list[str], folder: Path) -> str | None:
    """None when it worked, or the end of what it said."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else " ".join(done.stderr.split())[-200:] or f"exit status {done.returncode}"


def put_in_place(fetched: Path, target: Path) -> None:
    """What was fetched, whole and checked, takes the place of what was there."""
    shutil.rmtree(target, ignore_errors=True)
    fetched.rename(target)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
