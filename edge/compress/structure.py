"""Which channels of which parameters belong together, found by following a trace of the layer, and how they are taken out.

Each axis of each tensor of the trace is labelled: for each index, the number of the channel that it is part of. A parameter begins with labels of its
own; an operator joins those that must be removed together (the two sides of a residual addition, a norm and what it normalises, a layer's inputs
and the outputs before it) and hands labels on (a flatten repeats each channel's label, a concatenation puts them behind each other). The channels of
the net's inputs and outputs stay, and so do those that go through an operator which is not known here: it might mix them.

The idea is that of DepGraph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"), on the labels of single channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import BadInput

if TYPE_CHECKING:
    from paddle import nn

#: For each index along an axis its channel; 0 for what stays.
Labels = NDArray[np.int64]
#: Shape and dtype of an input, as in `edge.models.ModelEntry`; None is the batch.
Input = tuple[Sequence[int | None], str]

#: They treat each element alone: the labels of their first operand go on.
SAME = frozenset({
    "relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "sigmoid", "hardsigmoid", "hardswish", "swish", "silu", "mish",
    "softplus", "hardtanh", "tanh", "softsign", "exp", "log", "abs", "square", "sqrt", "rsqrt", "pow", "clip", "scale", "cast", "assign", "dropout",
})  # fmt: skip
#: Element by element on several operands, broadcast as numpy does.
BROADCAST = frozenset({"add", "add_", "subtract", "multiply", "divide", "maximum", "minimum"})
#: The same elements in the same order.
RESHAPED = frozenset({"reshape", "flatten", "squeeze", "unsqueeze"})
#: They keep batch and channels, and change the sides of the picture.
RESIZED = frozenset({"pool2d", "max_pool2d_with_index", "nearest_interp", "bilinear_interp", "pad3d"})
#: They take axes together: those of the second operand, or all.
REDUCED = frozenset({"mean", "sum", "max", "min"})
CONSTANTS = frozenset({"data", "full", "full_int_array"})


@dataclass(frozen=True)
class LayerUse:
    """A convolution or linear layer at work.

    Attributes:
        weight: name in the state.
        outputs: the axis of the weight that makes its outputs.
        positions: how often each element of the weight is multiplied for one sample.
    """

    weight: str
    kind: Literal["conv", "linear"]
    outputs: int
    positions: int


@dataclass(frozen=True)
class Bundle:
    """Layers that share their output channels, all or some.

    ``channels`` can be removed; ``layers`` are the names of their weights, in the order of the trace.
    """

    layers: tuple[str, ...]
    kinds: frozenset[str]
    channels: Labels


@dataclass(frozen=True)
class Structure:
    """Channels are numbered from 1 to ``count`` - 1; 0 is everything that stays.

    Attributes:
        labels: name in the state -> the labels of each axis.
        layers: in the order of the trace; a shared one more than once.
        norms: (scale, bias) of each batch norm, by their names.
        fixed: weight whose output channels all stay -> why.
    """

    count: int
    labels: dict[str, tuple[Labels, ...]]
    layers: tuple[LayerUse, ...]
    norms: tuple[tuple[str, str], ...]
    fixed: dict[str, str]

    def outputs(self, use: LayerUse) -> Labels:
        return self.labels[use.weight][use.outputs]

    def all(self) -> NDArray[np.bool_]:
        """To be cleared where a channel is not kept."""
        return np.ones(self.count, bool)

    def macs(self, keep: NDArray[np.bool_] | None = None) -> int:
        """Multiplications with an addition, of convolutions and linear layers with their weights, for one sample.

        Those of biases, norms and between activations are not counted, as in the papers.
        """
        kept = self.all() if keep is None else keep
        return sum(use.positions * math.prod(int(kept[axis].sum()) for axis in self.labels[use.weight]) for use in self.layers)

    def bundles(self) -> list[Bundle]:
        """The layers with output channels that can be removed, in the order of the trace."""
        found: list[tuple[set[int], list[LayerUse]]] = []
        for use in self.layers:
            channels, uses = set(self.outputs(use).tolist()) - {0}, [use]
            for other in [one for one in found if one[0] & channels]:
                found.remove(other)
                channels, uses = channels | other[0], other[1] + uses
            if channels:
                found.append((channels, uses))
        ordered = sorted(found, key=lambda one: self.layers.index(one[1][0]))
        return [
            Bundle(tuple(dict.fromkeys(use.weight for use in uses)), frozenset(use.kind for use in uses), np.array(sorted(channels)))
            for channels, uses in ordered
        ]


def structure_of(layer: nn.Layer, inputs: Iterable[Input]) -> Structure:
    """Trace the layer, as it is in evaluation, and follow its channels.

    Raises:
        BadInput: it cannot be traced, or branches on its data.
    """
    import paddle

    specs = [paddle.static.InputSpec([side or 1 for side in shape], dtype) for shape, dtype in inputs]
    layer.eval()
    try:
        traced = paddle.jit.to_static(layer.forward, input_spec=specs, full_graph=True).concrete_program
    except Exception as error:  # the layer's own code, under Paddle's converter
        raise BadInput(f"{type(layer).__name__} cannot be traced: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    walk = _Walk({value.name: name for name, value in layer.state_dict().items()})
    for op in traced.main_program.global_block().ops:
        walk.follow(op)
    for value in traced.outputs:
        walk.pin(walk.of(value), "they are the outputs of the net")
    return walk.structure()


def macs_of(layer: nn.Layer, inputs: Iterable[Input]) -> int:
    """See `Structure.macs`."""
    return structure_of(layer, inputs).macs()


def cut(layer: nn.Layer, structure: Structure, keep: NDArray[np.bool_]) -> None:
    """Remove channels from the layer, in place.

    Args:
        keep: [structure.count], false for a channel that goes; its first element is true.
    """
    values = {name: value.numpy() for name, value in layer.state_dict().items()}
    resize(layer, {name: sliced(values[name], structure, name, keep) for name in structure.labels})


def sliced(values: NDArray[Any], structure: Structure, name: str, keep: NDArray[np.bool_]) -> NDArray[Any]:
    """What is left of an array of the shape of a parameter."""
    return values[np.ix_(*(keep[axis] for axis in structure.labels[name]))]


def resize(layer: nn.Layer, arrays: dict[str, NDArray[Any]]) -> None:
    """Give parameters and buffers other shapes and values, by their names in the state; their layers learn of it."""
    from paddle import nn

    state = layer.state_dict()
    changed = {id(state[name]): array for name, array in arrays.items() if list(state[name].shape) != list(array.shape)}
    made: dict[int, Any] = {}  # a tensor may belong to several layers
    for sublayer in layer.sublayers(include_self=True):
        for kind in (sublayer._parameters, sublayer._buffers):
            for name, old in list(kind.items()):
                if old is not None and id(old) in changed:
                    if id(old) not in made:
                        made[id(old)] = _like(old, changed[id(old)])
                    kind[name] = made[id(old)]
        if isinstance(sublayer, nn.Conv2D):
            _tell_convolution(sublayer)
        elif isinstance(sublayer, nn.layer.norm._BatchNormBase):
            sublayer._num_features = sublayer._mean.shape[0]


def outline(layer: nn.Layer) -> dict[str, Any]:
    """What `rebuild` needs to give another layer this one's structure, as plain JSON values."""
    from paddle import nn

    groups = {name: sublayer._groups for name, sublayer in layer.named_sublayers() if isinstance(sublayer, nn.Conv2D)}
    return {"shapes": {name: list(value.shape) for name, value in layer.state_dict().items()}, "groups": groups}


def rebuild(layer: nn.Layer, details: dict[str, Any]) -> nn.Layer:
    """The layer with the shapes that pruning has left, and initial weights; see `edge.compress.technique.Rebuild`.

    Raises:
        ValueError: shapes that are not part of the layer's.
    """
    state = layer.state_dict()
    for name, shape in details["shapes"].items():
        if len(shape) != len(state[name].shape) or not all(0 < left <= whole for left, whole in zip(shape, state[name].shape, strict=True)):
            raise ValueError(f"{name} is {list(state[name].shape)}, of which {shape} is no part")
    resize(layer, {name: _part(state[name].numpy(), shape) for name, shape in details["shapes"].items()})
    for name, sublayer in layer.named_sublayers():
        if name in details["groups"]:
            sublayer._groups = details["groups"][name]
            sublayer._in_channels = sublayer._groups * sublayer.weight.shape[1]
    return layer


def _part(values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Initial values of a smaller parameter: a part of the larger one's, as much larger as fewer inputs ask for (He et al. 2015, section 2.2)."""
    part = values[tuple(slice(side) for side in shape)]
    if part.ndim < 2:
        return part
    before, after = (math.prod(each.shape[1:]) if each.ndim > 2 else each.shape[0] for each in (values, part))
    return part * np.float32(math.sqrt(before / after))


def _like(old: Any, array: NDArray[Any]) -> Any:
    import paddle

    if not isinstance(old, paddle.base.framework.EagerParamBase):
        return paddle.to_tensor(array)
    new = paddle.create_parameter(list(array.shape), str(array.dtype), default_initializer=paddle.nn.initializer.Assign(array))
    new.trainable, new.stop_gradient = old.trainable, old.stop_gradient
    return new


def _tell_convolution(conv: Any) -> None:
    """Where each group had one input (a depthwise convolution), groups go with their channels."""
    outputs, inputs = conv.weight.shape[:2]
    if conv._in_channels == conv._groups > 1:
        conv._groups = conv._groups * outputs // conv._out_channels
    conv._out_channels, conv._in_channels = outputs, inputs * conv._groups


class _Walk:
    """The labels of all values of a trace, joined as its operators ask for."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self._parents = [0]
        self._reasons: dict[int, str] = {}
        self._labels: dict[int, tuple[Labels, ...]] = {}
        self._parts: dict[int, list[Any]] = {}
        self._origins: dict[int, str] = {}
        self._parameters: dict[str, tuple[Labels, ...]] = {}
        self._layers: list[LayerUse] = []
        self._norms: list[tuple[str, str]] = []

    def of(self, value: Any) -> tuple[Labels, ...]:
        """Labels of a value's axes."""
        return self._labels.get(value.id) or tuple(np.zeros(max(size, 0), np.int64) for size in value.shape)

    def pin(self, axes: Iterable[Labels], reason: str) -> None:
        """These channels stay."""
        for label in {int(label) for axis in axes for label in axis}:
            if label:
                self._reasons.setdefault(self._find(label), reason)

    def follow(self, op: Any) -> None:
        kind, operands = op.name().rpartition(".")[2], [value for value in op.operands_source() if value.initialized()]
        if list(op.blocks()):
            raise BadInput(f"the operator {_place(op)} branches on the data: its channels cannot be followed")
        if op.name() == "builtin.parameter":
            self._parameter(op)
        elif kind == "combine":
            self._parts[op.results()[0].id] = operands
        elif (rule := self._rule(kind)) and (axes := rule(op, operands)) is not None:
            self._labels[op.results()[0].id] = axes
        elif kind not in CONSTANTS:
            for value in [part for operand in operands for part in self._parts.get(operand.id, [operand])]:
                self.pin(self._labels.get(value.id, ()), f"they go through {_place(op)}, which is not known to keep channels apart")

    def structure(self) -> Structure:
        roots = [self._find(label) for label in range(len(self._parents))]
        used = sorted({root for root in roots if root not in self._reasons} - {0})
        numbers = np.zeros(len(roots), np.int64)
        numbers[used] = np.arange(1, len(used) + 1)
        final = numbers[roots]
        labels = {name: tuple(final[axis] for axis in axes) for name, axes in self._parameters.items()}
        fixed = {
            use.weight: self._reasons[self._find(int(self._parameters[use.weight][use.outputs][0]))]
            for use in self._layers
            if not labels[use.weight][use.outputs].any()
        }
        return Structure(len(used) + 1, labels, tuple(self._layers), tuple(self._norms), fixed)

    def _find(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def _join(self, first: Labels, second: Labels, op: Any) -> None:
        """These channels are removed together or not at all."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self._find(one), self._find(other)
            if not a or not b:
                self.pin([np.array([a, b])], f"{_place(op)} joins them with what cannot be removed")
            elif a != b:
                self._parents[b] = a
                if b in self._reasons:
                    self._reasons.setdefault(a, self._reasons[b])

    def _rule(self, kind: str) -> Callable[[Any, list[Any]], tuple[Labels, ...] | None] | None:
        if kind in SAME:
            return lambda _, operands: self.of(operands[0])
        if kind in BROADCAST:
            return lambda op, operands: self._broadcast(op, [self.of(value) for value in operands])
        if kind in RESHAPED:
            return self._reshape
        if kind in RESIZED:
            return lambda op, operands: self.of(operands[0])[:2] + _stay(op.results()[0].shape[2:])
        if kind in REDUCED:
            return self._reduce
        if kind in ("conv2d", "depthwise_conv2d"):
            return self._convolution
        named = {
            "matmul": self._matmul,
            "batch_norm_": self._norm,
            "concat": self._concat,
            "transpose": self._transpose,
            "embedding": self._embedding,
        }
        return named.get(kind, self._softmax if kind in ("softmax", "log_softmax") else None)

    def _parameter(self, op: Any) -> None:
        value, name = op.results()[0], self._names.get(op.attrs()["parameter_name"])
        if name is None:  # a tensor that the state does not hold: nothing can be taken from it
            return
        axes = []
        for size in value.shape:
            axes.append(np.arange(len(self._parents), len(self._parents) + size))
            self._parents.extend(axes[-1].tolist())
        self._parameters[name] = self._labels[value.id] = tuple(axes)
        self._origins[value.id] = name

    def _broadcast(self, op: Any, operands: list[tuple[Labels, ...]]) -> tuple[Labels, ...]:
        result = []
        for place in range(-max(map(len, operands)), 0):
            axes = [axes[place] for axes in operands if len(axes) >= -place]
            size = max(map(len, axes))
            for axis in axes:
                if len(axis) < size:
                    self.pin([axis], f"{_place(op)} spreads it over others")
            same = [axis for axis in axes if len(axis) == size]
            for axis in same[1:]:
                self._join(same[0], axis, op)
            result.append(same[0])
        return tuple(result)

    def _convolution(self, op: Any, operands: list[Any]) -> tuple[Labels, ...] | None:
        if op.attrs()["data_format"] != "NCHW" or operands[1].id not in self._origins:
            return None
        x, weight, result = self.of(operands[0]), self.of(operands[1]), op.results()[0]
        groups, (outputs, inputs) = op.attrs()["groups"], weight[:2]
        self.pin(weight[2:], "a kernel keeps its size")
        if groups > 1 and len(inputs) == 1:  # depthwise: a group goes with its input
            self.pin([inputs], "a group keeps its input")
            for number in range(len(outputs) // groups):
                self._join(outputs[number :: len(outputs) // groups], x[1], op)
        else:  # the groups stay equal: what goes from one goes from each
            for part in np.split(x[1], groups):
                self._join(part, inputs, op)
            for part in np.split(outputs, groups)[1:]:
                self._join(outputs[: len(part)], part, op)
        self._layers.append(LayerUse(self._origins[operands[1].id], "conv", 0, math.prod(result.shape[2:])))
        return (x[0], outputs, *_stay(result.shape[2:]))

    def _matmul(self, op: Any, operands: list[Any]) -> tuple[Labels, ...] | None:
        first, second = (list(self.of(value)) for value in operands)
        if min(len(first), len(second)) < 2:
            return None
        if op.attrs()["transpose_x"]:
            first[-2:] = first[:-3:-1]
        if op.attrs()["transpose_y"]:
            second[-2:] = second[:-3:-1]
        self._join(first[-1], second[-2], op)
        if (weight := self._origins.get(operands[1].id)) and len(second) == 2:
            outputs = 0 if op.attrs()["transpose_y"] else 1
            self._layers.append(LayerUse(weight, "linear", outputs, math.prod(op.results()[0].shape[:-1])))
        return (*self._broadcast(op, [tuple(first[:-2]), tuple(second[:-2])]), first[-2], second[-1])

    def _norm(self, op: Any, operands: list[Any]) -> tuple[Labels, ...] | None:
        x = self.of(operands[0])
        if op.attrs()["data_format"] not in ("NCHW", "NCDHW", "NC", "NCL"):
            return None
        for value in operands[1:]:
            self._join(x[1], self.of(value)[0], op)
        names = [self._origins[value.id] for value in operands[1:] if value.id in self._origins]
        if len(names) == 4:  # mean, variance, scale, bias
            self._norms.append((names[2], names[3]))
        return x

    def _concat(self, op: Any, operands: list[Any]) -> tuple[Labels, ...] | None:
        axis = operands[1].get_defining_op().attrs().get("value")
        if axis is None:
            return None
        parts = [list(self.of(part)) for part in self._parts[operands[0].id]]
        joined = np.concatenate([part.pop(int(axis)) for part in parts])
        others = self._broadcast(op, [tuple(part) for part in parts])
        place = int(axis) % (len(others) + 1)
        return (*others[:place], joined, *others[place:])

    def _transpose(self, op: Any, operands: list[Any]) -> tuple[Labels, ...]:
        axes = self.of(operands[0])
        return tuple(axes[axis] for axis in op.attrs()["perm"])

    def _embedding(self, op: Any, operands: list[Any]) -> tuple[Labels, ...]:
        self.pin([self.of(operands[1])[0]], "an embedding keeps its entries")
        return (*self.of(operands[0]), self.of(operands[1])[1])

    def _softmax(self, op: Any, operands: list[Any]) -> tuple[Labels, ...]:
        axes = self.of(operands[0])
        self.pin([axes[op.attrs()["axis"]]], f"{_place(op)} takes them together")
        return axes

    def _reduce(self, op: Any, operands: list[Any]) -> tuple[Labels, ...] | None:
        axes = self.of(operands[0])
        reduced = operands[1].get_defining_op().attrs().get("value") if len(operands) > 1 else None
        if reduced is None:
            return None
        gone = {axis % len(axes) for axis in reduced} or set(range(len(axes)))
        self.pin([axes[axis] for axis in gone], f"{_place(op)} takes them together")
        left = [np.zeros(1, np.int64) if number in gone else axis for number, axis in enumerate(axes)]
        return tuple(left if op.attrs()["keepdim"] else [axis for number, axis in enumerate(left) if number not in gone])

    def _reshape(self, op: Any, operands: list[Any]) -> tuple[Labels, ...]:
        """One axis at most has channels, before and after; else they stay."""
        axes, shape = self.of(operands[0]), list(op.results()[0].shape)
        labelled = [place for place, axis in enumerate(axes) if axis.any()]
        if len(labelled) == 1:
            alone = [len(axis) if place == labelled[0] else 1 for place, axis in enumerate(axes)]
            elements = np.broadcast_to(axes[labelled[0]].reshape(alone), [len(axis) for axis in axes]).reshape(shape)
            for place in range(len(shape)):
                along = elements[tuple(slice(None) if other == place else slice(1) for other in range(len(shape)))]
                if (elements == along).all():
                    return tuple(along.reshape(-1) if other == place else axis for other, axis in enumerate(_stay(shape)))
        self.pin(axes, f"{_place(op)} puts them in another order")
        return _stay(shape)


def _stay(shape: Iterable[int]) -> tuple[Labels, ...]:
    return tuple(np.zeros(size, np.int64) for size in shape)


def _place(op: Any) -> str:
    """The operator, and the layer that it is in."""
    inside = op.attrs().get("struct_name", "/").strip("/")
    return f"{op.name().rpartition('.')[2]}{f' in {inside}' if inside else ''}"
