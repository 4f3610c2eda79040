"""A bundle of the demo's student for a device with this machine's processor, packed once through the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bench.worker.machine import TELLING_FLAGS
from edge.devices.profile import FOLDER
from edge.environments import cpu_flags
from tests.conftest import Demo, Ran, run_edge
from tests.devices.sshd import board, sshd_root, start

__all__ = ["board", "sshd_root", "start"]

STUDENT = "mnist_student_distilled"


def run_bundle(folder: Path, *arguments: str | Path, python: str | Path = sys.executable, stdin: bytes = b"", **environment: str) -> Ran:
    """``python3 -m run`` in a bundle's folder, with an environment that holds nothing else."""
    done = subprocess.run(
        [python, "-m", "run", *map(str, arguments)], cwd=folder, env={"PATH": "/usr/bin:/bin", **environment}, input=stdin, capture_output=True
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's profile with this machine's processor features."""
    path = tmp_path_factory.mktemp("profile") / "desk.toml"
    lines = (FOLDER / "x86-server.toml").read_text().splitlines()
    flags = ", ".join(f'"{flag}"' for flag in TELLING_FLAGS if flag in cpu_flags())
    changed = {"name = ": 'name = "desk"', "isa = ": f"isa = [{flags}]", "identity = ": "identity = []"}
    path.write_text("\n".join(next((new for start, new in changed.items() if line.startswith(start)), line) for line in lines))
    return path


@pytest.fixture(scope="session")
def packed(demo: Demo, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "camera.bundle.tar.gz"
    artifacts = [demo.artifacts / f"{STUDENT}-{cell}" for cell in ("onnx-fp32", "onnx-int8", "paddle-inference-fp32")]
    ran = run_edge("pack", *artifacts, "--device", profile, "--results", demo.folder / "results.json", "--out", out)
    assert ran.code == 0, ran.err
    assert "passed" in ran.out and "download" in ran.out
    return out


@pytest.fixture
def unpacked(packed: Path, tmp_path: Path) -> Path:
    """As a device unpacks it."""
    subprocess.run(["tar", "-xzf", packed, "-C", tmp_path], check=True)
    return tmp_path / "camera"


@pytest.fixture
def copy_of(demo: Demo, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an artifact of the demo, to be changed."""

    def copied(cell: str) -> Path:
        return Path(shutil.copytree(demo.artifacts / f"{STUDENT}-{cell}", tmp_path / f"{STUDENT}-{cell}"))

    return copied
