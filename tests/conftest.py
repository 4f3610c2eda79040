"""The demo on the embedded digits, run once through the command line: most tests look at what it left behind."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from edge.bench.results import Results, read_results

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ran:
    """A finished `edge` command."""

    code: int
    out: str
    err: str


def run_edge(*arguments: str | Path, cwd: Path | None = None, seconds: float = 900, **environment: str) -> Ran:
    """Run the real command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "edge", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def edge() -> Callable[..., Ran]:
    return run_edge


@dataclass(frozen=True)
class Demo:
    """The demo's folder, what it printed, its results, and `pip freeze` before and after."""

    folder: Path
    ran: Ran
    freeze: tuple[str, str]

    @property
    def results(self) -> Results:
        return read_results(self.folder / "results.json")

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def weights(self) -> Path:
        return self.folder / "models" / "student_distilled.safetensors"


def pytest_configure(config: pytest.Config) -> None:
    """Of tests that run side by side each process has temporary files of its own, and with them its own lock of the machine's measurements."""
    if worker := getattr(config, "workerinput", {}).get("workerid"):
        tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix=f"edge-tests-{worker}.")
        config.add_cleanup(lambda: shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One file that needs the demo comes first, then those that do not: while one process makes it, the other does not wait."""
    needed = {item.path for item in items if "demo" in getattr(item, "fixturenames", ())}
    first = next((item.path for item in items if item.path in needed), None)
    items.sort(key=lambda item: (item.path != first, item.path in needed))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Demo:
    """Made by the first process that asks for it, for all that run side by side."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    folder, told = shared / "demo", shared / "demo.json"
    with (shared / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            before = pip_freeze()
            ran = run_edge("demo", "--no-devices", "--dataset", "digits", "--train-seconds", "4000", "--out", folder)
            assert ran.code == 0, ran.err
            told.write_text(json.dumps([asdict(ran), before, pip_freeze()]))
    said, *freeze = json.loads(told.read_text())
    return Demo(folder, Ran(**said), (freeze[0], freeze[1]))


def pip_freeze() -> str:
    return subprocess.run([sys.executable, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True).stdout


def edit_manifest(artifact: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a manifest as a stranger would."""
    path = artifact / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def heed_ctrl_c() -> None:
    """What runs in the background of a shell without job control ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
