"""Weights in 16, 8, 4 or 1 bit, after training or aware of it in training, stored as they are packed: integer codes times a scale for each channel.

    16    float16 or bfloat16, rounded to the nearest
    8, 4  codes from -127 to 127, or -7 to 7. After training, the scale of each channel is that of the least squared error among cuts of its range.
          In training it is learned: Esser et al. 2019, "Learned Step Size Quantization" (arXiv 1902.08153), from those scales on, as in
          Bhalgat et al. 2020, "LSQ+" (arXiv 2004.09576)
    1     signs times the mean magnitude: Rastegari et al. 2016, "XNOR-Net" (arXiv 1603.05279), section 3.1. What is pruned stays zero

Rounding passes gradients as if it were not there (Bengio, Leonard and Courville 2013). Activations stay in float32; `qat` trains for int8 runtimes.

Scales are bfloat16: a scale of 8 significant bits times a code of 7 is exact in float32, so `edge.compress.packing` finds both again, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edge.compress.constraints import Fixed
from edge.compress.prune_weights import check_named
from edge.compress.share_weights import to_bfloat16
from edge.compress.technique import Record, Subject, TuningStep
from edge.errors import BadInput

if TYPE_CHECKING:
    from paddle import Tensor, nn

Bits = Literal[32, 16, 8, 4, 1]
#: Cuts of a channel's range that are tried: from its largest magnitude down to this share of it, in so many steps.
LEAST_CUT, CUTS = 0.2, 81


@dataclass(frozen=True)
class Target:
    """A weight: the layer that has it, its name there, the axis of its channels, and the bits that it is to take."""

    owner: nn.Layer
    attribute: str
    axis: int
    bits: Bits

    @property
    def weight(self) -> Tensor:
        return self.owner._parameters[self.attribute]

    @property
    def others(self) -> tuple[int, ...]:
        """The axes within a channel."""
        return tuple(axis for axis in range(self.weight.ndim) if axis != self.axis)


class Quantize(TuningStep):
    """Quantize all weights; biases and norms to 16 bits or not at all. Later training leaves the values as they are, so this step comes last.

    Attributes:
        bits: of all weights but those of ``keep`` and ``per_layer``; 32 leaves them.
        keep: bits of the first and of the last weight, in the order of the model's state, which cost most in accuracy and least in size.
        per_layer: bits of single ones, by the weight's name.
        others: bits of all other parameters.
        half: what 16 bits are.
        epochs: of training that is aware of the bits; none: quantized after training.
    """

    step: Literal["quantize"] = "quantize"
    bits: Bits
    keep: Literal[32, 16, 8, 4] | None = None
    per_layer: dict[str, Bits] = Field(default_factory=dict)
    others: Literal[32, 16] = 16
    half: Literal["float16", "bfloat16"] = "float16"
    learning_rate: float = Field(1e-4, gt=0, le=1)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Quantize:
        if min(self.bits, *self.per_layer.values(), 32) == 32:
            raise ValueError("everything stays at 32 bits")
        if self.epochs and min(self.bits, *self.per_layer.values(), 16) == 16:
            raise ValueError("16 bits are rounded after training: leave out epochs")
        return self

    def run(self, subject: Subject) -> Record:
        targets = self._targets(subject)
        subject.require_free((name for name, target in targets.items() if target.bits != 32), self.step)
        scales = {name: scales_after_training(target) for name, target in targets.items() if target.bits in (8, 4)}
        if self.epochs:
            with aware(targets, scales) as learned:
                self.tune(subject, subject.seed)
            scales = {name: scale() for name, scale in learned.items()}
        errors = {name: self._settle(subject, name, target, scales.get(name)) for name, target in targets.items() if target.bits != 32}
        if self.others == 16:
            for name, parameter in subject.layer.named_parameters():
                if name not in targets:
                    _fix(subject, name, parameter, to_half(name, parameter.numpy(), self.half))
        bits = {name: target.bits for name, target in targets.items()}
        return {"bits": bits, "error": errors, "runnable": runnable(set(bits.values()), self.half)}

    def _settle(self, subject: Subject, name: str, target: Target, scale: Tensor | None) -> float:
        """Fix a weight at its quantized values; returns the share of its squares that this has changed."""
        old = target.weight.numpy()
        new = to_half(name, old, self.half) if target.bits == 16 else quantized(target, scale).numpy() + np.float32(0)  # no negative zeros
        _fix(subject, name, target.weight, new)
        return float(((new - old).astype(np.float64) ** 2).sum() / max((old.astype(np.float64) ** 2).sum(), 1e-30))

    def _targets(self, subject: Subject) -> dict[str, Target]:
        """Every weight, also those that stay.

        Raises:
            BadInput: a name that is no weight's.
        """
        from paddle import nn

        bits = self._bits([name for name, parameter in subject.layer.named_parameters() if parameter.ndim >= 2])
        found = {}
        for prefix, owner in subject.layer.named_sublayers(include_self=True):
            for attribute in owner._parameters:
                if (name := f"{prefix}.{attribute}".lstrip(".")) in bits:
                    # a convolution's weight is [out, in / groups, height, width], a linear layer's [in, out]
                    found[name] = Target(owner, attribute, 1 if isinstance(owner, nn.Linear) else 0, bits[name])
        return found

    def _bits(self, names: list[str]) -> dict[str, Bits]:
        if not names:
            raise BadInput("quantize: the model has no weights")
        check_named(self.step, self.per_layer, names)
        ends: dict[str, Bits] = {names[0]: self.keep, names[-1]: self.keep} if self.keep else {}
        return {name: self.per_layer.get(name, ends.get(name, self.bits)) for name in names}


def runnable(bits: set[Bits], half: str) -> str:
    """What a runtime executes of it: ``fp16``, ``bf16``, ``int8`` (with the scales of the export's own quantizer), or ``storage-only``."""
    if bits <= {32, 16}:
        return "fp16" if half == "float16" else "bf16"
    return "int8" if min(bits) == 8 else "storage-only"


def highest(bits: int) -> int:
    """The largest code: 127 of 8 bits, 7 of 4. The lowest is its negative, so that a code's sign costs nothing to undo."""
    return int(2 ** (bits - 1)) - 1


def learned_step(weight: Tensor, scale: Tensor, most: int) -> Tensor:
    """``weight`` rounded to codes times ``scale``, with the gradients of LSQ (Esser et al. 2019, section 2).

    That of the scale is ``round(w / s) - w / s`` within the range and the end's code beyond it; that of the weight is 1 within and 0 beyond.

    Args:
        scale: positive, of a shape that broadcasts to the weight's.
    """
    import paddle

    cut = paddle.clip(weight / scale, -most, most)
    return (cut + (paddle.round(cut) - cut).detach()) * scale


def signs(weight: Tensor, within: tuple[int, ...]) -> Tensor:
    """The sign of each weight times the channel's mean magnitude of those that are not zero (XNOR-Net, section 3.1); zeros stay.

    The sign's gradient is 1 for magnitudes up to 1, else 0; that of the mean is exact.
    """
    import paddle

    present = (weight != 0).astype(weight.dtype).sum(axis=within, keepdim=True)
    mean = weight.abs().sum(axis=within, keepdim=True) / paddle.clip(present, min=1.0)
    cut = paddle.clip(weight, -1.0, 1.0)
    return (cut + (paddle.sign(weight) - cut).detach()) * as_stored(mean)


def as_stored(scale: Tensor) -> Tensor:
    """Rounded to bfloat16, which the gradient does not see. A scale differs from its rounded self by so little that both steps are exact."""
    rounded = scale.detach().astype("bfloat16").astype("float32")
    return scale + (rounded - scale.detach())


def quantized(target: Target, scale: Tensor | None) -> Tensor:
    """What the weight computes as; 1 bit takes no scale, for it has its own."""
    if scale is None:
        return signs(target.weight, target.others)
    return learned_step(target.weight, scale, highest(target.bits))


@contextlib.contextmanager
def aware(targets: Mapping[str, Target], scales: Mapping[str, Tensor]) -> Iterator[dict[str, Callable[[], Tensor]]]:
    """Within it the layers compute on quantized weights, and have the logarithms of their scales as parameters, relative to the scales given.

    Adam moves every parameter by about its rate whatever the gradient's size. So the factor that LSQ gives a scale's gradient for plain descent
    (section 2.2) would do nothing here; the logarithm does what it is for: a scale changes by about the same share in each step.

    Yields:
        name -> the scale learned so far.
    """
    import paddle

    learned: dict[str, Callable[[], Tensor]] = {}
    with contextlib.ExitStack() as undo:
        for name, target in targets.items():
            if target.bits > 8:
                continue
            if name in scales:
                logarithm = target.owner.create_parameter(scales[name].shape, default_initializer=paddle.nn.initializer.Constant(0.0))
                target.owner.add_parameter(f"{target.attribute}_scale", logarithm)
                undo.callback(delattr, target.owner, f"{target.attribute}_scale")
                learned[name] = _scale_of(scales[name], logarithm)
            undo.callback(_substitute(target, learned.get(name, lambda: None)))
        yield learned


def _scale_of(initial: Tensor, logarithm: Tensor) -> Callable[[], Tensor]:
    return lambda: as_stored(initial * logarithm.exp())


def _substitute(target: Target, scale: Callable[[], Tensor | None]) -> Callable[[], None]:
    """Quantize the weight whenever its layer is called; returns what ends this."""

    def before(layer: nn.Layer, _: object) -> None:
        # an attribute of the object hides the parameter of the same name from whatever the forward function does with it
        vars(layer)[target.attribute] = quantized(target, scale())

    def after(layer: nn.Layer, _: object, __: object) -> None:
        del vars(layer)[target.attribute]

    hooks = (target.owner.register_forward_pre_hook(before), target.owner.register_forward_post_hook(after))

    def end() -> None:
        for hook in hooks:
            hook.remove()
        vars(target.owner).pop(target.attribute, None)

    return end


def scales_after_training(target: Target) -> Tensor:
    """The scale of each channel with the least squared error, for the range cut at `CUTS` places; 1 for a channel of zeros."""
    import paddle

    weight, most = target.weight.numpy(), highest(target.bits)
    largest = np.abs(weight).max(axis=target.others, keepdims=True)
    best, least = np.ones_like(largest), np.full(largest.shape, np.inf)
    for cut in np.linspace(1.0, LEAST_CUT, CUTS, dtype=np.float32):
        scale = to_bfloat16(np.where(largest > 0, largest * cut / most, 1.0))
        errors = ((np.clip(np.rint(weight / scale), -most, most) * scale - weight) ** 2).sum(axis=target.others, keepdims=True)
        best, least = np.where(errors < least, scale, best), np.minimum(errors, least)
    return paddle.to_tensor(best.astype(np.float32))


def to_half(name: str, values: NDArray[np.float32], half: str) -> NDArray[np.float32]:
    """Rounded to 16 bits, as float32.

    Raises:
        BadInput: a value beyond float16's range.
    """
    if half == "bfloat16":
        return to_bfloat16(values)
    if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise BadInput(f"quantize: {name} holds values beyond 65504, the largest of float16", hint='half = "bfloat16"')
    return values.astype(np.float16).astype(np.float32)


def _fix(subject: Subject, name: str, parameter: Tensor, values: NDArray[np.float32]) -> None:
    parameter.set_value(values)
    subject.constraints[name] = Fixed.at(values)
