"""The zoo: models by name. A model is a factory of a Paddle layer and the inputs it expects."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edge.errors import BadInput

if TYPE_CHECKING:
    from paddle import nn


@dataclass(frozen=True)
class ModelEntry:
    """A named model.

    Attributes:
        build: makes the untrained ``nn.Layer``.
        inputs: input name -> (shape, dtype); None is the dynamic batch dimension.
        classes: that it tells apart, the width of its logits; None where it gives none.
        about: one line for ``edge export --help``.
        task: what it is trained for: ``retrieval`` is of captions by images, and of images by captions.
    """

    build: Callable[[], nn.Layer]
    inputs: dict[str, tuple[tuple[int | None, ...], str]]
    classes: int | None
    about: str
    task: Literal["classification", "retrieval"] = "classification"


def _convnet(channels: int) -> Callable[[], nn.Layer]:
    def build() -> nn.Layer:
        from edge.models.convnet import ConvNet

        return ConvNet(channels)

    return build


def _from(module: str, name: str) -> Callable[[], nn.Layer]:
    """The class ``name`` of ``edge.models.module``, imported when the layer is built: it needs Paddle."""

    def build() -> nn.Layer:
        layer: nn.Layer = getattr(importlib.import_module(f"edge.models.{module}"), name)()
        return layer

    return build


def _vision(name: str) -> Callable[[], nn.Layer]:
    """A net of ``paddle.vision.models`` with initial weights."""

    def build() -> nn.Layer:
        from paddle.vision import models

        layer: nn.Layer = getattr(models, name)()
        return layer

    return build


_Inputs = dict[str, tuple[tuple[int | None, ...], str]]
_IMAGE_28: _Inputs = {"image": ((None, 1, 28, 28), "float32")}
_IMAGE_224: _Inputs = {"image": ((None, 3, 224, 224), "float32")}
_IDS_16: _Inputs = {"ids": ((None, 16), "int64")}

ZOO: dict[str, ModelEntry] = {
    "mnist_teacher": ModelEntry(_convnet(32), _IMAGE_28, 10, "conv 32-64, fc 3136-128-10, on 28x28 grey images"),
    "mnist_student": ModelEntry(_convnet(16), _IMAGE_28, 10, "conv 16-32, fc 1568-128-10, on 28x28 grey images"),
    "lenet5": ModelEntry(_from("lenet", "LeNet5"), _IMAGE_28, 10, "conv 6-16, fc 400-120-84-10, on 28x28 grey images"),
    "lenet300": ModelEntry(_from("classic", "LeNet300"), _IMAGE_28, 10, "fc 784-300-100-10, on 28x28 grey images"),
    "lenet5_caffe": ModelEntry(_from("classic", "LeNet5Caffe"), _IMAGE_28, 10, "conv 20-50, fc 800-500-10, on 28x28 grey images"),
    "alexnet28": ModelEntry(_from("classic", "AlexNet28"), _IMAGE_28, 10, "five convolutions, three linear layers, on 28x28 grey images"),
    "vgg28": ModelEntry(_from("classic", "Vgg28"), _IMAGE_28, 10, "six convolutions in pairs, two linear layers, on 28x28 grey images"),
    "resnet28": ModelEntry(_from("classic", "ResNet28"), _IMAGE_28, 10, "six residual blocks, on 28x28 grey images"),
    "alexnet": ModelEntry(_vision("alexnet"), _IMAGE_224, 1000, "of paddle.vision, full size, on 224x224 colour images"),
    "vgg16": ModelEntry(_vision("vgg16"), _IMAGE_224, 1000, "of paddle.vision, full size, on 224x224 colour images"),
    "fashion_net": ModelEntry(
        _from("fashion", "FashionNet"), _IMAGE_28, 10, "separable convolutions, batch norms, one residual, on 28x28 grey images"
    ),
    "lstm_classifier": ModelEntry(_from("sequences", "LstmClassifier"), _IDS_16, 4, "embedding, LSTM 32, linear, on 16 token ids below 128"),
    "transformer_encoder": ModelEntry(
        _from("sequences", "TransformerClassifier"), _IDS_16, 4, "two encoder layers of width 32, mean, linear, on 16 token ids below 128"
    ),
    "two_tower": ModelEntry(
        _from("sequences", "TwoTower"),
        {"image": ((None, 3, 32, 32), "float32"), **_IDS_16},
        None,
        "embeddings of a 32x32 colour image and of 16 token ids, and their cosine",
    ),
    "image_text": ModelEntry(
        _from("image_text", "ImageText"),
        {**_IMAGE_28, **_IDS_16},
        10,
        "embeddings of a 28x28 grey image and of a caption of 16 letters, and their cosine",
        "retrieval",
    ),
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
