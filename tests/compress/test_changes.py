"""What changed between two nets is counted right, and an attack is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge.compress import changes
from edge.compress.changes import MOST_FLIPS, attacked, blurred, calibration_error, compare, compare_logits, noisy, saliency, saliency_maps, shifted
from edge.compress.prune_weights import PruneWeights
from edge.compress.teaching import untrained
from edge.compress.technique import Subject
from edge.compress.train import TrainConfig, predict, top1
from edge.datasets import Split, load_dataset
from edge.errors import CheckFailed

DIGITS = load_dataset("digits")
LOW, HIGH = float(DIGITS.test.images.min()), float(DIGITS.test.images.max())


@pytest.fixture(scope="module")
def trained() -> Subject:
    subject = Subject("lenet300", untrained("lenet300", 0), DIGITS.train, DIGITS.test)
    subject.fit(TrainConfig(6))
    return subject


def logits_for(*classes: int, confidence: float = 0.9, of: int = 4) -> np.ndarray:
    """Logits whose softmax gives these classes this confidence."""
    rest = (1 - confidence) / (of - 1)
    return np.log(np.where(np.eye(of)[list(classes)] > 0, confidence, rest)).astype(np.float32)


def test_flips_agreement_and_classes_are_counted() -> None:
    labels = np.array([0, 1, 2, 3, 0, 1])
    before, after = logits_for(0, 1, 0, 0, 0, 2), logits_for(0, 2, 2, 1, 0, 2)
    found = compare_logits(before, after, labels)
    assert found.agreement == pytest.approx(50.0)
    assert found.accuracy.before == pytest.approx(50.0) == found.accuracy.after
    assert (found.flips.broken, found.flips.mended, found.flips.other) == (1, 1, 1)
    assert [(f.index, f.label, f.before, f.after) for f in found.flips.listed] == [(1, 1, 1, 2), (2, 2, 0, 2), (3, 3, 0, 1)]
    assert [(c.label, c.samples, c.before, c.after) for c in found.by_class] == [(0, 2, 100, 100), (1, 2, 50, 0), (2, 1, 0, 100), (3, 1, 0, 0)]


@given(arrays(np.int64, st.tuples(st.just(3), st.integers(1, 60)), elements=st.integers(0, 3)))
def test_the_counts_agree_with_each_other(drawn: np.ndarray) -> None:
    before, after, labels = drawn
    found = compare_logits(logits_for(*before), logits_for(*after), labels)
    flips = found.flips
    assert flips.broken + flips.mended + flips.other == round((100 - found.agreement) * found.samples / 100) == len(flips.listed)
    assert found.accuracy.after - found.accuracy.before == pytest.approx(100 * (flips.mended - flips.broken) / found.samples)
    assert sum(c.samples * c.after for c in found.by_class) / found.samples == pytest.approx(found.accuracy.after)
    back = compare_logits(logits_for(*after), logits_for(*before), labels).flips
    assert (back.broken, back.mended, back.other) == (flips.mended, flips.broken, flips.other)


def test_many_flips_are_counted_though_not_all_listed() -> None:
    count = MOST_FLIPS + 5
    found = compare_logits(logits_for(*[0] * count), logits_for(*[1] * count), np.zeros(count, np.int64))
    assert found.flips.broken == count and len(found.flips.listed) == MOST_FLIPS


def test_the_calibration_error_of_a_known_case() -> None:
    """Ten images at 90 %, seven of them right; ten at 61 %, six right: gaps of 0.2 and 0.01."""
    sure, unsure = logits_for(*[0] * 10, confidence=0.9), logits_for(*[0] * 10, confidence=0.61)
    labels = np.array([0] * 7 + [1] * 3 + [0] * 6 + [1] * 4)
    assert calibration_error(np.concatenate([sure, unsure]), labels) == pytest.approx(100 * (0.2 * 10 + 0.01 * 10) / 20, abs=1e-3)
    assert calibration_error(logits_for(0, 0, confidence=1 - 1e-9), np.array([1, 1])) == pytest.approx(100)


def test_opposite_gaps_count_within_a_bin_only_together() -> None:
    """Guo et al.: the gap of the bin's means, so being right at 62 % and wrong at 64 % is one gap of |0.5 - 0.63|."""
    both = np.concatenate([logits_for(0, confidence=0.62), logits_for(0, confidence=0.64)])
    assert calibration_error(both, np.array([0, 1])) == pytest.approx(13.0, abs=1e-3)


def test_an_attack_stays_in_its_ball_and_its_range_and_lowers_accuracy(trained: Subject) -> None:
    few = DIGITS.test.head(100)
    largest = 0.1 * (HIGH - LOW)
    found = attacked(trained.layer, few, largest, LOW, HIGH, seed=0)
    assert abs(found - few.images).max() <= largest + 1e-5 and found.min() >= LOW and found.max() <= HIGH
    clean = top1(predict(trained.layer, few.images), few.labels)
    random = noisy(few.images, largest, LOW, HIGH, 0)
    assert top1(predict(trained.layer, found), few.labels) < clean - 30
    assert top1(predict(trained.layer, random), few.labels) > clean - 10  # noise of that size alone does not do it
    np.testing.assert_array_equal(found, attacked(trained.layer, few, largest, LOW, HIGH, seed=0))
    assert (found != attacked(trained.layer, few, largest, LOW, HIGH, seed=1)).any()


def test_saliency_of_a_linear_net_is_its_weights_times_the_image() -> None:
    import paddle

    net = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(784, 10))
    images, classes = DIGITS.test.images[:3], np.array([4, 0, 9])
    expected = images.reshape(3, -1) * net[1].weight.numpy().T[classes]
    np.testing.assert_allclose(saliency_maps(net, images, classes).reshape(3, -1), expected, rtol=1e-5)


def test_saliency_is_compared_by_rank(trained: Subject) -> None:
    import paddle

    images = DIGITS.test.images[:20]
    assert saliency(trained.layer, trained.layer, images).correlation == pytest.approx(1.0)
    other = saliency(trained.layer, untrained("lenet300", 3), images).correlation
    assert other is not None and -0.3 < other < 0.6
    flat = untrained("lenet300", 0)
    for parameter in flat.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    assert saliency(trained.layer, flat, images).correlation is None  # all gradients are zero: nothing to rank


def test_images_are_disturbed_as_stated() -> None:
    images = DIGITS.test.images[:50]
    moved = shifted(images, 2, LOW)
    np.testing.assert_array_equal(moved[..., 2:, 2:], images[..., :-2, :-2])
    assert (moved[..., :2, :] == np.float32(LOW)).all() and (moved[..., :, :2] == np.float32(LOW)).all()
    middle = np.full((2000, 1, 4, 4), (LOW + HIGH) / 2, np.float32)
    noise = noisy(middle, 0.1 * (HIGH - LOW), LOW, HIGH, 0) - middle
    assert noise.std() == pytest.approx(0.1 * (HIGH - LOW), rel=0.02)
    dot = np.zeros((2, 1, 15, 15), np.float32)
    dot[0, 0, 7, 7] = 1
    spread = blurred(dot, 1.0)
    assert spread[0].sum() == pytest.approx(1, rel=1e-3) and (spread[1] == 0).all()  # no image leaks into the next
    assert spread[0, 0, 7, 8] / spread[0, 0, 7, 7] == pytest.approx(np.exp(-0.5), rel=1e-3)


def test_a_pruned_net_is_compared_in_every_way(trained: Subject) -> None:
    pruned = Subject("lenet300", untrained("lenet300", 0), DIGITS.train, DIGITS.test)
    pruned.layer.set_state_dict({name: value.numpy() for name, value in trained.layer.state_dict().items()})
    PruneWeights(sparsity=0.97).run(pruned)
    found = compare(trained.layer, pruned.layer, DIGITS.test, seed=0, samples=100, maps=20)
    assert found.accuracy.after < found.accuracy.before and found.flips.broken > found.flips.mended
    assert found.saliency is not None and found.saliency.samples == 20
    names = [each.name for each in found.robustness]
    assert names == ["noise", "blur", "shift", "pgd", "pgd"] and all(each.samples == 100 for each in found.robustness)
    weak, strong = found.robustness[3:]
    assert weak.before > strong.before and weak.settings["eps_of_range"] < strong.settings["eps_of_range"]
    again = compare(trained.layer, pruned.layer, DIGITS.test, seed=0, samples=100, maps=20)
    assert again == changes.Changes.model_validate_json(found.model_dump_json())


def test_a_net_against_itself_has_not_changed(trained: Subject) -> None:
    found = compare(trained.layer, trained.layer, DIGITS.test.head(60), seed=3, samples=20, maps=5)
    assert found.agreement == 100 and not found.flips.listed
    assert all(each.before == each.after for each in (found.accuracy, found.calibration, *found.by_class, *found.robustness))


def test_logits_that_are_no_numbers_are_refused() -> None:
    bad = logits_for(0, 1)
    bad[1, 2] = np.nan
    with pytest.raises(CheckFailed, match="NaN or infinity for 1 of 2 images"):
        compare_logits(logits_for(0, 1), bad, np.array([0, 1]))


def test_samples_are_limited_to_what_there_is(trained: Subject) -> None:
    few = Split(DIGITS.test.images[:7], DIGITS.test.labels[:7])
    found = compare(trained.layer, trained.layer, few, seed=0, samples=100, maps=50)
    assert found.samples == 7 and all(each.samples == 7 for each in found.robustness) and found.saliency is not None and found.saliency.samples == 7
