"""Quantization-aware training for int8: a short fine-tuning in which every convolution and linear layer computes as if in int8.

The result is the same layer with ordinary fp32 weights that lie well for int8. It is exported as any other: nothing of this is left in it.

Sources:
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3: weights and
    activations are rounded to the codes' values in the forward pass, and stay float in what is learned; a batch norm uses its running statistics
    and is folded into the weights before they are rounded.
    Bengio, Leonard, Courville 2013, "Estimating or Propagating Gradients Through Stochastic Neurons": the gradient passes the rounding as if it
    were not there. Where a value was cut off at the end of the range it is zero.

One training must serve all three runtimes, so it simulates the coarsest grid among them, which is that of Paddle Lite in the safe range of
`edge.export.quantize`:

============  ================================  ==================================
              weights, per output channel       activations, per tensor
============  ================================  ==================================
ONNX          -64..64                           256 codes between the extremes
Paddle        -127..127 (oneDNN: -64..64 where  0..127 after a relu, else -127..127
Inference     the activation is signed)
Paddle Lite   -64..64                           -127..127, after a relu 0..127
simulated     -64..64 (``weight_bits`` 7)       -127..127 (``activation_bits`` 8)
============  ================================  ==================================

A symmetric code of 8 bits has 7 left for what a relu made, so no layer needs to know what is in front of it. With ``full_range`` give
``weight_bits`` 8; the activations of Paddle Lite stay as they are.

Folding needs no code here. The scale of a channel's weights is their largest magnitude, so rounding them after a factor of their own channel
(gamma / sigma of the norm) is rounding them before it: Q(f w) = f Q(w). What is left of Jacob's section 3.2 is that the norm uses its running
statistics. Not simulated: biases (32 bits), and the sums and pools between layers that a runtime quantizes too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.compress.train import Progress, TrainConfig, fit, predict, steps_in
from edge.datasets import Split
from edge.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import Tensor, nn

#: Training images whose activations set the ranges, the first ones: as many as an export calibrates with, and the same.
OBSERVED = 512
#: Batches between two observations of the ranges.
REFRESHED = 50
#: Bits of a code that are simulated.
LEAST_BITS, MOST_BITS = 2, 8

Forward = Callable[..., Any]


@dataclass(frozen=True)
class QatConfig:
    """Adam at a constant rate, a tenth of that of the first training.

    Attributes:
        epochs: passes over the images given.
        weight_bits: of a weight's code, see `levels_of`: 7 for the safe range of an export, 8 for ``full_range``.
        activation_bits: of a signed activation's code; one that is never negative uses half of the codes.
        seed: of the batch order.
    """

    epochs: int = 1
    learning_rate: float = 1e-4
    weight_bits: int = 7
    activation_bits: int = 8
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class QatRecord:
    """What a fine-tuning did.

    Attributes:
        config: as given.
        ranges: layer -> largest magnitude of what it reads: the range that the last batches were trained with.
        final_ranges: the same observed after training, in float: what an export will find.
        steps: batches trained on. loss: running mean at the end. seconds: of training.
    """

    config: QatConfig
    ranges: dict[str, float]
    final_ranges: dict[str, float]
    steps: int
    loss: float
    seconds: float

    @property
    def drift(self) -> float:
        """Largest difference of a range that was trained with from what an export will find, in % of it."""
        return max(100.0 * abs(self.final_ranges[name] / largest - 1) for name, largest in self.ranges.items())


def fine_tune(layer: nn.Layer, train: Split, config: QatConfig, progress: Progress | None = None) -> QatRecord:
    """Fine-tune a trained classifier in place so that int8 changes little of it.

    Convolutions and linear layers (`paddle.nn.Conv2D`, `paddle.nn.Linear` and what derives from them) are simulated, batch norms keep their
    running statistics. Afterwards the layer is in evaluation mode and has the parameters and the forward functions that it had.

    Args:
        layer: images [N, C, H, W] -> logits [N, classes].
        train: the training images. The ranges are the extremes over the first `OBSERVED` of them, as an export takes them by default, before the
            first batch and again every `REFRESHED` batches.

    Raises:
        BadInput: bits that cannot be simulated, too few images, or a layer without convolutions and linear layers.
        CheckFailed: the loss became NaN or infinite.
    """
    from paddle.nn import functional as F

    for bits in (config.weight_bits, config.activation_bits):
        levels_of(bits)
    schedule = TrainConfig(config.epochs, config.learning_rate, config.batch_size, config.seed)
    if steps_in(schedule, len(train)) < 1:
        raise BadInput(f"{len(train)} images in batches of {config.batch_size} for {config.epochs} epochs: nothing to train", hint="lower batch_size")
    ranges = observe_ranges(layer, train.images[:OBSERVED])
    losses: list[float] = []

    def loss_of(images: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        if losses and len(losses) % REFRESHED == 0:
            ranges.update(observe_ranges(layer, train.images[:OBSERVED]))
            layer.train()
        return F.cross_entropy(layer(images), labels)

    def report(done: int, total: int, loss: float) -> None:
        losses.append(loss)
        if progress:
            progress(done, total, loss)

    began = time.perf_counter()
    with running_statistics(layer), fake_quantized(layer, ranges, config):
        fit(layer, train, loss_of, schedule, report)
    seconds = time.perf_counter() - began
    return QatRecord(config, ranges, observe_ranges(layer, train.images[:OBSERVED]), len(losses), losses[-1], round(seconds, 1))


def levels_of(bits: int) -> int:
    """The largest code of a symmetric code of so many bits, as an export has it: 8 -> 127, 7 -> 64, 4 -> 8.

    Raises:
        BadInput: fewer than 2 or more than 8 bits.
    """
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise BadInput(f"{bits} bits cannot be simulated", hint=f"{LEAST_BITS} to {MOST_BITS} bits")
    return min(int(2 ** (bits - 1)), 127)


def fake_quantize(x: Tensor, largest: Tensor, levels: int) -> Tensor:
    """``x`` rounded to the nearest of ``2 levels + 1`` evenly spaced values from ``-largest`` to ``largest``.

    The gradient is that of the cut alone: 1 within the range, both ends included, and 0 beyond.

    Args:
        largest: positive, of any shape that broadcasts to that of ``x``; it gets no gradient.
    """
    rounded: Tensor = _straight_through().apply(x, largest, levels)
    return rounded


def observe_ranges(layer: nn.Layer, images: NDArray[np.float32]) -> dict[str, float]:
    """Largest magnitude of what each convolution and linear layer reads, in evaluation mode, by the layer's name.

    Layers that the forward function never calls are left out.

    Raises:
        BadInput: the layer calls no convolution or linear layer.
        CheckFailed: an activation is NaN or infinite.
    """
    found: dict[str, float] = {}

    def watch(name: str, sub: nn.Layer, forward: Forward) -> Forward:
        def observed(x: Tensor, *rest: Any, **options: Any) -> Any:
            found[name] = float(np.maximum(float(x.abs().max()), found.get(name, 0.0)))  # unlike max, it keeps NaN
            return forward(x, *rest, **options)

        return observed

    with _patched(_multiplying(layer), watch):
        predict(layer, images, batch_size=64)
    if not found:
        raise BadInput(f"{type(layer).__name__} calls no Conv2D or Linear layer, so there is nothing to quantize")
    if bad := [name for name, largest in found.items() if not np.isfinite(largest)]:
        raise CheckFailed(f"what {bad[0]!r} reads is NaN or infinite", hint="train the layer first")
    return {name: largest or 1.0 for name, largest in found.items()}


@contextlib.contextmanager
def fake_quantized(layer: nn.Layer, ranges: Mapping[str, float], config: QatConfig) -> Iterator[None]:
    """Within it the layers named in ``ranges`` compute on rounded weights and inputs; their parameters are as they were.

    A range that is changed in ``ranges`` counts from the next call of its layer.

    Raises:
        BadInput: bits that cannot be simulated, or a name that is no Conv2D or Linear of the layer.
    """
    import paddle

    layers = _multiplying(layer)
    if unknown := sorted(ranges.keys() - layers.keys()):
        raise BadInput(f"{unknown[0]!r} is no Conv2D or Linear of {type(layer).__name__}")
    weight_levels, levels = levels_of(config.weight_bits), levels_of(config.activation_bits)

    def round_both(name: str, sub: nn.Layer, forward: Forward) -> Forward:
        def rounded(x: Tensor, *rest: Any, **options: Any) -> Any:
            largest = paddle.to_tensor(ranges[name], "float32")
            # an attribute of the object hides the parameter of the same name from whatever the forward function does with it
            vars(sub)["weight"] = fake_quantize(sub.weight, _channel_largest(sub), weight_levels)
            try:
                return forward(fake_quantize(x, largest, levels), *rest, **options)
            finally:
                del vars(sub)["weight"]

        return rounded

    with _patched({name: layers[name] for name in ranges}, round_both):
        yield


@contextlib.contextmanager
def running_statistics(layer: nn.Layer) -> Iterator[None]:
    """Within it batch norms use their running statistics, and leave them alone, even in training mode."""
    from paddle import nn

    kinds = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)
    norms = {name: sub for name, sub in layer.named_sublayers(include_self=True) if isinstance(sub, kinds)}

    def in_evaluation(_: str, sub: nn.Layer, forward: Forward) -> Forward:
        def evaluated(*arguments: Any, **options: Any) -> Any:
            sub.eval()
            return forward(*arguments, **options)

        return evaluated

    with _patched(norms, in_evaluation):
        yield


@contextlib.contextmanager
def _patched(layers: Mapping[str, nn.Layer], wrap: Callable[[str, nn.Layer, Forward], Forward]) -> Iterator[None]:
    """Each layer's forward function wrapped, and put back at the end."""
    own = {name: vars(sub).get("forward") for name, sub in layers.items()}
    try:
        for name, sub in layers.items():
            sub.forward = wrap(name, sub, sub.forward)
        yield
    finally:
        for name, sub in layers.items():
            vars(sub).pop("forward", None)
            if own[name] is not None:
                sub.forward = own[name]


def _multiplying(layer: nn.Layer) -> dict[str, nn.Layer]:
    """The layers that int8 kernels exist for, by name."""
    from paddle import nn

    return {name: sub for name, sub in layer.named_sublayers(include_self=True) if isinstance(sub, (nn.Conv2D, nn.Linear))}


def _channel_largest(sub: nn.Layer) -> Tensor:
    """Largest magnitude of each output channel's weights, 1 for a channel of zeros; its shape broadcasts to that of the weight."""
    import paddle
    from paddle import nn

    # a convolution's weight is [out, in / groups, height, width], a linear layer's [in, out]
    axes = [0] if isinstance(sub, nn.Linear) else [1, 2, 3]
    largest = sub.weight.detach().abs().max(axis=axes, keepdim=True)
    return paddle.where(largest > 0, largest, paddle.ones_like(largest))


@cache
def _straight_through() -> Any:
    """The rounding as a function with a gradient of its own; made on demand, for it derives from a class of Paddle's."""
    import paddle

    class StraightThrough(paddle.autograd.PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, x: Tensor, largest: Tensor, levels: int) -> Tensor:
            context.save_for_backward(x, largest)
            step = largest / levels
            return paddle.clip(paddle.round(x / step), -levels, levels) * step

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
            x, largest = context.saved_tensor()
            return gradient * (x.abs() <= largest).astype(gradient.dtype), None

    return StraightThrough
