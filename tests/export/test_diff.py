"""`edge diff` names the layer that was broken, and nothing where nothing was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge.artifact import file_entry, load_artifact, write_manifest
from edge.environments import lite_python, machine_arch
from edge.errors import BadInput, Unavailable
from edge.export.trace import cut, layers_of, read_program
from tests.conftest import Demo, Ran, run_edge

MODEL = "mnist_student_distilled"
LAYERS = ["conv3x3_0.w_0", "conv3x3_1.w_0", "linear_0.w_0", "linear_1.w_0"]


def lite_is_here() -> bool:
    try:
        return lite_python().is_file()
    except Unavailable:
        return False


def run_diff(demo: Demo, artifact: Path | str, *more: str | Path, source: str = "mnist_student") -> Ran:
    folder = demo.artifacts / f"{MODEL}-{artifact}" if isinstance(artifact, str) else artifact
    return run_edge("diff", folder, source, "--weights", demo.weights, *more)


def broken(demo: Demo, name: str, folder: Path, change: Callable[[Path], object]) -> Path:
    """A copy of an artifact, changed, its checksums made to fit again."""
    shutil.copytree(demo.artifacts / f"{MODEL}-{name}", folder)
    artifact = load_artifact(folder)
    change(folder)
    files = tuple(file_entry(folder, entry.path, entry.role) for entry in artifact.manifest.files)
    write_manifest(folder, artifact.manifest.model_copy(update={"files": files}))
    return folder


def double_onnx(layer: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == layer)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, layer))
        onnx.save(model, folder / "model.onnx")

    return change


#: Paddle's own reader and writer of parameters, which need a process of their own: PIR is on or off when Paddle is imported.
SET_PARAMETER = """
import os, sys
folder, name, pir = sys.argv[1:]
os.environ["FLAGS_enable_pir_api"] = pir
import numpy as np, paddle
paddle.enable_static()
executor = paddle.static.Executor(paddle.CPUPlace())
program, feeds, fetches = paddle.static.load_inference_model(f"{folder}/model", executor)
scope = paddle.static.global_scope()
if pir == "1":
    names = sorted(value.name for value in program.list_vars() if value.persistable and value.get_defining_op().name() == "builtin.parameter")
else:
    names = sorted(v.name for v in program.list_vars() if v.persistable and v.name not in ("feed", "fetch"))
tensors = [scope.find_var(one).get_tensor() for one in names]
place = paddle.CPUPlace()
target = tensors[names.index(name)]
target.set((np.array(target)[::-1]).copy(), place)
paddle.base.core.save_combine_func(tensors, names, f"{folder}/model.pdiparams", True, False, False)
"""


def reverse_parameter(name: str, pir: str) -> Callable[[Path], object]:
    """Turn the first axis of a parameter around."""

    def change(folder: Path) -> None:
        ran = subprocess.run([sys.executable, "-c", SET_PARAMETER, folder, name, pir], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]

    return change


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-fp16", "onnx-int8", "paddle-inference-fp32", "paddle-inference-int8-x86"])
def test_an_artifact_that_is_the_model_diverges_nowhere(demo: Demo, name: str) -> None:
    ran = run_diff(demo, name, "--json", "--samples", "4")
    assert ran.code == 0, ran.err + ran.out
    found = json.loads(ran.out)
    assert [row["layer"] for row in found["rows"]] == ["program", *LAYERS, "output"]
    assert found["first"] is None and found["samples"] == 4 and found["layers"] == 4
    assert found["sentence"].startswith("no layer diverges by more than")
    limit = 1e-5 if name.endswith("fp32") else found["tolerance"]
    assert all(row["rms"] <= limit and row["cosine"] > 0.99 for row in found["rows"])
    if "int8" in name:
        assert all(row["rms"] > 1e-4 for row in found["rows"][1:]), "int8 kernels did not run"


def test_a_tolerance_of_one_s_own_and_the_table(demo: Demo) -> None:
    ran = run_diff(demo, "onnx-int8", "--tolerance", "0.0005")
    assert ran.code == 1 and "Traceback" not in ran.err
    marked = [line for line in ran.out.splitlines() if "<- first" in line]
    assert len(marked) == 1 and marked[0].split()[:2] == [LAYERS[0], "Conv"]
    assert ran.out.splitlines()[-1].startswith(f"first diverges at {LAYERS[0]} (Conv): rms ")


@pytest.mark.parametrize("layer", LAYERS[1:3])
def test_a_corrupted_weight_of_an_onnx_file_is_named(demo: Demo, tmp_path: Path, layer: str) -> None:
    folder = broken(demo, "onnx-fp32", tmp_path / "broken", double_onnx(layer))
    ran = run_diff(demo, folder, "--json")
    assert ran.code == 1, ran.err
    found = json.loads(ran.out)
    assert found["first"] == layer
    rows = {row["layer"]: row for row in found["rows"]}
    assert [rows[name]["diverges"] for name in LAYERS] == [name >= layer for name in LAYERS]
    assert rows[layer]["rms"] > 0.1 and not rows["program"]["diverges"] and rows["output"]["diverges"]


def test_nan_in_a_layer_is_a_row_and_json(demo: Demo, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == LAYERS[2])
        weight.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(weight), np.nan), LAYERS[2]))
        onnx.save(model, folder / "model.onnx")

    ran = run_diff(demo, broken(demo, "onnx-fp32", tmp_path / "broken", change), "--json")
    assert ran.code == 1, ran.err
    found = json.loads(ran.out)
    row = next(row for row in found["rows"] if row["layer"] == LAYERS[2])
    assert found["first"] == LAYERS[2] and row["rms"] is None and row["reason"] == "NaN or infinity"


@pytest.mark.parametrize(("name", "pir", "layer"), [("paddle-inference-fp32", "1", LAYERS[2]), ("paddle-inference-int8-x86", "0", LAYERS[1])])
def test_a_corrupted_parameter_of_a_paddle_program_is_named(demo: Demo, tmp_path: Path, name: str, pir: str, layer: str) -> None:
    folder = broken(demo, name, tmp_path / "broken", reverse_parameter(layer, pir))
    ran = run_diff(demo, folder, "--json")
    assert ran.code == 1, ran.err
    assert json.loads(ran.out)["first"] == layer


@pytest.mark.skipif(not lite_is_here(), reason="no Paddle Lite environment: needs CPython 3.10")
def test_a_lite_file_has_no_layers_to_look_into(demo: Demo) -> None:
    ran = run_diff(demo, "paddle-lite-fp32-x86")
    assert ran.code == 0, ran.err
    assert "a .nb file has no layers to look into" in ran.out and f"diff {MODEL}-paddle-inference-fp32 instead" in ran.out
    assert "no output diverges by more than 0.0001" in ran.out


@pytest.mark.skipif(not lite_is_here() or machine_arch() == "arm", reason="needs an artifact for another machine")
def test_what_cannot_run_here_is_unavailable(demo: Demo) -> None:
    ran = run_diff(demo, "paddle-lite-int8-arm")
    assert ran.code == 3 and "made for arm" in ran.err and f"diff {MODEL}-paddle-inference-int8-x86 instead" in ran.err


@pytest.mark.parametrize(
    ("source", "weights", "words"),
    [
        ("mnist_student", False, "its outputs differ by"),
        ("mnist_teacher", False, "its outputs differ by"),
        ("two_tower", False, "two_tower: takes"),
        ("paddle.vision:alexnet", False, "it cannot be run on the artifact's samples"),
        ("nonesuch", False, "unknown model"),
        ("mnist_student", True, "no such weights file"),
    ],
)
def test_another_model_is_one_sentence(demo: Demo, tmp_path: Path, source: str, weights: bool, words: str) -> None:
    more: list[str | Path] = ["--weights", tmp_path / "none.safetensors"] if weights else []
    ran = run_edge("diff", demo.artifacts / f"{MODEL}-onnx-fp32", source, *more)
    assert (ran.code, ran.out) == (2, ""), ran.err
    message = next(line for line in ran.err.splitlines() if line.startswith("edge: "))
    assert words in message and "Traceback" not in ran.err


def test_a_damaged_artifact_is_refused_before_anything_runs(demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(demo.artifacts / f"{MODEL}-onnx-fp32", folder)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1] + b"?")
    ran = run_diff(demo, folder)
    assert ran.code == 2 and "sha256" in ran.err


def test_the_cut_of_a_program_holds_what_the_layer_needs_and_every_parameter(demo: Demo, tmp_path: Path) -> None:
    program = load_artifact(demo.artifacts / f"{MODEL}-paddle-inference-fp32").path("model")
    assert program is not None
    whole = read_program(program)
    layers = layers_of(whole)
    assert [layer.name for layer in layers] == LAYERS
    (tmp_path / "cut.json").write_bytes(cut(program, [layers[1].end]))
    half = read_program(tmp_path / "cut.json")
    assert half.parameters == whole.parameters and half.outputs == (layers[1].end,)
    assert [layer.name for layer in layers_of(half)] == LAYERS[:2]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"program": {"regions": []}}', "[" * 100_000, '{"program": {"regions": [{"blocks": [{"ops": [{}]}]}]}}']
)
def test_a_program_that_is_none_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(BadInput, match="not a Paddle program"):
        read_program(tmp_path / "model.json")


SHARED = """
from paddle import nn

class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2D(3, 8, 3, padding=1, bias_attr=False), nn.BatchNorm2D(8)
        self.second, self.shared = nn.Conv2D(8, 8, 3, padding=1), nn.Conv2D(8, 8, 1)

    def forward(self, x):
        x = nn.functional.hardswish(self.norm(self.first(x)))
        return (self.shared(x) + self.shared(nn.functional.relu6(self.second(x)))).mean([2, 3])
"""


def test_a_weight_that_two_layers_share_gives_two_rows(tmp_path: Path) -> None:
    (tmp_path / "shared_net.py").write_text(SHARED)
    image = ["--input", "x:?x3x16x16:float32", "--format", "onnx", "--precision", "fp32"]
    made = run_edge("export", "shared_net:Net", "--name", "shared", "--out", "out", *image, cwd=tmp_path)
    assert made.code == 0, made.err
    ran = run_edge("diff", "out/shared-onnx-fp32", "shared_net:Net", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err + ran.out
    rows = [row["layer"] for row in json.loads(ran.out)["rows"]]
    assert rows == ["program", "conv2d_0.w_0", "conv2d_2.w_0", "conv2d_1.w_0", "conv2d_2.w_0#2", "output"]
