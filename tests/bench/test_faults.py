"""What goes wrong in the field: a killed worker, damaged files, Ctrl-C, a full disk. The other cells finish; what was measured stays."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bench.launch import WORKER
from edge.bench.measure import BenchRequest, Part, Plan, perform
from edge.bench.results import Cell, read_results
from edge.bench.rows import row
from edge.bench.scenarios import SingleStream
from edge.children import child_environment, run_child
from edge.cli.main import main
from edge.devices.local import LocalTarget
from edge.devices.target import LOG, RESULT, Ending, Job, Target
from edge.vocabulary import Status
from edge.workflows.bench import plan_cells, run_bench
from tests.conftest import Demo, edit_manifest, heed_ctrl_c, run_edge

ONNX = tuple(f"mnist_student_distilled-onnx-{p}" for p in ("fp16", "fp32", "int8"))


@pytest.fixture
def artifacts(demo: Demo, tmp_path: Path) -> Path:
    """Three ONNX artifacts and the index, to be damaged."""
    folder = tmp_path / "artifacts"
    for name in ONNX:
        shutil.copytree(demo.artifacts / name, folder / name)
    shutil.copy(demo.artifacts / "export.json", folder)
    return folder


def bench_command(folder: Path, out: Path) -> list[str]:
    return ["bench", str(folder), "--out", str(out), "--seconds", "0.3"]


def start_bench(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge", *bench_command(folder, out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c)


def workers_of(pid: int) -> list[int]:
    """The command's children that are workers (it also asks git for its commit)."""

    def is_worker(child: int) -> bool:
        return os.fsencode(WORKER) in read(f"/proc/{child}/cmdline").split(b"\0")

    return [child for child in map(int, read(f"/proc/{pid}/task/{pid}/children").split()) if is_worker(child)]


def read(path: str) -> bytes:
    """A file of a process; empty when that has ended."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    while process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"the command ended first: {process.communicate()}")


def by_precision(path: Path) -> dict[str, Cell]:
    return {cell.precision.value: cell for cell in read_results(path).cells}


def test_a_worker_killed_with_kill_9_fails_its_cell_and_the_others_finish(artifacts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    process = start_bench(artifacts, out)
    os.kill(wait_for(lambda: workers_of(process.pid), process)[0], signal.SIGKILL)
    _, err = process.communicate()
    cells = by_precision(out)
    assert process.returncode == 1 and "Traceback" not in err
    assert cells["fp16"].status is Status.FAILED and "SIGKILL" in str(cells["fp16"].reason)
    assert cells["fp16"].latency.p50.value is None
    assert cells["fp32"].status is cells["int8"].status is Status.OK


def records(out: Path) -> list[Path]:
    """What an interrupted run has kept."""
    return list(out.with_name(f"{out.name}.partial").glob("*.json"))


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], list[tuple[str, str]]]:
    """The same command again, in this process: gives the worker runs that it makes."""
    runs: list[tuple[str, str]] = []

    def counting(plan: Plan, part: Part) -> dict[str, Any]:
        runs.append((plan.artifact.name, part))
        return perform(plan, part)

    def again(folder: Path, out: Path) -> list[tuple[str, str]]:
        monkeypatch.setattr("edge.workflows.bench.perform", counting)
        assert main(bench_command(folder, out)) == 0
        return runs

    return again


#: Worker runs of three cells: accuracy, three times the latency, memory.
RUNS = 3 * (1 + 3 + 1)


def assert_complete(out: Path) -> None:
    cells = by_precision(out)
    assert {name: cell.status for name, cell in cells.items()} == dict.fromkeys(("fp16", "fp32", "int8"), Status.OK)
    assert {len(cell.processes) for cell in cells.values()} == {3} and all(cell.memory.peak_rss.value for cell in cells.values())
    assert not any("interrupted" in warning for cell in cells.values() for warning in cell.warnings)
    assert not out.with_name(f"{out.name}.partial").exists()


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    artifacts: Path, tmp_path: Path, go_on: Callable[[Path, Path], list[tuple[str, str]]]
) -> None:
    out = tmp_path / "results.json"
    process = start_bench(artifacts, out)
    workers = wait_for(lambda: workers_of(process.pid) if len(records(out)) >= 4 else [], process)  # a cell is timed
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    deadline = time.monotonic() + 20  # a killed process is there until it is reaped
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "results.json", "results.json.partial"]
    timed = read_results(out).cells
    assert timed and all(cell.status is Status.OK and cell.latency.p50.value for cell in timed)
    assert any("the run was interrupted" in warning for warning in timed[0].warnings)
    kept = len(records(out))
    assert len(go_on(artifacts, out)) == RUNS - kept
    assert_complete(out)


def test_a_command_killed_with_kill_9_goes_on_with_what_is_missing(
    artifacts: Path, tmp_path: Path, go_on: Callable[[Path, Path], list[tuple[str, str]]]
) -> None:
    out = tmp_path / "results.json"
    process = start_bench(artifacts, out)
    workers = wait_for(lambda: workers_of(process.pid) if len(records(out)) >= 5 else [], process)
    process.kill()
    process.communicate()
    wait_until_gone(workers)
    kept = len(records(out))
    assert 5 <= kept < RUNS and not out.exists()
    runs = go_on(artifacts, out)
    assert len(runs) == RUNS - kept and not [run for run in runs if run[1] == "accuracy"]
    assert_complete(out)


def wait_until_gone(pids: list[int]) -> None:
    while [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        time.sleep(0.01)


def test_ctrl_c_before_anything_is_timed_leaves_older_results_as_they_were(artifacts: Path, demo: Demo, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    shutil.copy(demo.folder / "results.json", out)
    process = start_bench(artifacts, out)
    wait_for(lambda: workers_of(process.pid), process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130 and out.read_bytes() == (demo.folder / "results.json").read_bytes()


class FaultyTarget(LocalTarget):
    """This machine, on which the worker of one task of one artifact is ``program``, which is given the result file and SIGKILLed after a while."""

    def __init__(self, victim: str, task: str, program: str) -> None:
        super().__init__()
        self.victim, self.task, self.program = victim, task, program

    def run(self, job: Job) -> Ending:
        if self.victim in job.spec["model"] and job.spec["task"] == self.task:
            hangs = 1.0 if "sleep" in self.program else None
            command = [sys.executable, "-c", self.program, str(job.folder / RESULT)]
            return Ending(run_child(command, environment=child_environment(), log=job.folder / LOG, timeout=hangs))
        return super().run(job)


GARBAGE = "import os, sys; os.write(1, bytes(range(256)) * 1000 + b'\\n\\x1b[31mout of tune\\n'); sys.exit(3)"


@pytest.mark.parametrize("task", ["outputs", "latency", "memory"])
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import time; time.sleep(3600)", "did not finish within .* and was killed"),
        (GARBAGE, "died of exit status 3; its last words: .*out of tune$"),
        ("import sys; open(sys.argv[1], 'w').write('{\"schema_version\": 2, \"task\"')", "wrote an unreadable result"),
        ("import sys; open(sys.argv[1], 'w').write('[]')", "wrote an unreadable result"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV; its last words: it printed nothing"),
        ("pass", "died of exit status 0"),
    ],
    ids=["hang", "garbage in the log", "truncated result", "other result", "SIGSEGV", "no result"],
)
def test_a_broken_worker_fails_its_row_and_the_others_finish(artifacts: Path, tmp_path: Path, task: str, program: str, words: str) -> None:
    request = quick(FaultyTarget(ONNX[1], task, program))
    results = run_bench([artifacts / ONNX[0], artifacts / ONNX[1]], tmp_path / "r.json", request)
    good, bad = results.cells
    assert bad.status is Status.FAILED and re.search(f"the {task} worker {words}", str(bad.reason)), bad.reason
    assert bad.latency.p50.value is None and bad.latency.p50.reason == bad.reason
    assert good.status is Status.OK and good.latency.p50.value and good.memory.peak_rss.value
    assert read_results(tmp_path / "r.json") == results and not (tmp_path / "r.json.partial").exists()


def quick(target: Target, **change: Any) -> BenchRequest:
    scenario = SingleStream(min_seconds=0.02, min_count=40)
    return BenchRequest(target, scenario=scenario, repeats=1, warmup=(0.01, 0.1), growth_seconds=0.1, **change)


FIGURES: dict[str, Any] = {
    **{"import_ms": 1.0, "load_ms": 1.0, "first_ms": 1.0, "wall_s": 1.0, "cpu_s": 1.0, "timer_ns": 50, "inferences": 3},
    **{"samples_ns": [1000, 2000, 3000], "figures": {"frames": [3, "count"]}, "energy": {}, "before": {"clock": 1.0}, "after": {}},
    "warmup": {"seconds": 1.0, "inferences": 3, "stable": True},
}


@pytest.mark.parametrize(
    "change",
    [
        {"wall_s": 0},
        {"inferences": None},
        {"samples_ns": [10**30]},
        {"samples_ns": [5, -5]},
        {"samples_ns": [float("nan")]},
        {"samples_ns": ["x"]},
        {"samples_ns": 5},
        {"load_ms": float("nan")},
        {"first_ms": "fast"},
        {"figures": 7},
        {"figures": {"frames": 5}},
        {"figures": {"age": [float("inf"), "ms"]}},
        {"energy": []},
        {"energy": {"cpu_time": {"value": "much", "provenance": "measured"}}},
        {"energy": {"cpu_time": {"value": 1.0, "provenance": "guessed"}}},
        {"before": None},
        {"before": {"clock": 1.0, "frequency_mhz": "fast"}, "after": {"frequency_mhz": 1}},
        {"before": {"clock": 1.0, "throttle_count": 1}, "after": {"throttle_count": "two"}},
        {"minutes": [{}]},
        {"minutes": 5},
        {"warmup": {}},
        {"others_busy": "few"},
    ],
    ids=str,
)
def test_figures_that_make_no_sense_fail_their_row(demo: Demo, change: dict[str, Any]) -> None:
    (plan,) = plan_cells([demo.artifacts / ONNX[1]], quick(LocalTarget(), parts=("latency",)))
    assert isinstance(plan, Plan)
    good = row(plan, {"latency": [{"figures": FIGURES, "environment": {}}]}, {})
    assert good.status is Status.OK and good.latency.mean.value == 0.002
    bad = row(plan, {"latency": [{"figures": {**FIGURES, **change}, "environment": {}}]}, {})
    assert bad.status is Status.FAILED and "make no sense" in str(bad.reason) and bad.latency.mean.value is None


def repack(folder: Path, change: Callable[[Path], object]) -> None:
    """Change the model and make the manifest agree, as a careless or hostile sender would."""
    model = folder / "model.onnx"
    change(model)
    data = model.read_bytes()

    def update(raw: dict[str, Any]) -> None:
        raw["files"][0].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(folder, update)


def edit_weights(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(model)
        bias = next(i for i in graph.graph.initializer if list(i.dims) == [10])
        bias.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(bias).copy()), bias.name))
        onnx.save(graph, model)

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: repack(f, lambda m: m.write_bytes(b"garbage")), "INVALID_PROTOBUF|Protobuf|failed"),
        (lambda f: repack(f, edit_weights(lambda b: np.full_like(b, np.nan))), "NaN"),
        (lambda f: repack(f, edit_weights(lambda b: b + np.eye(10, dtype=b.dtype)[3] * 50)), "wrong results"),
        (lambda f: (f / "model.onnx").unlink(), "missing"),
        (lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-1] + b"x"), "sha256"),
        (lambda f: (f / "vectors.npz").unlink(), "missing"),
    ],
    ids=["corrupt model", "NaN", "wrong class", "missing model", "wrong checksum", "missing vectors"],
)
def test_a_bad_artifact_fails_its_cell_loudly(artifacts: Path, tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    shutil.rmtree(artifacts / ONNX[0])
    shutil.rmtree(artifacts / ONNX[2])
    good = artifacts / ONNX[0]
    shutil.copytree(artifacts / ONNX[1], good)
    edit_manifest(good, lambda raw: raw.update(model="good"))
    damage(artifacts / ONNX[1])
    ran = run_edge("bench", artifacts, "--out", tmp_path / "r.json", "--seconds", "0.1")
    cells = {cell.model: cell for cell in read_results(tmp_path / "r.json").cells}
    assert ran.code == 1 and "Traceback" not in ran.err
    bad = cells["mnist_student_distilled"]
    assert bad.status is Status.FAILED and re.search(words, str(bad.reason)), bad.reason
    assert bad.accuracy.top1.value is None and bad.latency.p50.value is None
    assert cells["good"].status is Status.OK


def test_a_full_disk_is_one_sentence_and_old_results_stay(artifacts: Path, demo: Demo, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    command = (
        f"mount -t tmpfs -o size=32m tmpfs {small} && cp {demo.folder}/results.json {small}/r.json && "
        f"dd if=/dev/zero of={small}/fill bs=1k 2>/dev/null; "
        f"{sys.executable} -m edge bench {artifacts / ONNX[1]} --out {small}/r.json --seconds 0.1; echo code $?; "
        f"cat {small}/r.json > {tmp_path}/kept.json; ls -A {small}"
    )
    ran = subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", command], capture_output=True, text=True)
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"no private mount namespace here: {ran.stderr.strip()[:100]}")
    assert "code 1" in ran.stdout and "No space left on device" in ran.stderr and "Traceback" not in ran.stderr
    assert json.loads((tmp_path / "kept.json").read_text()) == json.loads((demo.folder / "results.json").read_text())
    assert "." not in [name[0] for name in ran.stdout.split("\n")[1:] if name]
