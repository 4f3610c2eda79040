"""Quantization: the gradients of the papers, the values that are left, and what of it is packed, kept and refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.compress.constraints import Fixed, as_arrays, from_arrays
from edge.compress.folder import packed_state
from edge.compress.packing import scales_of, unpack
from edge.compress.quantize import Quantize, Target, as_stored, aware, highest, learned_step, quantized, runnable, scales_after_training, signs
from edge.compress.share_weights import to_bfloat16
from edge.compress.steps import parse_step
from edge.compress.technique import Subject
from edge.compress.train import TrainConfig, predict
from edge.errors import BadInput
from tests.compress.test_low_rank import subject_of

ALL_BITS: Any = st.sampled_from([8, 4])


def linear(seed: int, bits: Any = 4, inputs: int = 40, outputs: int = 6) -> Target:
    paddle.seed(seed)
    layer = paddle.nn.Linear(inputs, outputs)
    layer.weight.set_value(np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32) * 0.1)
    return Target(layer, "weight", 1, bits)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), ALL_BITS, st.floats(0.002, 0.2))
def test_the_gradients_are_those_of_the_paper(seed: int, bits: int, size: float) -> None:
    """Esser et al. 2019: for -Q < w/s < Q the scale's is -w/s + round(w/s), else -Q or Q; the weight's is 1 within and 0 beyond."""
    random = np.random.default_rng(seed)
    w = random.standard_normal((5, 8)).astype(np.float32) * 0.3
    s = (size * np.exp(random.standard_normal((5, 1)))).astype(np.float32)
    outer = random.standard_normal((5, 8)).astype(np.float32)
    weight, scale, most = paddle.to_tensor(w, stop_gradient=False), paddle.to_tensor(s, stop_gradient=False), highest(bits)
    (learned_step(weight, scale, most) * paddle.to_tensor(outer)).sum().backward()
    ratio = w.astype(np.float64) / s
    of_scale = np.where(ratio <= -most, -most, np.where(ratio >= most, most, np.rint(ratio) - ratio))
    np.testing.assert_allclose(scale.grad.numpy(), (outer * of_scale).sum(1, keepdims=True), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(weight.grad.numpy(), outer * (np.abs(ratio) < most), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), ALL_BITS)
def test_training_computes_on_codes_times_a_stored_scale(seed: int, bits: int) -> None:
    """Bit for bit, for otherwise what was trained would not be what is packed."""
    random = np.random.default_rng(seed)
    w = random.standard_normal((6, 50)).astype(np.float32)
    scale = as_stored(paddle.to_tensor(np.exp(random.standard_normal((6, 1))).astype(np.float32) * 0.1))
    assert to_bfloat16(scale.numpy()).tobytes() == scale.numpy().tobytes()
    rounded = learned_step(paddle.to_tensor(w), scale, highest(bits)).numpy() + np.float32(0)
    codes = np.rint(rounded / scale.numpy())
    assert (codes * scale.numpy()).tobytes() == rounded.tobytes() and np.abs(codes).max() <= highest(bits)
    assert scales_of(rounded) is not None


def test_signs_have_the_mean_magnitude_and_its_gradient() -> None:
    w = np.array([[0.5, -0.1, 0.0, 0.3], [-2.0, 1.0, 0.25, -0.75]], np.float32)
    weight = paddle.to_tensor(w, stop_gradient=False)
    values = signs(weight, (1,))
    means = [to_bfloat16(np.array([0.3], np.float32))[0], 1.0]  # of those that are not zero
    np.testing.assert_array_equal(values.numpy(), np.sign(w) * np.array(means, np.float32)[:, None])
    outer = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 2.0, 0.5]], np.float32)
    (values * paddle.to_tensor(outer)).sum().backward()
    through = outer * np.array(means)[:, None] * (np.abs(w) <= 1)
    of_mean = (outer * np.sign(w)).sum(1, keepdims=True) * np.sign(w) / np.array([[3], [4]])
    np.testing.assert_allclose(weight.grad.numpy(), through + of_mean, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), ALL_BITS)
def test_no_cut_of_the_range_is_better_than_the_chosen_one(seed: int, bits: Any) -> None:
    target = linear(seed, bits, 2000)
    weight, chosen = target.weight.numpy(), scales_after_training(target).numpy()

    def error(scale: Any) -> Any:
        codes = np.clip(np.rint(weight / scale), -highest(bits), highest(bits))
        return ((codes * scale - weight) ** 2).sum(0)

    for cut in np.linspace(0.2, 1.0, 30):
        assert (error(chosen) <= 1.05 * error(np.abs(weight).max(0, keepdims=True) * cut / highest(bits))).all()


def test_cutting_pays_at_4_bits() -> None:
    target = linear(0, 4, 4000)
    weight = target.weight.numpy()
    uncut = np.abs(weight).max(0, keepdims=True) / 7
    plain = ((np.clip(np.rint(weight / uncut), -7, 7) * uncut - weight) ** 2).sum()
    cut = ((quantized(target, scales_after_training(target)).numpy() - weight) ** 2).sum()
    assert cut < 0.8 * plain


def test_channels_of_zeros_stay_zero() -> None:
    target = linear(0, 4)
    target.weight.set_value(np.zeros((40, 6), np.float32))
    assert not quantized(target, scales_after_training(target)).numpy().any()
    assert not signs(target.weight, (0,)).numpy().any()


@pytest.fixture(scope="module")
def dense() -> dict[str, Any]:
    subject = subject_of("lenet300", 800)
    parse_step({"step": "train", "epochs": 4, "batch_size": 32}, "here").run(subject)
    return {name: value.numpy() for name, value in subject.layer.state_dict().items()}


def trained(dense: dict[str, Any]) -> Subject:
    subject = subject_of("lenet300", 800)
    subject.layer.set_state_dict(dense)
    return subject


@pytest.mark.parametrize(
    ("bits", "half", "epochs", "runs", "most_bits"),
    [(16, "float16", 0, "fp16", 16), (16, "bfloat16", 0, "bf16", 16), (8, "float16", 0, "int8", 8.1), (8, "float16", 1, "int8", 8.1),
     (4, "float16", 0, "storage-only", 4.1), (4, "bfloat16", 1, "storage-only", 4.1), (1, "float16", 3, "storage-only", 1.1)],
)  # fmt: skip
def test_each_rung_packs_to_its_bits_and_keeps_the_accuracy(dense: Any, bits: int, half: str, epochs: int, runs: str, most_bits: float) -> None:
    subject = trained(dense)
    before = subject.accuracy()
    record = parse_step({"step": "quantize", "bits": bits, "half": half, "epochs": epochs}, "here").run(subject)
    assert record["runnable"] == runs and set(record["bits"].values()) == {bits}
    packed = packed_state(subject.layer)
    state = [value.numpy() for value in subject.layer.state_dict().values()]
    assert [tensor.tobytes() for tensor in unpack(packed)] == [value.tobytes() for value in state]
    assert 8 * len(packed) / sum(value.size for value in state) < most_bits
    assert subject.accuracy() >= before - (8 if bits == 1 else 3)
    assert set(subject.layer.state_dict()) == set(dense), "the scales learned are no parameters of the model"


def test_training_aware_of_one_bit_mends_what_one_bit_breaks(dense: Any) -> None:
    after, aware_of_it = trained(dense), trained(dense)
    Quantize(bits=1).run(after)
    Quantize(bits=1, epochs=3, learning_rate=1e-3, batch_size=32).run(aware_of_it)
    assert aware_of_it.accuracy() > after.accuracy() + 3


def test_the_scales_are_learned_and_what_was_trained_is_what_is_left(dense: Any) -> None:
    subject = trained(dense)
    targets = Quantize(bits=4)._targets(subject)
    scales = {name: scales_after_training(target) for name, target in targets.items()}
    with aware(targets, scales) as learned:
        subject.fit(TrainConfig(3, 1e-3, 32))
        within = predict(subject.layer, subject.held_out.images)
    changes = learned["fc1.weight"]().numpy() / scales["fc1.weight"].numpy()
    assert (changes > 0).all() and np.abs(changes - 1).max() > 0.01
    assert not np.array_equal(predict(subject.layer, subject.held_out.images), within), "outside it they are as they were trained, in float"
    for name, target in targets.items():
        target.weight.set_value(quantized(target, learned[name]()).numpy())
    np.testing.assert_array_equal(predict(subject.layer, subject.held_out.images), within)


def test_later_training_leaves_it_and_a_resumed_run_too(dense: Any) -> None:
    subject = trained(dense)
    Quantize(bits=4, others=32).run(subject)
    before = {name: value.numpy() for name, value in subject.layer.state_dict().items()}
    subject.constraints = from_arrays(as_arrays(subject.constraints))
    parse_step({"step": "train", "epochs": 1, "weight_decay": 0.1}, "here").run(subject)
    for name, value in subject.layer.state_dict().items():
        assert (value.numpy().tobytes() == before[name].tobytes()) == name.endswith("weight")


def test_ends_and_single_layers_keep_more_bits(dense: Any) -> None:
    subject = trained(dense)
    record = Quantize(bits=1, keep=32, per_layer={"fc3.weight": 8}).run(subject)
    assert record["bits"] == {"fc1.weight": 32, "fc2.weight": 1, "fc3.weight": 8}
    assert record["runnable"] == "storage-only" and set(record["error"]) == {"fc2.weight", "fc3.weight"}
    np.testing.assert_array_equal(subject.layer.fc1.weight.numpy(), dense["fc1.weight"])
    assert "fc1.weight" not in subject.constraints and isinstance(subject.constraints["fc2.weight"], Fixed)


def test_scales_follow_the_outputs_of_linear_layers_and_convolutions() -> None:
    subject = subject_of("lenet5_caffe")
    Quantize(bits=8).run(subject)
    for name, value in subject.layer.named_parameters():
        if value.ndim >= 2:
            rows = value.numpy().T if value.ndim == 2 else value.numpy().reshape(value.shape[0], -1)
            assert scales_of(np.ascontiguousarray(rows)) is not None, name


@pytest.mark.parametrize("bits", [16, 8, 4, 1])
def test_what_was_pruned_stays_zero(dense: Any, bits: Any) -> None:
    subject = trained(dense)
    parse_step({"step": "prune-weights", "sparsity": 0.8}, "here").run(subject)
    zeros = {name: value.numpy() == 0 for name, value in subject.layer.named_parameters() if value.ndim >= 2}
    Quantize(bits=bits, epochs=0 if bits == 16 else 1).run(subject)
    for name, value in subject.layer.named_parameters():
        if value.ndim >= 2:
            assert (value.numpy()[zeros[name]] == 0).all()
            assert (value.numpy() == 0).mean() < 0.97


def test_the_same_seed_gives_the_same_bits(dense: Any) -> None:
    twice = [trained(dense), trained(dense)]
    for subject in twice:
        Quantize(bits=4, epochs=1).run(subject)
    assert packed_state(twice[0].layer) == packed_state(twice[1].layer)


def test_what_a_runtime_executes() -> None:
    assert runnable({16, 32}, "float16") == "fp16" and runnable({16}, "bfloat16") == "bf16"
    assert runnable({8, 32}, "float16") == "int8" and runnable({8, 4}, "float16") == "storage-only"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "bits"),
        ({"bits": 2}, "bits"),
        ({"bits": 16, "epochs": 1}, "16 bits are rounded after training"),
        ({"bits": 8, "keep": 1}, "keep"),
        ({"bits": 8, "per_layer": {"fc1.weight": 3}}, "per_layer"),
        ({"bits": 8, "half": "float8"}, "half"),
    ],
)
def test_bad_settings_are_said(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_step({"step": "quantize", **raw}, "here")


def test_what_cannot_be_done_is_said() -> None:
    subject = subject_of("lenet300")
    with pytest.raises(BadInput, match=r"there is no weight 'fc9\.weight'"):
        Quantize(bits=8, per_layer={"fc9.weight": 4}).run(subject)
    parse_step({"step": "share-weights", "epochs": 0}, "here").run(subject)
    with pytest.raises(BadInput, match=r"fc1\.weight was shared or quantized by a step before"):
        Quantize(bits=8).run(subject)
    large = subject_of("lenet300")
    large.layer.fc2.weight.set_value(np.full((300, 100), 1e5, np.float32))
    with pytest.raises(BadInput, match=r"fc2\.weight holds values beyond 65504"):
        Quantize(bits=16).run(large)
