"""Models of every kind through the command line: several inputs and outputs, saved programs, factories, artifacts; data, resumption, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import load_artifact
from edge.environments import lite_python
from edge.errors import Unavailable
from edge.export import room
from edge.export.support import select
from edge.models.saved import stored_tensors
from tests.conftest import Demo, run_edge

FACTORY = """
import paddle
from paddle import nn
from paddle.static import InputSpec

class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        x = nn.functional.relu(self.norm(self.conv(image)))
        return self.head(x.mean([2, 3]))

def build():
    paddle.seed(1)
    net = Net()
    net.input_spec = [InputSpec([None, 3, 16, 16], "float32", "image")]
    return net

class Ranged(Net):
    input_spec = None

class Fickle(nn.Layer):
    # branches on a size that is a number in eager mode and unknown while it is traced

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)

    def forward(self, image):
        small = image.shape[2] == 16
        return self.conv(image) * (2.0 if isinstance(small, bool) and small else 1.0)

class Upsampled(nn.Layer):
    input_spec = [InputSpec([None, 3, 16, 16], "float32", "image")]

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2D(3, 8, 3, padding=1), nn.Upsample(scale_factor=2)

    def forward(self, image):
        return self.up(self.conv(image)).mean([2, 3])

class Attention(nn.Layer):
    # traced under PIR only
    input_spec = [InputSpec([None, 6, 32], "float32", "tokens")]

    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(32, 96), nn.Linear(32, 5)

    def forward(self, tokens):
        heads = [part.reshape([0, 0, 4, 8]) for part in self.project(tokens).split(3, axis=-1)]
        return self.head(nn.functional.scaled_dot_product_attention(*heads).reshape([0, 0, 32]).mean(1))

class Shared(nn.Layer):
    input_spec = [InputSpec([None, 3, 16, 16], "float32", "image")]

    def __init__(self):
        super().__init__()
        paddle.seed(1)
        self.first = nn.Conv2D(3, 8, 3, padding=1)
        self.one = nn.Conv2D(8, 8, 1)
        self.other = nn.Conv2D(8, 8, 3, padding=1, groups=8, bias_attr=False)

    def forward(self, image):
        x = nn.functional.relu(self.first(image))
        return self.one(x) + self.other(x)
"""
SAVE = """
import os, sys
os.environ["FLAGS_enable_pir_api"] = sys.argv[1]
import paddle
from mynet import build
net = build(); net.eval()
paddle.jit.save(paddle.jit.to_static(net, input_spec=net.input_spec, full_graph=True), sys.argv[2])
"""


def export(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(format, precision, arch) -> cell."""
    ran = run_edge("export", *arguments, "--json", cwd=cwd)
    assert ran.code == code, ran.err
    return {(cell["format"], cell["precision"], cell["target_arch"]): cell for cell in json.loads(ran.out)}


def lite_is_here() -> bool:
    try:
        return lite_python().is_file()
    except Unavailable:
        return False


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a module with a factory, and its net saved as a PIR and as a legacy program."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("home")
    (folder / "mynet.py").write_text(FACTORY)
    (folder / "save.py").write_text(SAVE)
    for flag, prefix in (("1", "pir/net"), ("0", "legacy/net")):
        subprocess.run([sys.executable, "save.py", flag, prefix], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("model", ["two_tower", "lstm_classifier", "transformer_encoder"])
def test_text_and_images_together(model: str, tmp_path: Path) -> None:
    cells = export(model, "--calibration", "random", "--precision", "fp32,fp16,int8", "--out", tmp_path)
    for (format, precision, arch), cell in cells.items():
        if precision == "fp32" and arch != "arm" and (format != "paddle-lite" or lite_is_here()):
            assert cell["status"] == "ok", cell["reason"]
            assert cell["parity"]["max_rel"] <= 1e-4 and cell["parity"]["real"] is False
        assert cell["status"] in ("ok", "exported", "unsupported", "unavailable"), cell["reason"]
    manifest = load_artifact(tmp_path / f"{model}-onnx-fp32").manifest
    if model == "two_tower":
        assert [(t.name, t.dtype) for t in manifest.inputs] == [("image", "float32"), ("ids", "int64")]
        assert len(manifest.outputs) == 3
    assert cells["onnx", "int8", "any"]["kernels"]["reduced"] >= 1


def test_a_factory_runs_from_the_folder_where_the_command_is_typed(home: Path, tmp_path: Path) -> None:
    cells = export("mynet:build", "--precision", "fp32", "--format", "onnx,paddle-inference", "--out", tmp_path, cwd=home)
    assert {cell["status"] for cell in cells.values()} == {"ok"}
    assert load_artifact(tmp_path / "mynet-build-onnx-fp32").manifest.provenance.source == "mynet:build"


def test_stated_ranges_are_compared_at_both_ends(home: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(0).normal(size=(16, 3, 24, 24)).astype(np.float32))
    common: list[str | Path] = ["--input", "image:?x3x16..40x24..32:float32", "--calibration", tmp_path / "data.npz", "--format", "onnx"]
    export("mynet:Ranged", *common, "--precision", "fp32,fp16,int8", "--out", tmp_path, cwd=home)
    for precision in ("fp32", "fp16", "int8"):
        manifest = load_artifact(tmp_path / f"mynet-Ranged-onnx-{precision}").manifest
        assert manifest.inputs[0].ranges == (None, None, (16, 40), (24, 32))
        assert [(size.shapes, size.passed) for size in manifest.parity.sizes] == [(((4, 3, 16, 24),), True), (((4, 3, 40, 32),), True)]
    ran = run_edge("export", "mynet:Fickle", *common, "--precision", "fp32", "--out", tmp_path / "fickle", cwd=home)
    assert ran.code == 1 and "at 3x16x24: outputs differ" in ran.err
    assert not list((tmp_path / "fickle").glob("*/"))


def test_data_beyond_the_stated_range_are_refused(home: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.zeros((16, 3, 64, 24), np.float32))
    command: list[str | Path] = ["mynet:Ranged", "--input", "image:?x3x16..40x24..32", "--calibration", tmp_path / "data.npz"]
    ran = run_edge("export", *command, "--out", tmp_path / "out", cwd=home)
    assert ran.code == 2 and "[N, 3, 64, 24]" in ran.err and "[N, 3, 16..40, 24..32]" in ran.err


def test_a_layer_that_traces_under_pir_only_reaches_the_formats_that_read_pir(home: Path, tmp_path: Path) -> None:
    cells = export("mynet:Attention", "--precision", "fp32,int8", "--calibration", "random", "--out", tmp_path, cwd=home)
    for key in (("onnx", "fp32", "any"), ("onnx", "int8", "any"), ("paddle-inference", "fp32", "any")):
        assert cells[key]["status"] == "ok", cells[key]["reason"]
    legacy_only = cells["paddle-inference", "int8", "x86"]
    assert legacy_only["status"] == "unsupported" and "cannot trace the layer" in legacy_only["reason"]


def test_a_net_that_upsamples_runs_in_paddle_inference_from_its_legacy_program(home: Path, tmp_path: Path) -> None:
    cells = export("mynet:Upsampled", "--precision", "fp32,fp16", "--format", "paddle-inference", "--out", tmp_path, code=3, cwd=home)
    assert cells["paddle-inference", "fp32", "any"]["status"] == "ok"
    assert load_artifact(tmp_path / "mynet-Upsampled-paddle-inference-fp32").manifest.program == "legacy"
    half = cells["paddle-inference", "fp16", "any"]
    assert half["status"] == "unsupported" and "interpolations" in half["reason"]


@pytest.mark.parametrize("source", ["mynet:build", "pir/net", "legacy/net"])
def test_paddle_inference_stores_fp16_in_half_the_bytes(home: Path, tmp_path: Path, source: str) -> None:
    cells = export(source, "--precision", "fp32,fp16", "--format", "paddle-inference", "--out", tmp_path, cwd=home)
    half = cells["paddle-inference", "fp16", "any"]
    assert half["status"] == "ok" and half["kernels"]["reduced"] == 0 and "compute in fp32" in half["kernels"]["reason"]
    (folder,) = tmp_path.glob("*-paddle-inference-fp16")
    params = load_artifact(folder).path("params")
    assert params is not None and all(each.nbytes == 2 * np.prod(each.shape) for each in stored_tensors(params))


def test_a_legacy_program_is_a_source(home: Path, tmp_path: Path) -> None:
    cells = export(home / "legacy" / "net", "--precision", "fp32", "--out", tmp_path)
    assert cells["paddle-inference", "fp32", "any"]["status"] == cells["onnx", "fp32", "any"]["status"] == "ok"
    assert load_artifact(tmp_path / "net-paddle-inference-fp32").manifest.program == "legacy"
    if lite_is_here():
        assert cells["paddle-lite", "fp32", "x86"]["status"] == "ok"


def test_a_pir_program_is_a_source_and_says_what_it_cannot_become(home: Path, tmp_path: Path) -> None:
    cells = export(home / "pir" / "net", "--precision", "fp32,int8", "--calibration", "random", "--out", tmp_path)
    assert cells["paddle-inference", "fp32", "any"]["status"] == cells["onnx", "fp32", "any"]["status"] == "ok"
    assert cells["onnx", "int8", "any"]["status"] == "ok"
    legacy_only = cells["paddle-inference", "int8", "x86"]
    assert legacy_only["status"] == "unsupported" and "PIR program" in legacy_only["reason"] and "FLAGS_enable_pir_api=0" in legacy_only["reason"]


def test_an_artifact_is_a_source(home: Path, tmp_path: Path) -> None:
    export("mynet:build", "--precision", "fp32", "--format", "paddle-inference", "--out", tmp_path, cwd=home)
    again = export(tmp_path / "mynet-build-paddle-inference-fp32", "--precision", "fp32", "--format", "onnx", "--out", tmp_path / "again")
    assert again["onnx", "fp32", "any"]["parity"]["max_rel"] <= 1e-4


def test_what_is_there_is_kept_and_what_has_changed_is_made_again(home: Path, tmp_path: Path) -> None:
    command: list[str | Path] = ["mynet:build", "--precision", "fp32,fp16", "--format", "onnx", "--out", tmp_path]
    first = export(*command, cwd=home)
    assert not any(cell["kept"] for cell in first.values())
    (tmp_path / "mynet-build-onnx-fp16" / "model.onnx").write_bytes(b"cut off in the middle")
    second = export(*command, cwd=home)
    assert second["onnx", "fp32", "any"]["kept"] and not second["onnx", "fp16", "any"]["kept"]
    assert load_artifact(tmp_path / "mynet-build-onnx-fp16")
    third = export(*command, "--opset", "15", cwd=home)
    assert not any(cell["kept"] for cell in third.values())
    assert load_artifact(tmp_path / "mynet-build-onnx-fp32").manifest.program == "onnx opset 15"


def test_an_npz_file_calibrates_and_judges(home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", image=rng.normal(size=(600, 3, 16, 16)).astype(np.float32))
    cells = export(
        "mynet:build", "--precision", "int8", "--format", "onnx", "--calibration", tmp_path / "data.npz", "--allow-mismatch",
        "--method", "percentile", "--out", tmp_path / "out", cwd=home,
    )  # fmt: skip
    int8 = load_artifact(tmp_path / "out" / str(cells["onnx", "int8", "any"]["artifact"])).manifest.int8
    assert int8 is not None and (int8.method, int8.data, int8.samples) == ("percentile", "npz:data.npz", 300)
    assert cells["onnx", "int8", "any"]["parity"]["samples"] == 300 and cells["onnx", "int8", "any"]["parity"]["real"]


def test_what_failed_its_gate_is_neither_taken_up_again_nor_measured(home: Path, tmp_path: Path) -> None:
    """One pixel of a thousand times the others stretches the ranges until nothing else is seen; --allow-mismatch keeps what comes of it."""
    images = np.random.default_rng(0).normal(size=(600, 3, 16, 16)).astype(np.float32)
    images[::20, 0, 0, 0] = 1000
    np.savez(tmp_path / "data.npz", image=images)
    command: list[str | Path] = ["mynet:build", "--precision", "int8", "--format", "onnx", "--calibration", tmp_path / "data.npz"]
    command += ["--out", tmp_path / "out"]
    kept = export(*command, "--allow-mismatch", cwd=home)["onnx", "int8", "any"]
    assert kept["status"] == "failed" and kept["artifact"] and "kept on demand" in kept["reason"]
    assert export(*command, "--allow-mismatch", cwd=home)["onnx", "int8", "any"]["kept"]
    again = run_edge("export", *command, cwd=home)
    assert again.code == 1 and "--allow-mismatch keeps it" in again.err
    bench = run_edge("bench", tmp_path / "out", "--out", tmp_path / "results.json", "--json")
    (row,) = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert row["status"] == "failed" and "failed its gate" in row["reason"] and row["latency"]["p50"]["value"] is None, bench.err


@pytest.mark.skipif(not lite_is_here(), reason="no Paddle Lite environment: needs CPython 3.10")
def test_an_activation_is_read_in_int8_by_one_layer_and_in_float_by_another(home: Path, tmp_path: Path) -> None:
    """Paddle Lite on x86 has no right int8 kernel for the grouped convolution without a bias."""
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(0).normal(size=(300, 3, 16, 16)).astype(np.float32))
    command: list[str | Path] = ["mynet:Shared", "--precision", "int8", "--format", "paddle-lite", "--calibration", tmp_path / "data.npz"]
    cell = export(*command, "--out", tmp_path / "out", cwd=home)["paddle-lite", "int8", "x86"]
    assert cell["status"] == "ok" and cell["parity"]["cosine"] > 0.999, cell["reason"]
    assert (cell["kernels"]["reduced"], cell["kernels"]["total"]) == (2, 3)


def test_int8_without_calibration_says_what_to_add(home: Path, tmp_path: Path) -> None:
    ran = run_edge("export", "mynet:build", "--precision", "int8", "--format", "onnx", "--out", tmp_path, cwd=home)
    assert ran.code == 3 and "needs calibration data" in ran.err and "--calibration" in ran.err


def test_half_precision_inputs_by_choice(home: Path, tmp_path: Path) -> None:
    import onnxruntime

    for flags, kind in (([], "tensor(float)"), (["--half-io"], "tensor(float16)")):
        export("mynet:build", "--precision", "fp16", "--format", "onnx", "--out", tmp_path, *flags, cwd=home)
        session = onnxruntime.InferenceSession(str(tmp_path / "mynet-build-onnx-fp16" / "model.onnx"))
        assert session.get_inputs()[0].type == session.get_outputs()[0].type == kind


def test_one_calibration_for_all_formats(demo: Demo) -> None:
    """The manifests record the same ranges, and both quantized programs hold scales made from them."""
    import onnx
    from onnx import numpy_helper

    made = [load_artifact(path) for path in sorted(demo.artifacts.glob("mnist_student_distilled-*-int8*"))]
    records = [artifact.manifest.int8 for artifact in made]
    assert len(made) >= 2 and all(record == records[0] for record in records) and records[0] is not None
    low, high = records[0].ranges["conv3x3_1.w_0"]
    graph = onnx.load(str(demo.artifacts / "mnist_student_distilled-onnx-int8" / "model.onnx")).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    decoded = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    second = [node for node in graph.node if node.op_type == "Conv"][1]
    scale = values[decoded[second.input[0]].input[1]]
    assert low == 0 and float(scale) == pytest.approx(high / 255, rel=1e-5)


def test_an_export_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = select()
    room.check_room(tmp_path, 1 << 20, cells)
    with pytest.raises(Unavailable, match=r"of disk in .* are free"):
        room.check_room(tmp_path, 1 << 50, cells)
    monkeypatch.setattr(room, "available_memory", lambda: 1 << 30)
    with pytest.raises(Unavailable, match="of memory, 1,024 MiB are available"):
        room.check_room(tmp_path, 1 << 20, cells)
