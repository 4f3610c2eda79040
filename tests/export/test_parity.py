"""The gate: what it must let pass, and what it must never let pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.export.parity import THRESHOLDS, compare
from edge.vocabulary import Precision

RNG = np.random.default_rng(0)
SOURCE = RNG.normal(size=(1000, 10)).astype(np.float32)
LABELS = SOURCE.argmax(1)


@pytest.mark.parametrize("precision", Precision)
def test_equal_outputs_pass(precision: Precision) -> None:
    parity = compare(precision, [SOURCE], [SOURCE.copy()], LABELS)
    assert parity.passed and parity.max_abs == 0 and parity.top1_agreement == 100 and parity.accuracy == 100


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_fails(precision: Precision, bad: float) -> None:
    outputs = SOURCE.copy()
    outputs[500, 3] = bad
    parity = compare(precision, [SOURCE], [outputs], LABELS)
    assert not parity.passed and "1 of 1000 samples" in str(parity.reason) and parity.max_abs is None


def test_one_wrong_class_fails_fp32_even_within_the_tolerance() -> None:
    source = SOURCE.copy()
    source[0] = 0
    source[0, :2] = [1e-6, 0]
    outputs = source.copy()
    outputs[0, :2] = [0, 1e-6]
    parity = compare(Precision.FP32, [source], [outputs])
    assert parity.max_rel is not None and parity.max_rel < 1e-4
    assert not parity.passed and "99.90 %" in str(parity.reason)


@given(st.sampled_from(list(Precision)), st.floats(0, 0.5))
def test_the_difference_is_held_to_the_threshold(precision: Precision, size: float) -> None:
    outputs = SOURCE.copy()
    outputs[0, LABELS[0]] += np.float32(size)  # one number of ten thousand: the cosine and the classes stay within every bound
    parity = compare(precision, [SOURCE], [outputs], LABELS)
    limit = THRESHOLDS[precision].max_rel
    assert parity.max_rel is not None
    assert parity.passed == (limit is None or parity.max_rel <= limit)


def test_int8_may_lose_three_tenths_of_a_point_and_no_more() -> None:
    for wrong, passes in ((3, True), (4, False)):
        outputs = SOURCE.copy()
        outputs[:wrong] = np.roll(outputs[:wrong], 1, axis=1)
        assert compare(Precision.INT8, [SOURCE], [outputs], LABELS).passed is passes


def test_a_bound_of_the_users_own_takes_the_place_of_the_gates() -> None:
    outputs = SOURCE.copy()
    outputs[:10] = np.roll(outputs[:10], 1, axis=1)
    for bound, passes in ((None, False), (0.9, False), (1.0, True)):
        assert compare(Precision.INT8, [SOURCE], [outputs], LABELS, max_drop=bound).passed is passes


def test_a_bound_holds_what_is_no_classifier_by_its_angle_and_one_without_labels_by_its_classes() -> None:
    maps = SOURCE.reshape(1000, 1, 2, 5)
    outputs = maps + RNG.normal(scale=0.2, size=maps.shape).astype(np.float32)  # cosine about 1 / sqrt(1.04)
    assert compare(Precision.INT8, [maps], [outputs]).passed
    assert compare(Precision.INT8, [maps], [outputs], max_drop=2.5).passed
    assert "the cosine falls by" in str(compare(Precision.INT8, [maps], [outputs], max_drop=1.5).reason)
    rolled = SOURCE.copy()
    rolled[:10] = np.roll(rolled[:10], 1, axis=1)
    assert compare(Precision.INT8, [SOURCE], [rolled], max_drop=1.0).passed
    assert "the agreement falls by 1.00 points" in str(compare(Precision.INT8, [SOURCE], [rolled], max_drop=0.9).reason)


def test_random_input_does_not_judge_the_classes_of_a_reduced_precision() -> None:
    outputs = SOURCE + RNG.normal(scale=0.2, size=SOURCE.shape).astype(np.float32)
    real, random = (compare(Precision.INT8, [SOURCE], [outputs], real=kind) for kind in (True, False))
    assert real.passed is False and "agrees" in str(real.reason)
    assert random.passed is True and random.real is False and random.top1_agreement == real.top1_agreement


def test_every_output_counts() -> None:
    other = RNG.normal(size=(1000, 4, 3)).astype(np.float32)
    assert compare(Precision.FP32, [SOURCE, other], [SOURCE, other]).passed
    assert not compare(Precision.FP32, [SOURCE, other], [SOURCE, other + np.float32(0.01)]).passed
    assert not compare(Precision.FP32, [SOURCE, other], [SOURCE]).passed


def test_noise_fails_int8_by_its_angle() -> None:
    maps = RNG.normal(size=(20, 1, 8, 8)).astype(np.float32)
    parity = compare(Precision.INT8, [maps], [RNG.normal(size=maps.shape).astype(np.float32)])
    assert not parity.passed and "cosine" in str(parity.reason) and parity.top1_agreement is None


def test_another_shape_fails() -> None:
    assert not compare(Precision.INT8, [SOURCE], [SOURCE[:, :9]]).passed
