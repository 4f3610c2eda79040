"""--max-drop on a net that int8 ruins: the trained student, rescaled channel by channel.

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


def export(weights: Path, out: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    ran = run_edge(
        "export", "mnist_student", "--weights", weights, "--calibration", "digits", "--precision", "int8",
        "--format", "onnx,paddle-inference", "--out", out, "--json", *options,
    )  # fmt: skip
    return ran.code, {cell["format"]: cell for cell in json.loads(ran.out or "[]") if cell["status"] != "unsupported"}, ran.err


def test_plain_int8_is_refused_and_says_what_to_try(rescaled: Path, tmp_path: Path) -> None:
    code, cells, err = export(rescaled, tmp_path)
    assert code == 1 and "--max-drop" in err
    assert {cell["status"] for cell in cells.values()} == {"failed"} and not list(tmp_path.glob("*/manifest.json"))


def test_the_layer_that_hurts_stays_in_float(rescaled: Path, tmp_path: Path) -> None:
    code, cells, err = export(rescaled, tmp_path, "--max-drop", "1")
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
