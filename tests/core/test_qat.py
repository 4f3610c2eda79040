"""Simulated int8 rounds as an export rounds, trains straight through it, and leaves nothing behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edge.artifact import load_artifact
from edge.compress.distill import train_alone
from edge.compress.qat import QatConfig, fake_quantize, fake_quantized, fine_tune, levels_of, observe_ranges, running_statistics
from edge.compress.teaching import untrained
from edge.compress.train import TrainConfig, predict, top1
from edge.datasets import load_dataset
from edge.errors import BadInput, CheckFailed
from edge.models.source import resolve_model
from edge.models.weights import save_weights
from edge.vocabulary import Format, Precision
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest
from edge.workflows.prove import outputs_of

DIGITS = load_dataset("digits")
VALUES = arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=st.floats(-100, 100, width=32))
RANGES = st.floats(0.0009765625, 64, width=32)


def rounded(x: np.ndarray, largest: float | np.ndarray, levels: int) -> np.ndarray:
    import paddle

    return np.asarray(fake_quantize(paddle.to_tensor(x), paddle.to_tensor(np.float32(largest)), levels).numpy())


@settings(deadline=None)
@given(VALUES, RANGES, st.integers(2, 8))
def test_rounding_is_idempotent_and_to_the_nearest_of_the_codes(x: np.ndarray, largest: float, bits: int) -> None:
    levels = levels_of(bits)
    once = rounded(x, largest, levels)
    np.testing.assert_array_equal(rounded(once, largest, levels), once)
    codes = once / np.float32(largest) * levels
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    nearest = np.clip(x.astype(np.float64), -largest, largest)
    assert np.abs(once - nearest).max() <= largest / levels / 2 * 1.001


@pytest.mark.parametrize(("bits", "levels"), [(8, 127), (7, 64), (4, 8), (2, 2)])
def test_a_dense_line_takes_every_value_of_the_code(bits: int, levels: int) -> None:
    assert levels_of(bits) == levels
    assert len(np.unique(rounded(np.linspace(-3, 3, 100_001).astype(np.float32), 2.0, levels))) == 2 * levels + 1


@settings(deadline=None)
@given(VALUES, RANGES)
def test_the_gradient_passes_straight_through_inside_the_range_and_is_zero_outside(x: np.ndarray, largest: float) -> None:
    import paddle

    variable, slope = paddle.to_tensor(x, stop_gradient=False), np.arange(1, x.size + 1, dtype=np.float32).reshape(x.shape)
    (fake_quantize(variable, paddle.to_tensor(np.float32(largest)), 64) * paddle.to_tensor(slope)).sum().backward()
    np.testing.assert_array_equal(variable.grad.numpy(), np.where(np.abs(x) <= np.float32(largest), slope, 0))


def test_the_convolution_that_adds_its_bias_itself_computes_on_rounded_weights_and_inputs() -> None:
    import paddle
    from paddle.nn import functional as F

    from edge.models.convnet import Conv3x3

    paddle.seed(0)
    layer, x = Conv3x3(2, 3), np.random.default_rng(0).normal(size=(2, 2, 6, 6)).astype(np.float32)
    layer.bias.set_value(np.array([1, -2, 3], np.float32))
    weight = layer.weight.numpy()
    by_hand = rounded(weight, np.abs(weight).max((1, 2, 3), keepdims=True), 64)
    expected = F.conv2d(paddle.to_tensor(rounded(x, 2.5, 127)), paddle.to_tensor(by_hand), layer.bias, padding=1)
    with fake_quantized(layer, {"": 2.5}, QatConfig()):
        found = layer(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(layer.weight.numpy(), weight)


def test_rounding_before_the_batch_norm_is_rounding_the_folded_weight() -> None:
    from paddle import nn

    rng = np.random.default_rng(1)
    net, folded = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4)), nn.Sequential(nn.Conv2D(3, 4, 3))
    net[1].weight.set_value(np.array([0.3, -1.7, 40, 0.01], np.float32))
    net[1].bias.set_value(rng.normal(size=4).astype(np.float32))
    net[1]._mean.set_value(rng.normal(size=4).astype(np.float32))
    net[1]._variance.set_value(rng.uniform(0.1, 3, 4).astype(np.float32))
    factor = net[1].weight.numpy() / np.sqrt(net[1]._variance.numpy() + 1e-5)
    folded[0].weight.set_value(net[0].weight.numpy() * factor[:, None, None, None])
    folded[0].bias.set_value(net[1].bias.numpy() - net[1]._mean.numpy() * factor)
    x = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    config = QatConfig(weight_bits=3)
    with fake_quantized(net, {"0": 3.0}, config), fake_quantized(folded, {"0": 3.0}, config):
        found, expected = predict(net, x), predict(folded, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - predict(net, x)).max() > 0.01, "three bits must show"


@pytest.mark.parametrize("name", ["fashion_net", "mnist_student", "lenet5"])
def test_fine_tuning_leaves_an_ordinary_layer_with_other_weights(name: str) -> None:
    layer = untrained(name, 0)
    train_alone(layer, DIGITS.train.head(320), TrainConfig(1))
    before = {key: value.numpy() for key, value in layer.state_dict().items()}
    record = fine_tune(layer, DIGITS.train.head(192), QatConfig())
    after = {key: value.numpy() for key, value in layer.state_dict().items()}
    assert list(after) == list(before) and all(value.dtype == before[key].dtype for key, value in after.items())
    for key, value in after.items():
        assert np.array_equal(value, before[key]) == key.endswith(("_mean", "_variance")), key
    for sub in layer.sublayers(include_self=True):
        assert not sub.training and not {"forward", "weight"} & vars(sub).keys()
        assert not sub._forward_pre_hooks and not sub._forward_post_hooks
    assert record.steps == 3 and math.isfinite(record.loss) and record.drift >= 0
    assert record.ranges.keys() == record.final_ranges.keys() and min(record.ranges.values()) > 0


def test_training_makes_up_for_most_of_what_few_bits_lose() -> None:
    layer = untrained("lenet5", 0)
    train_alone(layer, DIGITS.train, TrainConfig(4))
    few = QatConfig(epochs=3, learning_rate=1e-3, weight_bits=2, activation_bits=2)
    seen: list[float] = []

    def judge() -> None:
        with fake_quantized(layer, observe_ranges(layer, DIGITS.train.images[:512]), few):
            seen.append(top1(predict(layer, DIGITS.test.images), DIGITS.test.labels))

    exact = top1(predict(layer, DIGITS.test.images), DIGITS.test.labels)
    judge()
    fine_tune(layer, DIGITS.train, few)
    judge()
    assert exact - seen[1] < (exact - seen[0]) / 2, (exact, seen)


def test_the_exported_int8_file_computes_what_was_simulated(tmp_path: Path) -> None:
    """On images that calibrated, for beyond their range the file cuts its logits off. The file has twice as many codes for what a relu made, so
    the two are not equal; but they are near, and nearer than with any other number of bits for the weights."""
    layer = untrained("lenet5", 0)
    train_alone(layer, DIGITS.train, TrainConfig(2))
    fine_tune(layer, DIGITS.train.head(320), QatConfig())
    save_weights(layer, tmp_path / "net.safetensors")
    source = resolve_model("lenet5", weights=tmp_path / "net.safetensors")
    cells = frozenset({Format.ONNX}), frozenset({Precision.INT8})
    (cell,) = export_model(ExportRequest(source, "net", "digits", None, *cells, allow_mismatch=True), tmp_path / "out")
    images = DIGITS.train.images[:256]
    np.save(tmp_path / "images.npy", images)
    found = outputs_of(load_artifact(tmp_path / "out" / str(cell.artifact)), [tmp_path / "images.npy"], len(images))[0]
    ranges, away = observe_ranges(layer, DIGITS.train.images[:512]), {}
    for bits in (6, 7, 8):
        with fake_quantized(layer, ranges, QatConfig(weight_bits=bits)):
            simulated = predict(layer, images)
        away[bits] = float(np.sqrt(np.mean((found - simulated) ** 2)) / np.abs(found).max())
    assert min(away, key=lambda bits: away[bits]) == 7 and away[7] < 0.01, away


def test_an_error_inside_leaves_nothing_behind() -> None:
    import paddle
    from paddle import nn

    layer = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"mul|shape|dimension"), fake_quantized(layer, {"0": 1.0}, QatConfig()):
        layer(paddle.ones([1, 4]))
    assert not {"forward", "weight"} & vars(layer[0]).keys()
    assert layer(paddle.ones([1, 3])).shape == [1, 2]


def test_batch_norms_keep_their_statistics_only_within() -> None:
    import paddle
    from paddle import nn

    layer, x = nn.Sequential(nn.BatchNorm2D(1)), paddle.to_tensor(np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2))
    layer.train()
    with running_statistics(layer):
        np.testing.assert_allclose(layer(x).numpy(), x.numpy(), atol=1e-3)
    assert layer[0]._mean.numpy()[0] == 0
    layer.train()
    layer(x)
    assert layer[0]._mean.numpy()[0] == pytest.approx(0.35)


def test_ranges_are_the_extremes_of_all_calls_and_only_of_layers_that_are_called() -> None:
    from paddle import nn

    class Twice(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.used(-5 * x) + self.used(x)

    images = np.array([[1, 2]] * 100 + [[3, -1]], np.float32)
    assert observe_ranges(Twice(), images) == {"used": 15.0}
    with pytest.raises(BadInput, match="no Conv2D or Linear"):
        observe_ranges(nn.ReLU(), images)
    with pytest.raises(CheckFailed, match="'used' reads is NaN"):
        observe_ranges(Twice(), images * np.float32("nan"))


@pytest.mark.parametrize(
    ("config", "images", "message"),
    [
        (QatConfig(weight_bits=9), 64, "9 bits"),
        (QatConfig(activation_bits=1), 64, "1 bits"),
        (QatConfig(), 63, "nothing to train"),
        (QatConfig(epochs=0), 64, "nothing to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(config: QatConfig, images: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fine_tune(untrained("lenet5", 0), DIGITS.train.head(images), config)


def test_a_range_of_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="'conv9'"), fake_quantized(untrained("lenet5", 0), {"conv9": 1.0}, QatConfig()):
        pass
