"""The target qemu, for real: qemu, an aarch64 Debian and the aarch64 wheels are fetched on first use, and a small net runs there."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edge.artifact import Artifact, load_artifact
from edge.bench.launch import WorkerResult, run_worker, write_inputs
from edge.children import child_environment
from edge.devices import emulation
from edge.devices.local import LocalTarget
from edge.devices.profile import Profile, load_profile
from edge.devices.qemu import QemuTarget
from edge.devices.target import Job, Target
from edge.errors import BadInput, Unavailable, Unsupported
from edge.vocabulary import Format
from tests.conftest import run_edge

DEVICE = "raspberry-pi-4b"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    ran = run_edge(
        "export", "lenet5", "--calibration", "random", "--samples", "8", "--format", "onnx", "--precision", "fp32,fp16,int8", "--out", folder
    )
    assert ran.code == 0, ran.err
    return folder


def silent(_: str) -> None:
    pass


def emulated(device: str) -> QemuTarget:
    return QemuTarget(load_profile(device), silent)


def x86() -> Profile:
    return load_profile("x86-server").model_copy(update={"qemu_cpu": "max"})


def run(target: Target, artifact: Artifact, folder: Path, task: Literal["count", "outputs"] = "count") -> WorkerResult:
    """The worker's answer; in ``folder`` is what it wrote."""
    vectors = artifact.vectors()
    inputs = write_inputs(folder / "inputs", [vectors[f"input_{index}"] for index in range(len(artifact.manifest.inputs))])
    (folder / "job").mkdir()
    return run_worker(task, artifact, inputs, target, outputs=folder / "job", timeout=300)


@pytest.mark.parametrize(
    ("cpu", "precision", "kind"),
    [("cortex-a72", "int8", None), ("cortex-a76", "int8", "dot"), ("max,sve=off", "int8", "matrix"), ("cortex-a76", "fp16", "half")],
)
def test_the_kernels_are_those_of_the_processor(artifacts: Path, tmp_path: Path, cpu: str, precision: str, kind: str | None) -> None:
    target = QemuTarget(load_profile(DEVICE).model_copy(update={"qemu_cpu": cpu}), silent)
    ran = run(target, load_artifact(artifacts / f"lenet5-onnx-{precision}"), tmp_path)
    figures = ran.figures
    assert ran.environment["machine"] == "aarch64" and ran.environment["python"].startswith("3.11")
    assert ("asimddp" in ran.environment["isa"]) == (cpu != "cortex-a72")
    for name in ("dot", "matrix", "half"):
        assert all((count > 0) == (name == kind) for count in figures[name]), name
        assert max(figures[name]) < min(figures["instructions"])
    assert 16 << 20 < figures["baseline_rss"] < figures["peak_rss"] < 256 << 20


def test_counts_are_repeatable_and_outputs_those_of_x86(artifacts: Path, tmp_path: Path) -> None:
    artifact = load_artifact(artifacts / "lenet5-onnx-fp32")
    folders = [tmp_path / name for name in ("first", "second", "outputs", "here")]
    for folder in folders:
        folder.mkdir()
    first, second = (statistics.median(run(emulated(DEVICE), artifact, folder).figures["instructions"]) for folder in folders[:2])
    assert first == pytest.approx(second, rel=0.0015) and first == pytest.approx(446_000, rel=0.03)
    for target, folder in ((emulated(DEVICE), folders[2]), (LocalTarget(), folders[3])):
        run(target, artifact, folder, "outputs")
    there, here = (np.load(folder / "job" / "output_0.npy") for folder in folders[2:])
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_without_the_plugin_nothing_is_counted(artifacts: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no counting plugin"):
        run(LocalTarget(), load_artifact(artifacts / "lenet5-onnx-fp32"), tmp_path)


def counted(tmp_path: Path, script: str, machine: str = "x86_64", cpu: str = "max") -> tuple[subprocess.CompletedProcess[str], list[list[int]]]:
    """Run a script in the emulation with the plugin: how it ended, and the lines that the plugin wrote. ``mark()`` marks."""
    counts = tmp_path / "counts"
    mark = "import contextlib, os\ndef mark():\n    with contextlib.suppress(OSError): os.getsid(-0x45444745)\n"
    command: list[str | Path] = [*emulation.emulator(machine, silent), "-L", emulation.processor_root(machine, cpu, silent), "-cpu", cpu]
    command += [*emulation.counting_plugin(silent), emulation.guest_python(machine, silent), "-c", mark + script]
    environment = child_environment({**emulation.emulator_environment(), "EDGE_COUNTS": str(counts), "PYTHONHASHSEED": "0"})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    return done, [[int(word) for word in line.split()] for line in counts.read_text().splitlines()]


def test_threads_lose_no_counts(tmp_path: Path) -> None:
    """Four threads at once count what one after the other does; zlib gives up Python's lock while it works."""
    work = "work = lambda _: zlib.crc32(data)\n"
    script = f"""
import zlib
from concurrent.futures import ThreadPoolExecutor
data = bytes(1 << 24)
{work}
with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(4)))
    mark(); [work(0) for _ in range(4)]; mark(); list(pool.map(work, range(4))); mark()
"""
    done, lines = counted(tmp_path, script)
    assert done.returncode == 0, done.stderr
    alone, together = lines[1][0] - lines[0][0], lines[2][0] - lines[1][0]
    assert alone > 10_000_000 and together == pytest.approx(alone, rel=0.01)


def test_memory_is_the_guests_not_the_emulators(tmp_path: Path) -> None:
    """The same script natively, by the kernel's own account, and emulated, by the plugin's."""
    script = """
import re
def look():
    mark()
    status = open("/proc/self/status").read()
    print(*(int(re.search(name + r":\\s+(\\d+)", status)[1]) * 1024 for name in ("VmRSS", "VmHWM")))
look(); data = bytearray(64 << 20); look(); del data; look(); small = [bytes(1000) for _ in range(20_000)]; look(); del small; look()
"""
    native = subprocess.run([sys.executable, "-c", "mark = lambda: None\n" + script], capture_output=True, text=True, check=True)
    expected = [[int(word) for word in line.split()] for line in native.stdout.splitlines()]
    _, lines = counted(tmp_path, script)
    assert len(lines) == len(expected) == 5
    np.testing.assert_allclose([line[4:] for line in lines], expected, atol=2 << 20)


def test_what_the_guest_maps_lies_where_the_plugin_looks(tmp_path: Path) -> None:
    for machine, cpu in (("aarch64", "cortex-a72"), ("x86_64", "max")):
        done, _ = counted(tmp_path, "print(open('/proc/self/maps').read())", machine, cpu)
        ends = [int(line.split("-")[1].split()[0], 16) for line in done.stdout.splitlines() if "-" in line and "[vsyscall]" not in line]
        assert len(ends) > 10 and max(ends) < 1 << 40


def test_a_crash_in_the_guest_is_its_signal(artifacts: Path, tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    worker.mkdir()
    (worker / "__main__.py").write_text("import ctypes\nctypes.string_at(0)\n")
    target = emulated(DEVICE)
    job = Job(target.push(worker), Format.ONNX, {"task": "count", "threads": 1}, tmp_path, 60)
    assert target.run(job).status == -11


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    worker.mkdir()
    (worker / "__main__.py").write_text(
        f"import os, time\nprint(os.getpid(), file=open({str(tmp_path / 'pid')!r}, 'w'), end='', flush=True)\ntime.sleep(60)\n"
    )
    target = emulated(DEVICE)
    with pytest.raises(subprocess.TimeoutExpired):
        target.run(Job(target.push(worker), Format.ONNX, {"task": "outputs", "threads": 1}, tmp_path, 10))
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda profile: profile.model_copy(update={"qemu_cpu": None}), "names no processor"),
        (lambda profile: profile.model_copy(update={"clusters": (profile.clusters[0].model_copy(update={"isa": ("neon",)}),)}), "32-bit"),
    ],
)
def test_what_cannot_be_emulated_says_so(change: Callable[[Profile], Profile], sentence: str) -> None:
    with pytest.raises(Unsupported, match=sentence):
        QemuTarget(change(load_profile(DEVICE)), silent)


def test_a_processor_that_qemu_does_not_know_is_named() -> None:
    with pytest.raises(Unavailable, match="'cortex-a99'"):
        emulation.processor_root("aarch64", "cortex-a99", silent)
    with pytest.raises(BadInput):
        emulation.processor_root("aarch64", "../../a72", silent)
    assert not (emulation.CACHE / "processors" / "aarch64-cortex-a99").exists()


def test_paddle_lite_cannot_run_there() -> None:
    assert "no aarch64 wheel" in str(emulated(DEVICE).lacks(Format.PADDLE_LITE))
    assert emulated(DEVICE).lacks(Format.ONNX) is None and QemuTarget(x86(), silent).lacks(Format.PADDLE_LITE) is None


def test_x86_counts_too(artifacts: Path, tmp_path: Path) -> None:
    ran = run(QemuTarget(x86(), silent), load_artifact(artifacts / "lenet5-onnx-fp32"), tmp_path)
    assert ran.environment["machine"] == "x86_64" and "avx512f" not in ran.environment["isa"]
    assert statistics.median(ran.figures["instructions"]) == pytest.approx(350_000, rel=0.03)
    assert set(ran.figures["dot"]) == {None}


def test_a_part_that_cannot_be_fetched_leaves_nothing_and_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "CACHE", tmp_path / "arm")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="apt mirror") as caught:
        emulation.emulator("aarch64", silent)
    assert "\n" not in caught.value.message
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="apt install gcc"):
        emulation.counting_plugin(silent)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"PRETTY_NAME": "Other Linux 1"})
    with pytest.raises(Unavailable, match="this is Other Linux 1"):
        emulation.emulator("aarch64", silent)
    assert [path.name for path in (tmp_path / "arm").iterdir()] == ["lock"]
