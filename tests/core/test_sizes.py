"""Samples at the ends of stated ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.artifact import TensorInfo
from edge.datasets.samples import Samples
from edge.datasets.sizes import SAMPLES, at_the_ends
from edge.errors import BadInput

SIDE = st.integers(1, 12)


@given(side=SIDE, ends=st.tuples(SIDE, SIDE), count=st.integers(1, 6))
def test_each_end_has_its_size_and_elements_of_the_sample(side: int, ends: tuple[int, int], count: int) -> None:
    low, high = min(ends), max(ends)
    info = TensorInfo(name="x", shape=(None, 2, None), dtype="int64", ranges=(None, None, (low, high)))
    array = np.arange(count * 2 * side).reshape(count, 2, side)
    found = at_the_ends([info], Samples((array,), None))
    assert [samples.inputs[0].shape[2] for samples in found] == [end for end in (low, high) if end != side]
    for samples in found:
        stretched = samples.inputs[0]
        assert len(stretched) == min(count, SAMPLES) and stretched.dtype == array.dtype
        rows = zip(stretched.reshape(-1, stretched.shape[2]), array.reshape(-1, side)[: 2 * SAMPLES], strict=True)
        assert all(set(row) <= set(own) and list(row) == sorted(row) for row, own in rows)


def test_no_range_no_other_sizes() -> None:
    info = TensorInfo(name="x", shape=(None, 2, None), dtype="float32")
    assert at_the_ends([info], Samples((np.zeros((3, 2, 5), np.float32),), None)) == []


def test_sizes_beyond_memory_are_refused() -> None:
    info = TensorInfo(name="x", shape=(None, None), dtype="float32", ranges=(None, (1, 1 << 30)))
    with pytest.raises(BadInput, match="largest of the stated sizes"):
        at_the_ends([info], Samples((np.zeros((4, 5), np.float32),), None))
