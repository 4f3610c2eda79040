"""What goes wrong in the field: a killed worker, damaged files, Ctrl-C, a full disk. The other cells finish; what was measured stays."""

from __future__ import annotations

import hashlib
import json
import os
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

from edge.bench.results import Cell, read_results
from edge.vocabulary import Status
from tests.conftest import Demo, edit_manifest, run_edge

ONNX = tuple(f"mnist_student_distilled-onnx-{p}" for p in ("fp16", "fp32", "int8"))


@pytest.fixture
def artifacts(demo: Demo, tmp_path: Path) -> Path:
    """Three ONNX artifacts and the index, to be damaged."""
    folder = tmp_path / "artifacts"
    for name in ONNX:
        shutil.copytree(demo.artifacts / name, folder / name)
    shutil.copy(demo.artifacts / "export.json", folder)
    return folder


def start_bench(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge", "bench", str(folder), "--out", str(out), "--seconds", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c)


def heed_ctrl_c() -> None:
    """What runs in the background of a shell without job control ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


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
    os.kill(wait_for(lambda: children_of(process.pid), process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    cells = by_precision(out)
    assert process.returncode == 1 and "Traceback" not in err
    assert cells["fp16"].status is Status.FAILED and "SIGKILL" in str(cells["fp16"].reason)
    assert cells["fp16"].latency.p50.value is None
    assert cells["fp32"].status is cells["int8"].status is Status.OK


def test_ctrl_c_stops_cleanly_and_keeps_what_was_measured(artifacts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    process = start_bench(artifacts, out)
    wait_for(lambda: out.is_file() and children_of(process.pid), process)
    workers = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert [cell.status for cell in read_results(out).cells][:1] == [Status.OK]
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "results.json"]


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
    import re

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
        f"mount -t tmpfs -o size=128k tmpfs {small} && cp {demo.folder}/results.json {small}/r.json && "
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
