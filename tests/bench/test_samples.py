"""Raw samples survive the file, and a damaged or hostile text is refused before it is unpacked."""

from __future__ import annotations

import base64
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bench.samples import Samples, pack
from edge.errors import BadInput


@given(st.lists(st.integers(0, 10**15), max_size=200))
def test_samples_come_back_in_order_within_half_a_tick(values: list[int]) -> None:
    packed = pack(np.array(values, np.int64))
    again = Samples.model_validate_json(packed.model_dump_json()).milliseconds()
    assert len(again) == packed.count == len(values)
    assert np.all(np.abs(again * 1e6 - values) <= packed.tick_ns / 2 + 0.2)  # ns; 1e15 ns in a float64 are known to 0.1


@pytest.mark.parametrize(
    ("longest", "tick"), [(0, 10), (1, 10), (10 * 0xFFFFFFFE, 10), (10 * 0xFFFFFFFE + 1, 11), (60 * 10**9, 14), (10**15, 232831)]
)
def test_the_tick_is_10_ns_up_to_42_seconds_and_then_as_fine_as_32_bits_allow(longest: int, tick: int) -> None:
    packed = pack(np.array([longest, 5_000]))
    assert packed.tick_ns == tick
    assert packed.milliseconds()[0] * 1e6 == pytest.approx(longest, abs=tick / 2)


def test_none_and_a_million() -> None:
    assert pack(np.array([], np.int64)).milliseconds().shape == (0,)
    million = np.random.default_rng(0).lognormal(12, 0.1, 1_000_000).astype(np.int64)
    packed = pack(million)
    assert len(packed.data) < 3_000_000
    assert np.abs(packed.milliseconds() * 1e6 - million).max() <= 5.01


def test_a_time_before_its_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        pack(np.array([5, -1]))


GOOD = pack(np.arange(1000) * 997)


@pytest.mark.parametrize(
    "change",
    [
        {"data": GOOD.data[:-1]},
        {"data": GOOD.data[:-4]},
        {"data": GOOD.data[: len(GOOD.data) // 8 * 4]},
        {"data": "*" + GOOD.data[1:]},
        {"data": GOOD.data + "AAAA"},
        {"data": "ü"},
        {"data": ""},
        {"data": base64.b64encode(b"plain").decode()},
        {"count": 999},
        {"count": 1001},
        {"count": 0},
    ],
)
def test_damaged_samples_are_bad_input(change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="the samples are damaged"):
        GOOD.model_copy(update=change).milliseconds()


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = Samples(count=10, tick_ns=10, data=base64.b64encode(zlib.compress(bytes(64 << 20), 9)).decode())
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="10 are announced"):
            bomb.milliseconds()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
