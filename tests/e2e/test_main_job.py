"""The main job, from images to a table, results and a page; on MNIST itself in the slow suite."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from edge.datasets import mnist
from edge.files import sha256_of
from edge.vocabulary import Status
from edge.workflows.demo import YOUNG_TEACHER
from edge.workflows.training import student_roles, train_students
from tests.conftest import Demo, run_edge


def test_the_demo_prints_the_table_and_writes_results_page_and_artifacts(demo: Demo) -> None:
    table = demo.ran.out
    for heading in ("top-1 %", "alone %", "agree %", "p50 ms", "p99 ms", "peak MiB", "base MiB", "cpu ms", "size KiB", "kernels"):
        assert heading in table
    for row in ("onnx fp32", "onnx fp16", "onnx int8", "paddle-inference fp32", "paddle-inference int8"):
        assert any(line.startswith(row) and " ok " in line for line in table.splitlines()), row
    assert (demo.folder / "report.html").is_file()
    said = dict(re.findall(r"^(\w+): (\d+) epochs, \d+\.\d\d % of 360 test images$", demo.ran.err, re.MULTILINE))
    assert list(said) == ["teacher", "student_alone", "student_distilled"] and said["student_alone"] == said["student_distilled"]


def test_the_demo_packs_what_is_best_for_the_camera(demo: Demo) -> None:
    bundle = demo.folder / "camera.bundle.tar.gz"
    assert str(bundle) in demo.ran.out
    inspected = run_edge("inspect", bundle, "--json")
    assert inspected.code == 0, inspected.err
    found = json.loads(inspected.out)
    assert found["device"]["name"] == "camera" and found["best"].startswith("mnist_student_distilled-")


def test_distilled_and_alone_differ_in_the_loss_only(demo: Demo) -> None:
    roles = {name: json.loads((demo.folder / "models" / f"student_{name}.json").read_text())["role"] for name in ("alone", "distilled")}
    differing = {key for key in roles["alone"] if roles["alone"][key] != roles["distilled"][key]}
    assert differing == {"name", "teacher", "distill"}
    assert [t.name for t in demo.results.training] == ["teacher", "student_alone", "student_distilled"]


def test_an_interrupted_training_takes_up_what_is_done(demo: Demo, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(demo.folder / "models", models)
    epochs = json.loads((models / "plan.json").read_text())["students"]
    (models / "student_alone.safetensors").write_bytes(b"cut off in the middle")
    distilled = (models / "student_distilled.safetensors").stat().st_mtime_ns
    records = train_students(list(student_roles("digits", epochs, distill=YOUNG_TEACHER)), models, lambda *_: None)
    assert (models / "student_distilled.safetensors").stat().st_mtime_ns == distilled
    assert sha256_of(models / "student_alone.safetensors") == records["student_alone"]["sha256"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not any((f / "train-images-idx3-ubyte").is_file() for f in mnist.folders()), reason="MNIST is not on this machine")
def test_mnist_reaches_the_accuracy_that_was_promised(tmp_path: Path) -> None:
    ran = run_edge("demo", "--no-devices", "--out", tmp_path, "--json", seconds=3000)
    assert ran.code == 0, ran.err
    cells = [c for c in json.loads(ran.out)["cells"] if c["status"] == Status.OK.value and c["model"] == "mnist_student_distilled"]
    assert len(cells) >= 6
    top1 = {(c["format"], c["precision"]): c["accuracy"]["top1"]["value"] for c in cells}
    assert top1[("onnx", "fp32")] >= 98.5
    assert all(value >= top1[("onnx", "fp32")] - 0.3 for value in top1.values())
