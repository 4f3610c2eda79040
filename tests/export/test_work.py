"""The counted work of a model: by hand on small graphs, and beside published figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from edge.artifact import LayerWork, Work, load_artifact
from edge.errors import ConversionFailed, Unsupported
from edge.export import work
from edge.workflows import export_source
from edge.workflows.export_source import Source
from tests.conftest import run_edge

Sides = tuple[int | str, ...]
NETS = """
import paddle
from paddle import nn
from paddle.static import InputSpec

class Svd(nn.Layer):
    input_spec = [InputSpec([None, 4, 4], "float32", "x")]

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return paddle.linalg.svd(self.fc(x))[1]
"""


def counted(folder: Path, nodes: list[Any], inputs: dict[str, Sides], weights: dict[str, Any], *samples: Any) -> Work:
    """Work of a graph whose outputs are those of its last node. ``weights``: the shape of a random array, or a list of integers as it stands."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {n: np.array(s, np.int64) if isinstance(s, list) else rng.normal(size=s).astype(np.float32) for n, s in weights.items()}
    kinds = {array.dtype: helper.np_dtype_to_tensor_dtype(array.dtype) for array in samples}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kinds[array.dtype], sides) for (name, sides), array in zip(inputs.items(), samples, strict=True)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in nodes[-1].output if name],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(folder / "net.onnx"))
    paths = {name: str(folder / f"{name}.npy") for name in inputs}
    for path, array in zip(paths.values(), samples, strict=True):
        np.save(path, array)
    found = work.count(str(folder / "net.onnx"), paths, None)
    with mock.patch.object(work, "_inferred_shapes", return_value=None):  # from running it
        assert work.count(str(folder / "net.onnx"), paths, None) == found
    return Work.model_validate(found)


def node(kind: str, reads: str, writes: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, reads.split(), writes.split(), **attributes)


def floats(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def layer(name: str, kind: str, macs: int, weights: int, reads: int, writes: int) -> LayerWork:
    return LayerWork(name=name, kind=kind, macs=macs, weight_elements=weights, input_elements=reads, output_elements=writes)


def test_convolutions_of_every_kind(tmp_path: Path) -> None:
    """3x8x8 -> 8x4x4 -> 8x2x2 (grouped) -> 4x4x4 (transposed) -> 5, for one of the two samples. A Flatten moves nothing, a Relu 256 elements."""
    nodes = [
        node("Conv", "x a b", "t0", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "t0", "t1"),
        node("Conv", "t1 d", "t2", group=8, strides=[1, 1]),
        node("ConvTranspose", "t2 u", "t3", strides=[2, 2]),
        node("Flatten", "t3", "t4"),
        node("Gemm", "t4 g h", "y"),
    ]
    weights: dict[str, Any] = {"a": (8, 3, 3, 3), "b": (8,), "d": (8, 1, 3, 3), "u": (8, 4, 2, 2), "g": (64, 5), "h": (5,)}
    found = counted(tmp_path, nodes, {"x": ("N", 3, "H", "W")}, weights, floats(2, 3, 8, 8))
    assert found.layers == (
        layer("a", "Conv", 8 * 4 * 4 * 3 * 3 * 3, 8 * 27 + 8, 192, 128),
        layer("d", "Conv", 8 * 2 * 2 * 3 * 3, 72, 128, 32),
        layer("u", "ConvTranspose", 8 * 2 * 2 * 4 * 2 * 2, 128, 32, 64),
        layer("g", "Gemm", 64 * 5, 320 + 5, 64, 5),
    )
    assert (found.macs, found.weight_elements, found.activation_elements) == (3456 + 288 + 512 + 320, 749, 320 + 256 + 160 + 96 + 69)


def test_matrix_products_of_every_kind(tmp_path: Path) -> None:
    """Two activations, a constant on the right, one on the left (twice the same), and a transposed activation of one row."""
    nodes = [
        node("MatMul", "q k", "t0", name="scores"),
        node("MatMul", "t0 w", "t1"),
        node("MatMul", "v t1", "t2"),
        node("MatMul", "v t2", "t3"),
        node("Gemm", "r g", "t4", transA=1),
        node("Add", "t3 t4", "y"),
    ]
    inputs: dict[str, Sides] = {"q": ("N", 4, 6, 8), "k": ("N", 4, 8, 6), "r": ("N", 6)}
    weights: dict[str, Any] = {"w": (6, 5), "v": (6, 6), "g": (1, 5)}
    found = counted(tmp_path, nodes, inputs, weights, floats(2, 4, 6, 8), floats(2, 4, 8, 6), floats(2, 6))
    assert found.layers == (
        layer("scores", "MatMul", 4 * 6 * 6 * 8, 0, 192 + 192, 144),
        layer("w", "MatMul", 4 * 6 * 5 * 6, 30, 144, 120),
        layer("v", "MatMul", 4 * 6 * 5 * 6, 36, 120, 120),
        layer("v", "MatMul", 4 * 6 * 5 * 6, 36, 120, 120),
        layer("g", "Gemm", 6 * 5, 5, 6, 30),
    )
    assert found.weight_elements == 30 + 36 + 36 + 5


def test_an_lstm_over_an_embedding(tmp_path: Path) -> None:
    """Of a table of 100 rows the five that are looked up are read, of a Slice what it takes; a scalar is no weight."""
    nodes = [
        node("Gather", "table ids", "t0"),
        node("Transpose", "t0", "t1", perm=[1, 0, 2]),
        node("LSTM", "t1 w r b", "t2", hidden_size=4),
        node("Slice", "t2 from to", "t3"),
        node("Mul", "t3 scale", "y"),
    ]
    weights: dict[str, Any] = {"table": (100, 3), "w": (1, 16, 3), "r": (1, 16, 4), "b": (1, 32), "from": [4], "to": [5], "scale": ()}
    found = counted(tmp_path, nodes, {"ids": ("N", 5)}, weights, np.arange(10).reshape(2, 5))
    assert found.layers == (layer("w", "LSTM", 5 * (16 * 3 + 16 * 4), 48 + 64 + 32, 15, 20),)
    assert (found.weight_elements, found.activation_elements) == (15 + 144, 5 + 15 + 30 + 35 + 8 + 8)


def test_shapes_that_only_the_data_decide(tmp_path: Path) -> None:
    """The five values that are not zero become rows of two."""
    nodes = [node("NonZero", "x", "t0"), node("Cast", "t0", "t1", to=1), node("Transpose", "t1", "t2"), node("MatMul", "t2 w", "y")]
    found = counted(tmp_path, nodes, {"x": ("N", 8)}, {"w": (2, 3)}, np.array([[1, 0, 2, 3, 0, 4, 5, 0], [0] * 8], np.float32))
    assert found.layers == (layer("w", "MatMul", 5 * 2 * 3, 6, 10, 15),)


def test_a_branch_is_not_counted(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    one, other = (
        helper.make_graph([node(kind, "x", name)], kind, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
        for kind, name in (("Relu", "a"), ("Neg", "b"))
    )
    nodes = [node("ReduceSum", "x", "t0", keepdims=0), node("Cast", "t0", "t1", to=9), node("If", "t1", "y", then_branch=one, else_branch=other)]
    with pytest.raises(Unsupported, match="with If is not counted"):
        counted(tmp_path, nodes, {"x": ("N", 8)}, {}, floats(1, 8))


def test_a_model_of_too_many_layers_for_a_manifest_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("MatMul", "x v", "t0"), node("MatMul", "t0 v", "y")]
    monkeypatch.setattr(work, "MAX_LAYERS", 2)
    assert len(counted(tmp_path, nodes, {"x": ("N", 6)}, {"v": (6, 6)}, floats(1, 6)).layers) == 2
    monkeypatch.setattr(work, "MAX_LAYERS", 1)
    with pytest.raises(Unsupported, match="more than 1 layers"):
        counted(tmp_path, nodes, {"x": ("N", 6)}, {"v": (6, 6)}, floats(1, 6))


def exported(folder: Path, model: str, *arguments: str | Path) -> Work:
    ran = run_edge("export", model, "--format", "onnx", "--out", folder, *arguments)
    assert ran.code == 0, ran.err
    (made,) = folder.glob("*-onnx-fp32")
    found = load_artifact(made).manifest.work
    assert found is not None
    return found


def test_lenet_by_hand(tmp_path: Path) -> None:
    """Its layers have the names of the int8 ranges, and the int8 file has the same count."""
    found = exported(tmp_path, "lenet5", "--precision", "fp32,int8", "--calibration", "random")
    assert [(one.kind, one.macs, one.weight_elements, one.input_elements, one.output_elements) for one in found.layers] == [
        ("Conv", 28 * 28 * 6 * 25, 6 * 25 + 6, 784, 4704),
        ("Conv", 10 * 10 * 16 * 6 * 25, 16 * 150 + 16, 1176, 1600),
        ("Gemm", 400 * 120, 400 * 120 + 120, 400, 120),
        ("Gemm", 120 * 84, 120 * 84 + 84, 120, 84),
        ("Gemm", 84 * 10, 84 * 10 + 10, 84, 10),
    ]
    assert (found.macs, found.weight_elements) == (416_520, 61_706)
    relus, pools = 2 * (4704 + 1600 + 120 + 84), 4704 + 1176 + 1600 + 400
    assert found.activation_elements == 784 + 4704 + 1176 + 1600 + 400 + 120 + 120 + 84 + 84 + 10 + relus + pools
    int8 = load_artifact(tmp_path / "lenet5-onnx-int8").manifest
    assert int8.work == found and int8.int8 is not None
    assert [one.name for one in found.layers] == list(int8.int8.ranges)


@pytest.mark.parametrize(
    ("model", "macs", "parameters"),
    [
        # Howard et al. 2017, "MobileNets", table 4: 569 million mult-adds, 4.2 million parameters
        ("mobilenet_v1", 569e6, 4.2e6),
        # He et al. 2016, "Deep Residual Learning", table 1: 1.8e9 multiply-adds; 1.814e9 and 11.7 million parameters on torchvision's page
        ("resnet18", 1.814e9, 11.7e6),
    ],
)
def test_published_counts(tmp_path: Path, model: str, macs: float, parameters: float) -> None:
    found = exported(tmp_path, f"paddle.vision:{model}", "--precision", "fp32")
    assert found.macs == pytest.approx(macs, rel=1e-3)
    assert found.weight_elements == pytest.approx(parameters, rel=0.01)


def test_a_model_without_an_onnx_graph_is_exported_and_not_counted(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    ran = run_edge("export", "nets:Svd", "--format", "paddle-inference", "--precision", "fp32", "--out", tmp_path / "out", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert load_artifact(tmp_path / "out" / "nets-Svd-paddle-inference-fp32").manifest.work is None


def test_a_count_that_fails_is_null_unless_the_export_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that is kept for ever must not lack its count because of Ctrl-C."""

    def killed(inputs: object) -> Work:
        raise ConversionFailed("died of SIGKILL")

    nothing: Any = None
    workspace: Any = SimpleNamespace(work=killed)
    source = Source(nothing, nothing, workspace, (), nothing)
    assert source.work() is None
    monkeypatch.setattr(export_source, "interrupted", lambda: True)
    with pytest.raises(ConversionFailed):
        source.work()
