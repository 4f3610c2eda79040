"""The main job, from images to a table, results and a page; on MNIST itself in the slow suite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge.datasets import mnist
from edge.vocabulary import Status
from tests.conftest import Demo, run_edge


def test_the_demo_prints_the_table_and_writes_results_page_and_artifacts(demo: Demo) -> None:
    table = demo.ran.out
    for heading in ("top-1 %", "alone %", "agree %", "p50 ms", "p99 ms", "peak MiB", "base MiB", "cpu ms", "size KiB", "kernels"):
        assert heading in table
    for row in ("onnx fp32", "onnx fp16", "onnx int8", "paddle-inference fp32", "paddle-inference int8"):
        assert any(line.startswith(row) and " ok " in line for line in table.splitlines()), row
    assert (demo.folder / "report.html").is_file()
    assert "student_distilled: 10 epochs" in demo.ran.err and "teacher: 5 epochs" in demo.ran.err


def test_distilled_and_alone_differ_in_the_loss_only(demo: Demo) -> None:
    roles = {name: json.loads((demo.folder / "models" / f"student_{name}.json").read_text())["role"] for name in ("alone", "distilled")}
    differing = {key for key in roles["alone"] if roles["alone"][key] != roles["distilled"][key]}
    assert differing == {"name", "teacher", "distill"}
    assert [t.name for t in demo.results.training] == ["teacher", "student_alone", "student_distilled"]


def test_a_second_run_takes_up_what_is_trained(demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(demo.folder / "models", folder / "models")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "models").glob("*.safetensors")}
    (folder / "models" / "student_alone.safetensors").write_bytes(b"damaged by a full disk, say")
    ran = run_edge("demo", "--dataset", "digits", "--train-seconds", "40", "--out", folder, "--json")
    assert ran.code == 0, ran.err
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "models").glob("*.safetensors")}
    assert {name for name in before if before[name] != after[name]} == {"student_alone.safetensors"}
    assert len(json.loads(ran.out)["cells"]) == 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not any((f / "train-images-idx3-ubyte").is_file() for f in mnist.folders()), reason="MNIST is not on this machine")
def test_mnist_reaches_the_accuracy_that_was_promised(tmp_path: Path) -> None:
    ran = run_edge("demo", "--out", tmp_path, "--json")
    assert ran.code == 0, ran.err
    cells = [c for c in json.loads(ran.out)["cells"] if c["status"] == Status.OK.value and c["model"] == "mnist_student_distilled"]
    assert len(cells) >= 6
    top1 = {(c["format"], c["precision"]): c["accuracy"]["top1"]["value"] for c in cells}
    assert top1[("onnx", "fp32")] >= 98.5
    assert all(value >= top1[("onnx", "fp32")] - 0.3 for value in top1.values())
