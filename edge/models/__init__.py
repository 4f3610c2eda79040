"""The zoo: models by name. A model is a factory of a Paddle layer and the inputs it expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.errors import BadInput

if TYPE_CHECKING:
    from paddle import nn


@dataclass(frozen=True)
class ModelEntry:
    """A named model.

    Attributes:
        build: makes the untrained ``nn.Layer``.
        inputs: input name -> (shape, dtype); None is the dynamic batch dimension.
        classes: width of the logits.
        about: one line for ``edge export --help``.
    """

    build: Callable[[], nn.Layer]
    inputs: dict[str, tuple[tuple[int | None, ...], str]]
    classes: int
    about: str


def _convnet(channels: int) -> Callable[[], nn.Layer]:
    def build() -> nn.Layer:
        from edge.models.convnet import ConvNet

        return ConvNet(channels)

    return build


_IMAGE_28: dict[str, tuple[tuple[int | None, ...], str]] = {"image": ((None, 1, 28, 28), "float32")}

ZOO: dict[str, ModelEntry] = {
    "mnist_teacher": ModelEntry(_convnet(32), _IMAGE_28, 10, "conv 32-64, fc 3136-128-10, on 28x28 grey images"),
    "mnist_student": ModelEntry(_convnet(16), _IMAGE_28, 10, "conv 16-32, fc 1568-128-10, on 28x28 grey images"),
}


def model_entry(name: str) -> ModelEntry:
    """The entry of a zoo model.

    Raises:
        BadInput: the name is not in the zoo; the message lists the names that are.
    """
    try:
        return ZOO[name]
    except KeyError:
        raise BadInput(f"unknown model {name!r}", hint=f"known models: {', '.join(sorted(ZOO))}") from None
