"""An artifact from a stranger: every damage gets one clear sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import load_artifact
from edge.errors import BadArtifact
from tests.conftest import Demo, edit_manifest


@pytest.fixture
def copy(demo: Demo, tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    shutil.copytree(demo.artifacts / "mnist_student_distilled-onnx-fp32", folder)
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def set_key(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        place: Any = raw
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def test_an_intact_artifact_loads_and_says_where_it_comes_from(copy: Path) -> None:
    artifact = load_artifact(copy)
    manifest = artifact.manifest
    assert artifact.name == "mnist_student_distilled-onnx-fp32"
    assert manifest.program == "onnx opset 17"
    assert [tuple(t.shape) for t in manifest.inputs] == [(None, 1, 28, 28)]
    assert manifest.provenance.recipe and manifest.provenance.recipe["teacher"] == "teacher"
    assert set(manifest.tools) == {"paddlepaddle", "paddle2onnx", "onnx", "onnxruntime"}
    assert artifact.size == (copy / "model.onnx").stat().st_size


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: flip(d / "model.onnx"), "sha256"),
        (lambda d: (d / "model.onnx").write_bytes(b""), "the manifest says"),
        (lambda d: (d / "model.onnx").unlink(), "missing"),
        (lambda d: (d / "manifest.json").unlink(), "not an artifact"),
        (lambda d: (d / "manifest.json").write_text("{"), "not readable JSON"),
        (lambda d: (d / "manifest.json").write_text("[" * 100_000), "not readable JSON"),
        (lambda d: (d / "manifest.json").write_text("[]"), "schema version"),
        (lambda d: (d / "manifest.json").write_bytes(b" " * (2 << 20)), "larger than"),
        (lambda d: edit_manifest(d, set_key("schema_version", value=2)), "schema version 2"),
        (lambda d: edit_manifest(d, set_key("format", value="tflite")), "format"),
        (lambda d: edit_manifest(d, set_key("model", value="../evil")), "model"),
        (lambda d: edit_manifest(d, set_key("files", 0, "path", value="../../etc/passwd")), "not a plain relative path"),
        (lambda d: edit_manifest(d, set_key("files", 0, "path", value="/etc/passwd")), "not a plain relative path"),
        (lambda d: edit_manifest(d, set_key("files", value=[])), "no model file"),
        (lambda d: edit_manifest(d, set_key("surprise", value=1)), "surprise"),
        (lambda d: edit_manifest(d, set_key("parity", "max_abs", value=float("nan"))), "max_abs"),
        (lambda d: edit_manifest(d, set_key("work", "macs", value=1)), "work: .*do not add up"),
        (lambda d: edit_manifest(d, set_key("work", "layers", 0, "input_elements", value=10**12)), "work: .*more elements than the total"),
        (lambda d: edit_manifest(d, set_key("work", "weight_elements", value=-1)), "work.weight_elements"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(copy)
    with pytest.raises(BadArtifact, match=words):
        load_artifact(copy)


def test_a_manifest_from_before_the_work_was_counted_is_read(copy: Path) -> None:
    edit_manifest(copy, lambda raw: raw.pop("work"))
    assert load_artifact(copy).manifest.work is None


def test_a_link_in_place_of_the_model_is_refused(copy: Path) -> None:
    (copy / "model.onnx").rename(copy.parent / "elsewhere")
    (copy / "model.onnx").symlink_to(copy.parent / "elsewhere")
    with pytest.raises(BadArtifact, match="symbolic link"):
        load_artifact(copy)


def test_vectors_with_a_pickle_are_refused(copy: Path) -> None:
    artifact = load_artifact(copy)
    np.savez(copy / "vectors.npz", input_0=np.array([object()]), output_0=np.zeros(1), source_top1=np.zeros(1))
    with pytest.raises(BadArtifact, match="not a readable vectors file"):
        artifact.vectors()
