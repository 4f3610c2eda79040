"""Channels that belong together: a net without some of them computes what the whole net does where they are zero."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from paddle import nn
from paddle.nn import functional as F

from edge.compress.structure import Structure, cut, macs_of, outline, rebuild, structure_of
from edge.errors import BadInput
from edge.models import model_entry

#: A seed says all there is to say: a smaller one that fails too tells no more.
FEW = settings(deadline=None, phases=(Phase.generate,))


def scattered(layer: nn.Layer, seed: int) -> nn.Layer:
    """With biases, norms and statistics that are not the initial zeros and ones."""
    random = np.random.default_rng(seed)
    for name, value in layer.state_dict().items():
        if value.ndim == 1:
            positive = "variance" in name
            value.set_value((random.uniform(0.5, 1.5, value.shape) if positive else random.normal(0, 0.5, value.shape)).astype(np.float32))
    return layer


def some_kept(structure: Structure, random: np.random.Generator) -> NDArray[np.bool_]:
    """A random half of the channels, and at least one of each layer."""
    keep = random.random(structure.count) < 0.5
    keep[0] = True
    for use in structure.layers:
        if not keep[structure.outputs(use)].any():
            keep[random.choice(structure.outputs(use))] = True
    return keep


def masked(layer: nn.Layer, structure: Structure, keep: NDArray[np.bool_]) -> nn.Layer:
    """The whole net, its layers' and norms' removed outputs set to zero as they come; its weights are untouched."""
    outputs = {use.weight: structure.outputs(use) for use in structure.layers} | {scale: structure.labels[scale][0] for scale, _ in structure.norms}
    for name, sublayer in layer.named_sublayers():
        if (labels := outputs.get(f"{name}.weight")) is not None:
            factor = paddle.to_tensor(keep[labels].astype(np.float32))
            sublayer.register_forward_post_hook(_times(factor))
    return layer


def _times(factor: Any) -> Callable[..., Any]:
    return lambda _layer, _inputs, output: output * factor.reshape([1, -1] + [1] * (output.ndim - 2))


def outputs_of(layer: nn.Layer, images: NDArray[np.float32]) -> NDArray[np.float32]:
    layer.eval()
    with paddle.no_grad():
        return np.asarray(layer(paddle.to_tensor(images)).numpy())


def check_cut(layer: nn.Layer, inputs: Any, seed: int) -> nn.Layer:
    random = np.random.default_rng(seed)
    images = random.normal(size=[side or 3 for side in inputs[0][0]]).astype(np.float32)
    structure = structure_of(scattered(layer, seed), inputs)
    keep = some_kept(structure, random)
    whole, smaller = masked(copy.deepcopy(layer), structure, keep), layer
    expected = outputs_of(whole, images)
    cut(smaller, structure, keep)
    np.testing.assert_allclose(outputs_of(smaller, images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert macs_of(smaller, inputs) == structure.macs(keep) < structure.macs()
    return smaller


@pytest.mark.parametrize("model", ["lenet300", "lenet5_caffe", "alexnet28", "vgg28", "resnet28", "fashion_net", "mnist_student"])
@settings(FEW, max_examples=5)
@given(seed=st.integers(0, 1 << 20))
def test_the_smaller_net_is_the_whole_one_with_zeros(model: str, seed: int) -> None:
    entry = model_entry(model)
    smaller = check_cut(entry.build(), list(entry.inputs.values()), seed)

    again = rebuild(entry.build(), json.loads(json.dumps(outline(smaller))))
    again.set_state_dict(smaller.state_dict())
    images = np.random.default_rng(seed).normal(size=(2, 1, 28, 28)).astype(np.float32)
    np.testing.assert_array_equal(outputs_of(again, images), outputs_of(smaller, images))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "squeezenet1_1", "densenet121", "resnext50_32x4d"])
def test_nets_of_paddle_vision(name: str) -> None:
    from paddle.vision import models

    check_cut(getattr(models, name)(num_classes=10), [((None, 3, 64, 64), "float32")], 0)


class Concatenated(nn.Layer):  # type: ignore[misc]
    """Two branches behind each other, a grouped and a depthwise convolution with two outputs a channel, channels last before the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2D(3, 6, 3, padding=1), nn.Conv2D(3, 6, 1)
        self.grouped = nn.Conv2D(12, 8, 3, groups=2)
        self.depthwise = nn.Conv2D(8, 16, 3, groups=8)
        self.head = nn.Linear(16 * 4, 5)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.grouped(paddle.concat([F.relu(self.left(x)), F.relu(self.right(x))], 1)))
        return self.head(F.relu(self.depthwise(x)).transpose([0, 2, 3, 1]).flatten(1))


@settings(FEW, max_examples=20)
@given(seed=st.integers(0, 1 << 20))
def test_concatenation_groups_and_channels_last(seed: int) -> None:
    paddle.seed(0)
    check_cut(Concatenated(), [((None, 3, 6, 6), "float32")], seed)


def test_a_second_cut_goes_on_from_the_first() -> None:
    entry = model_entry("fashion_net")
    smaller = check_cut(entry.build(), list(entry.inputs.values()), 1)
    check_cut(smaller, list(entry.inputs.values()), 2)


def test_a_shared_layer_keeps_its_channels_equal() -> None:
    class Twice(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2D(1, 8, 3), nn.Conv2D(8, 8, 3, padding=1), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.body(F.relu(self.body(F.relu(self.stem(x))))))
            return self.head(x.mean([2, 3]))

    [bundle] = structure_of(Twice(), [((None, 1, 6, 6), "float32")]).bundles()
    assert bundle.layers == ("stem.weight", "body.weight")
    check_cut(Twice(), [((None, 1, 6, 6), "float32")], 0)


def test_what_an_unknown_operator_may_mix_stays_and_is_named() -> None:
    class Sorted(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            return self.head(paddle.cumsum(self.second(F.relu(self.first(x))), 1))

    structure = structure_of(Sorted(), [((None, 4), "float32")])
    assert [bundle.layers for bundle in structure.bundles()] == [("first.weight",)]
    assert "cumsum" in structure.fixed["second.weight"]


def test_the_multiplications_of_lenet5_are_the_papers() -> None:
    entry = model_entry("lenet5_caffe")
    assert macs_of(entry.build(), entry.inputs.values()) == 2_293_000  # Han et al. 2015, table 4: 576 k + 3200 k + 800 k + 10 k operations


def test_a_branch_on_the_data_is_refused() -> None:
    class Branches(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            y = self.first(x)
            if y.sum() > 0:
                y = y * 2
            return self.head(y)

    with pytest.raises(BadInput, match=r"\bif\b.*branches on the data"):
        structure_of(Branches(), [((None, 4), "float32")])
