"""--max-drop on nets that int8 ruins, rescaled channel by channel: the trained student, and one that is no classifier.

A relu and a pool let a positive factor through, so a factor on a channel of the first convolution and its inverse on the second one's weights leave
the function as it is, and spread the ranges of the channels over three decades (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.1, the other way round).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge.artifact import load_artifact
from tests.conftest import Demo, run_edge


@pytest.fixture(scope="module")
def rescaled(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays = load_file(demo.weights)
    factors = np.logspace(0, 3, len(arrays["conv1.bias"]), dtype=np.float32)
    arrays["conv1.weight"] = arrays["conv1.weight"] * factors[:, None, None, None]
    arrays["conv1.bias"] = arrays["conv1.bias"] * factors
    arrays["conv2.weight"] = arrays["conv2.weight"] / factors[None, :, None, None]
    path = tmp_path_factory.mktemp("rescaled") / "weights.safetensors"
    save_file(arrays, path)
    return path


#: Its outputs are maps, as a detector's are.
MAPS = """
import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec


def maps():
    net = nn.Sequential(nn.Conv2D(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2), nn.Conv2D(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2D(8, 4, 3))
    factors = paddle.to_tensor(np.logspace(0, 3, 16, dtype=np.float32))
    net[0].weight.set_value(net[0].weight * factors.reshape([-1, 1, 1, 1]))
    net[3].weight.set_value(net[3].weight / factors.reshape([1, -1, 1, 1]))
    net.input_spec = [InputSpec([None, 1, 28, 28], "float32", "image")]
    return net
"""


def export(model: str, out: Path, *options: str | Path, cwd: Path | None = None) -> tuple[int, dict[str, dict[str, Any]], str]:
    ran = run_edge(
        "export", model, "--calibration", "digits", "--precision", "int8", "--format", "onnx,paddle-inference", "--out", out, "--json", *options,
        cwd=cwd,
    )  # fmt: skip
    return ran.code, {cell["format"]: cell for cell in json.loads(ran.out or "[]") if cell["status"] != "unsupported"}, ran.err


def test_plain_int8_is_refused_and_says_what_to_try(rescaled: Path, tmp_path: Path) -> None:
    code, cells, err = export("mnist_student", tmp_path, "--weights", rescaled)
    assert code == 1 and "--max-drop" in err
    assert {cell["status"] for cell in cells.values()} == {"failed"} and not list(tmp_path.glob("*/manifest.json"))


def test_the_layer_that_hurts_stays_in_float(rescaled: Path, tmp_path: Path) -> None:
    code, cells, err = export("mnist_student", tmp_path, "--weights", rescaled, "--max-drop", "1")
    assert code == 0, err
    for cell in cells.values():
        artifact = load_artifact(tmp_path / cell["artifact"])
        int8, parity = artifact.manifest.int8, artifact.manifest.parity
        assert int8 is not None and int8.tuning is not None and int8.max_drop == 1
        assert int8.float_layers == ("conv3x3_1.w_0",)
        plain, kept = int8.tuning.plain, int8.tuning.kept
        assert plain.drop > 2 and kept.drop <= 1
        assert kept.size > plain.size and kept.p50 > 0
        assert parity.passed and parity.accuracy is not None
        assert parity.accuracy >= (artifact.manifest.provenance.source_accuracy or 0) - 1.001
        assert 2 <= cell["kernels"]["reduced"] <= 3
        assert "conv3x3_1.w_0 kept in float" in cell["note"]


def test_the_outputs_of_what_is_no_classifier_are_held_by_their_angle(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(MAPS)
    code, cells, err = export("nets:maps", tmp_path / "out", "--max-drop", "0.5", cwd=tmp_path)
    assert code == 0 and "try layers in float: " in err, err
    for cell in cells.values():
        int8 = load_artifact(tmp_path / "out" / cell["artifact"]).manifest.int8
        assert int8 is not None and int8.tuning is not None and int8.tuning.metric == "cosine"
        assert int8.float_layers and int8.tuning.plain.drop > 2 and int8.tuning.kept.drop <= 0.5
        assert cell["parity"]["cosine"] >= 0.995 and cell["parity"]["top1_agreement"] is None
        assert "kept in float: cosine loss" in cell["note"]
