"""idx files are untrusted; MNIST is pinned; the fallback is said."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.datasets import load_dataset, mnist
from edge.errors import BadInput


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_idx_round_trip(tmp_path: Path, shape: list[int], zipped: bool) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
    data = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(data) if zipped else data)
    np.testing.assert_array_equal(mnist.read_idx(path), array)


@given(st.binary(max_size=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_garbage_never_crashes_the_reader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(data)
    with contextlib.suppress(BadInput):
        assert mnist.read_idx(path).dtype == np.uint8


def test_a_truncated_gzip_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(BadInput, match="cannot be read"):
        mnist.read_idx(path)


def test_a_named_folder_without_the_files_is_an_error_not_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="missing or not the MNIST file"):
        load_dataset("mnist", tmp_path)
    monkeypatch.setenv("EDGE_MNIST", str(tmp_path))
    with pytest.raises(BadInput, match="EDGE_MNIST"):
        mnist.load()


def test_without_files_the_digits_stand_in_and_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mnist, "folders", lambda: [tmp_path])
    data = mnist.load()
    assert data.name == "digits" and data.note and "embedded" in data.note
    assert len(data.train) + len(data.test) == 1797


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(BadInput, match="digits, mnist"):
        load_dataset("cifar")


@pytest.mark.skipif(not any((f / "train-images-idx3-ubyte").is_file() for f in mnist.folders()), reason="MNIST is not on this machine")
def test_mnist_is_the_real_one() -> None:
    data = load_dataset("mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert abs(float(data.train.images.mean())) < 1e-3 and abs(float(data.train.images.std()) - 1) < 1e-3
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
