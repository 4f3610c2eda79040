"""Packing by scales: found without being told, bit-exact, and as small as the codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.compress.packing import pack, scales_of, unpack
from edge.compress.share_weights import to_bfloat16
from edge.errors import BadInput
from edge.package.run.decode import MAGIC

seeds = st.integers(0, 999)


def scaled(shape: tuple[int, ...], axis: int, most: int, seed: int, spread: float = 1.0) -> Any:
    random = np.random.default_rng(seed)
    codes = np.clip(np.rint(random.standard_normal(shape) * most / 3), -most, most).astype(np.float32)
    scales = to_bfloat16(np.exp(random.standard_normal(shape[axis]) * spread).astype(np.float32) * 1e-2)
    return codes * scales.reshape([-1 if number == axis else 1 for number in range(len(shape))]) + np.float32(0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.sampled_from([1, 7, 127]), seeds, st.floats(0, 6))
def test_codes_times_scales_decode_to_the_same_bits(shape: list[int], most: int, seed: int, spread: float) -> None:
    tensors = [scaled(tuple(shape), axis, most, seed, spread) for axis in (0, len(shape) - 1)]
    assert [tensor.tobytes() for tensor in unpack(pack(tensors))] == [tensor.tobytes() for tensor in tensors]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(width=32), min_size=6, max_size=6), seeds)
def test_whatever_comes_decodes_to_the_same_bits(values: list[float], seed: int) -> None:
    """NaN, infinities, denormals and negative zeros among them, alone and in the midst of scaled weights."""
    strange = np.array(values, np.float32).reshape(2, 3)
    mixed = np.concatenate([scaled((4, 3), 0, 7, seed), strange])
    assert [tensor.tobytes() for tensor in unpack(pack([strange, mixed]))] == [strange.tobytes(), mixed.tobytes()]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6), st.integers(1, 200), st.sampled_from([1, 7, 127]), seeds, st.floats(0, 6))
def test_scales_are_found_without_being_told(channels: int, length: int, most: int, seed: int, spread: float) -> None:
    rows = scaled((channels, length), 0, most, seed, spread)
    scales = scales_of(rows)
    assert scales is not None
    codes = rows / scales[:, None]
    assert (codes == np.rint(codes)).all() and np.abs(codes).max() <= most


@given(st.sampled_from([3, 70, 150]), seeds)
def test_one_weight_off_its_grid_has_no_scale(place: int, seed: int) -> None:
    rows = scaled((2, 200), 0, 127, seed)
    rows[1, place] = np.nextafter(np.float32(0.013), np.float32(1))
    assert scales_of(rows) is None
    rows[1, place] = -0.0
    assert scales_of(rows) is None


def test_256_codes_and_more_are_not_scaled() -> None:
    assert scales_of(np.arange(-127, 128, dtype=np.float32)[None]) is not None
    assert scales_of(np.arange(-128, 128, dtype=np.float32)[None]) is None


@pytest.mark.parametrize(("most", "bits", "most_bits"), [(1, 1, 1.1), (7, 4, 4.1), (127, 8, 8.2)])
def test_the_file_takes_the_bits_of_its_codes(most: int, bits: int, most_bits: float) -> None:
    random = np.random.default_rng(0)
    codes = random.choice([-1, 1], (256, 400)) if bits == 1 else random.integers(-most, most + 1, (256, 400))
    scales = to_bfloat16(np.exp(random.standard_normal(256)).astype(np.float32))
    for tensor in (codes.astype(np.float32) * scales[:, None], np.ascontiguousarray((codes.astype(np.float32) * scales[:, None]).T)):
        assert 0.95 * np.log2(len(np.unique(codes))) < 8 * len(pack([tensor])) / tensor.size < most_bits


def test_pruned_and_scaled_takes_less_than_its_codes() -> None:
    weights = scaled((200, 300), 0, 7, 0)
    pruned = np.where(np.random.default_rng(1).random(weights.shape) < 0.05, weights, np.float32(0))
    packed = pack([pruned])
    assert unpack(packed)[0].tobytes() == pruned.tobytes()
    assert 8 * len(packed) / pruned.size < 0.55  # entropy of the places 0.29, of the codes at most 0.05 * 3.9; and the scales 0.05


def test_two_values_take_a_bit_each() -> None:
    tensor = np.random.default_rng(0).choice(np.array([0.3, -0.2], np.float32), 80_000)
    assert 8 * len(pack([tensor])) / tensor.size < 1.02  # as codes of a byte they take 1.2


def test_damage_is_one_sentence() -> None:
    packed = bytearray(pack([scaled((40, 50), 0, 7, 0), scaled((5, 4, 3, 3), 0, 1, 0)]))
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(packed)
        damaged[int(random.integers(len(MAGIC), len(packed)))] ^= int(random.integers(1, 256))
        try:
            unpack(bytes(damaged))
        except BadInput as error:
            refused += 1
            assert str(error).startswith("not a readable packed model") and "\n" not in str(error)
    assert refused > 100


UNKNOWN, BAD_AXIS, TWICE, NO_VALUES = b"\x09", b"\x04\x05", b"\x04\x00" + b"\x00" * 4 + b"\x04", b"\x03\x00\x80"


@pytest.mark.parametrize(("way", "says"), [(UNKNOWN, "unknown way, 9"), (BAD_AXIS, ""), (NO_VALUES, ""), (TWICE, "unknown way, 4")])
def test_impossible_ways_are_refused(way: bytes, says: str) -> None:
    import bz2

    with pytest.raises(BadInput, match=f"not a readable packed model: .*{says}"):
        unpack(MAGIC + bytes([4]) + bz2.compress(b"\x01\x01\x01" + way))  # one tensor, of one dimension, with one element
