"""Every cell of the support table is made, proven and named; what cannot be made says why."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.artifact import artifact_name, load_artifact
from edge.environments import cpu_flags, lite_python, machine_arch
from edge.errors import ConversionFailed, Unavailable
from edge.export import paddle_lite
from edge.export.support import Cell, support_table
from edge.vocabulary import Arch, Precision, Status
from edge.workflows.export_index import read_index
from tests.conftest import Demo, run_edge

MODEL = "mnist_student_distilled"


def lite_is_here() -> bool:
    try:
        return lite_python().is_file()
    except Unavailable:
        return False


def expected(cell: Cell) -> Status:
    """What the table promises on this machine."""
    if cell.makes == "unsupported":
        return Status.UNSUPPORTED
    if cell.format.value == "paddle-lite" and not lite_is_here():
        return Status.UNAVAILABLE
    runs = cell.target_arch in (Arch.ANY, Arch(machine_arch())) and (not cell.cpu_flags or cpu_flags() & set(cell.cpu_flags))
    return Status.OK if runs else Status.EXPORTED


@pytest.mark.parametrize("cell", support_table(), ids=lambda c: f"{c.format.value}-{c.precision.value}-{c.target_arch.value}")
def test_the_table_is_the_truth(demo: Demo, cell: Cell) -> None:
    key = (cell.format, cell.precision, cell.target_arch)
    made = next(c for c in read_index(demo.artifacts).cells if c.model == MODEL and (c.format, c.precision, c.target_arch) == key)
    assert made.status is expected(cell), made.reason
    if made.status in (Status.OK, Status.EXPORTED):
        artifact = load_artifact(demo.artifacts / str(made.artifact))
        assert artifact.folder.name == artifact_name(MODEL, *key)
        assert artifact.manifest.kernels.total == 4
    else:
        assert made.reason and made.artifact is None
        assert not (demo.artifacts / artifact_name(MODEL, *key)).exists()


def test_fp32_artifacts_are_the_paddle_model(demo: Demo) -> None:
    runnable = [load_artifact(f) for f in demo.artifacts.glob(f"{MODEL}-*-fp32*") if "arm" not in f.name]
    assert len(runnable) >= 2
    for artifact in runnable:
        parity = artifact.manifest.parity
        assert parity.passed and parity.max_rel is not None and parity.max_rel <= 1e-4, artifact.name
        assert parity.top1_agreement == 100.0 and parity.samples == 360


def test_all_cells_share_one_count_of_the_work(demo: Demo) -> None:
    counts = {load_artifact(folder).manifest.work for folder in demo.artifacts.glob(f"{MODEL}-*")}
    (work,) = counts
    assert work is not None and work.macs == 28 * 28 * 16 * 9 + 14 * 14 * 32 * 16 * 9 + 32 * 7 * 7 * 128 + 128 * 10


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnx_files_are_standard_onnx(demo: Demo, precision: str) -> None:
    import onnx

    graph = onnx.load(str(load_artifact(demo.artifacts / f"{MODEL}-onnx-{precision}").path("model")))
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}


def test_int8_is_small_and_runs_int8_kernels(demo: Demo) -> None:
    def artifact(name: str) -> Any:
        return load_artifact(demo.artifacts / f"{MODEL}-{name}")

    assert artifact("onnx-int8").size < 0.30 * artifact("onnx-fp32").size
    assert artifact("onnx-int8").manifest.kernels.reduced == 4
    inference = artifact("paddle-inference-int8-x86")
    assert inference.size < 0.30 * artifact("paddle-inference-fp32").size
    assert inference.manifest.kernels.reduced == 4
    assert artifact("onnx-fp16").size < 0.55 * artifact("onnx-fp32").size


@pytest.mark.skipif(not lite_is_here(), reason="no Paddle Lite environment: needs CPython 3.10")
def test_lite_files_hold_the_kernels_that_their_precision_promises(demo: Demo) -> None:
    reduced = {p: load_artifact(demo.artifacts / f"{MODEL}-paddle-lite-{p}").manifest.kernels.reduced for p in ("fp16-arm", "int8-arm", "int8-x86")}
    assert reduced == {"fp16-arm": 4, "int8-arm": 4, "int8-x86": 1}


def test_an_arm_file_is_exported_and_nothing_is_claimed_for_it(demo: Demo) -> None:
    arm = [cell for cell in demo.results.cells if cell.target_arch is Arch.ARM and cell.artifact]
    assert arm or not lite_is_here()
    for cell in arm:
        assert cell.status is (Status.OK if machine_arch() == "arm" else Status.EXPORTED)
        assert cell.size.value and cell.latency.p50.value is None and cell.accuracy.top1.value is None
        assert cell.latency.p50.reason and "board" in cell.latency.p50.reason


def test_an_export_leaves_the_environment_as_it_was(demo: Demo) -> None:
    before, after = demo.freeze
    assert before == after and "paddle2onnx" in before.lower()


def test_no_scratch_is_left_behind(demo: Demo) -> None:
    assert not list(demo.folder.rglob(".*"))


def test_without_cpython_3_10_only_lite_is_unavailable(demo: Demo, tmp_path: Path) -> None:
    hidden = "/nonexistent/python3.10"
    common: list[str | Path] = [
        "export",
        "mnist_student",
        "--weights",
        demo.weights,
        "--calibration",
        "digits",
        "--out",
        tmp_path,
        "--precision",
        "fp32",
    ]
    ran = run_edge(*common, "--json", EDGE_LITE_PYTHON=hidden)
    assert ran.code == 0, ran.err
    status = {(cell["format"], cell["target_arch"]): cell["status"] for cell in json.loads(ran.out)}
    assert status[("onnx", "any")] == status[("paddle-inference", "any")] == "ok"
    assert status[("paddle-lite", "x86")] == status[("paddle-lite", "arm")] == "unavailable"
    named = run_edge(*common, "--format", "paddle-lite", EDGE_LITE_PYTHON=hidden)
    assert named.code == 3
    assert "needs CPython 3.10" in named.err and "make setup" in named.err and "Traceback" not in named.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonesuch"], 2, "unknown model 'nonesuch'"),
        (["mnist_student", "--format", "tflite"], 2, "'tflite' is not one of"),
        (["mnist_student", "--format", "onnx", "--precision", "bf16"], 3, "bf16"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(demo: Demo, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    ran = run_edge("export", *arguments, "--weights", demo.weights, "--calibration", "digits", "--out", tmp_path / "out")
    assert (ran.code, "Traceback" in ran.err) == (code, False)
    assert words in ran.err


@pytest.mark.parametrize("kind", ["missing", "garbage", "nan", "wrong model"])
def test_bad_weights_get_one_sentence_and_leave_nothing(demo: Demo, tmp_path: Path, kind: str) -> None:
    from safetensors.numpy import load_file, save_file

    weights, out = tmp_path / "weights.safetensors", tmp_path / "out"
    if kind == "garbage":
        weights.write_bytes(b"\x80\x04\x95 a pickle, say")
    elif kind == "nan":
        arrays = load_file(demo.weights)
        arrays["fc2.bias"] = np.full_like(arrays["fc2.bias"], np.nan)
        save_file(arrays, weights)
    elif kind == "wrong model":
        weights = demo.folder / "models" / "teacher.safetensors"
    ran = run_edge("export", "mnist_student", "--weights", weights, "--calibration", "digits", "--out", out)
    assert ran.code == 2 and "Traceback" not in ran.err
    assert weights.name in ran.err
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.skipif(not lite_is_here(), reason="no Paddle Lite environment: needs CPython 3.10")
def test_a_converter_that_aborts_is_a_named_error(tmp_path: Path) -> None:
    program, folder = tmp_path / "program", tmp_path / "out"
    program.mkdir()
    folder.mkdir()
    for name in ("model.pdmodel", "model.pdiparams"):
        (program / name).write_bytes(b"not a program")
    workspace: Any = SimpleNamespace(legacy=lambda: program)
    with pytest.raises(ConversionFailed, match=r"opt died of .*last words"):
        paddle_lite.make(Precision.FP32, Arch.X86, workspace, folder)
    assert list(folder.iterdir()) == []
