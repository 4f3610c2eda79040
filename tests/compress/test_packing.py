"""Packed tensors: bit for bit what went in, small, and a stranger's file breaks nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge.compress.packing import _compressed, _varint, pack, unpack
from edge.errors import BadInput
from edge.package.run.decode import MAGIC

bits = arrays.arrays(np.uint32, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9), elements=st.integers(0, 2**32 - 1))
few = arrays.arrays(np.uint32, arrays.array_shapes(max_dims=3, max_side=40), elements=st.sampled_from((0, 0, 0, 0x3F800000, 0x80000000, 0x7FC00001)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(bits, few), max_size=4))
def test_every_bit_comes_back(tensors: list[np.ndarray]) -> None:
    given_tensors = [tensor.view(np.float32) for tensor in tensors]
    found = unpack(pack(given_tensors))
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in given_tensors]
    assert [tensor.tobytes() for tensor in found] == [tensor.tobytes() for tensor in given_tensors]


@pytest.mark.parametrize(("share", "values"), [(0.005, 8), (0.05, 16), (0.3, 32), (1.0, 4)])
def test_a_sparse_or_shared_tensor_takes_little_more_than_its_entropy(share: float, values: int) -> None:
    random = np.random.default_rng(0)
    kept = random.random(200_000) < share
    tensor = np.where(kept, random.standard_normal(values).astype(np.float32)[random.integers(0, values, kept.size)], np.float32(0))
    p = kept.mean()
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) if p < 1 else 0.0
    least = kept.size * (entropy + p * np.log2(values)) / 8 + 4 * values
    assert least <= len(pack([tensor])) + 8 * values < 1.15 * least + 8 * values


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_varint(70_000) + 70_000 * bytes([1, 0, 0]), "70000 tensors"),
        (bytes([1, 3, 0]) + 2 * _varint(1 << 40) + bytes([0]), "unpacks to too much"),
    ],
)
def test_a_small_file_of_empty_tensors_does_not_fill_the_memory(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        unpack(MAGIC + _compressed(body)[0])


def test_zeros_that_are_far_apart_are_found_again() -> None:
    tensor = np.zeros(5000, np.float32)
    tensor[[0, 255, 256, 511, 1022, 4999]] = 1.5
    assert np.array_equal(unpack(pack([tensor]))[0], tensor)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_bad_input(data: st.DataObject) -> None:
    whole = bytearray(pack([np.arange(12, dtype=np.float32).reshape(3, 4), np.eye(5, dtype=np.float32)]))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        found = unpack(bytes(whole[:cut]))
    except BadInput:
        return
    assert all(tensor.dtype == np.float32 for tensor in found)


@pytest.mark.parametrize("junk", [b"", b"EDGEPK", b"EDGEPK\x09abc", b"PK\x03\x04", b"EDGEPK\x00" + b"\xff" * 50])
def test_junk_is_bad_input(junk: bytes) -> None:
    with pytest.raises(BadInput, match="not a readable packed model"):
        unpack(junk)
