"""Layers of low rank: each weight becomes a product of smaller ones, and its layer a chain of two or three that any runtime executes.

svd       a linear layer, or a 1x1 convolution: two of them (Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks")
spatial   a convolution: kx1, then 1xk (Jaderberg, Vedaldi and Zisserman 2014, "Speeding up Convolutional Neural Networks with Low Rank
          Expansions", scheme 2); an SVD finds the best (Tai et al. 2015, "Convolutional Neural Networks with Low-rank Regularization")
tucker    a convolution: 1x1, kxk of fewer channels, 1x1, by Tucker-2 (Kim et al. 2015, "Compression of Deep Convolutional Neural Networks for
          Fast and Low Power Mobile Applications"). A rank that is the whole side takes no 1x1, as in the paper's first layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from edge.compress.constraints import Mask
from edge.compress.technique import Record, Subject, TuningStep
from edge.compress.train import predict
from edge.errors import BadInput
from edge.vocabulary import Frozen

if TYPE_CHECKING:
    from paddle import Tensor, nn

Method = Literal["svd", "spatial", "tucker"]
#: (rank,), or for Tucker-2 that of the outputs and that of the inputs.
Ranks = tuple[int, ...]
#: [outputs, inputs, height, width]; that of a linear layer is 1x1.
Weight = NDArray[np.float64]


class Split(Frozen):
    """What was done to one layer."""

    layer: str
    method: Method
    ranks: Ranks = Field(min_length=1, max_length=2)


@dataclass(frozen=True)
class Site:
    """The places that a layer reads and writes, as (height, width). With one of each, multiply-accumulates are parameters."""

    reads: tuple[int, int] = (1, 1)
    writes: tuple[int, int] = (1, 1)


class LowRank(TuningStep):
    """Replace linear layers and convolutions where it saves something. Biases go to the last of the new layers.

    Attributes:
        energy: the least ranks that keep this share of the squared singular values; for Tucker-2, of each of its two unfoldings.
        budget: the largest ranks that cost at most this share of the layer's ``budget_of``.
        max_drop: the least ranks with which all layers together lose at most so many points of top-1 on the held-out images, before training. They
            are searched layer by layer, with what was replaced so far, each with an equal share of the drop; by bisection, so where accuracy does
            not grow with the rank, a smaller one may do too.
        per_layer: ranks of single layers: one, or for Tucker-2 that of the outputs and that of the inputs.
        convolutions: the method for kernels larger than 1x1; ``none`` leaves all convolutions.
        layers: those to replace; all where nothing is named, or those of ``per_layer`` where it stands alone.
        epochs: of training when all are replaced.
    """

    step: Literal["low-rank"] = "low-rank"
    energy: float | None = Field(None, gt=0, le=1)
    budget: float | None = Field(None, gt=0, lt=1)
    budget_of: Literal["parameters", "macs"] = "parameters"
    max_drop: float | None = Field(None, ge=0, le=100)
    per_layer: dict[str, int | tuple[int, int]] = Field(default_factory=dict)
    convolutions: Literal["tucker", "spatial", "none"] = "tucker"
    layers: tuple[str, ...] = ()
    learning_rate: float = Field(1e-4, gt=0, le=1)

    @model_validator(mode="after")
    def _one_way(self) -> LowRank:
        ways = sum(way is not None for way in (self.energy, self.budget, self.max_drop))
        if ways > 1 or not (ways or self.per_layer):
            raise ValueError("state one of energy, budget, max_drop, or per_layer alone")
        if self.layers and not ways:
            raise ValueError("layers needs energy, budget or max_drop; per_layer names its own")
        return self

    def run(self, subject: Subject) -> Record:
        sites = observe_sites(subject)
        methods = self.methods(subject.layer)
        dropped = [constraint for name in methods for constraint in _constraints_of(subject, name)]
        dense, top = _size(subject.layer), subject.accuracy() if self.max_drop is not None else 0.0
        replaced, left = {}, {}
        for number, (name, method) in enumerate(methods.items(), 1):
            layer = sublayer(subject.layer, name)
            if reason := obstacle(layer) or (None if name in sites else "it is never called"):
                left[name] = reason
                continue
            site = sites[name] if self.budget_of == "macs" else Site()
            least = top - (self.max_drop or 0.0) * number / len(methods)
            ranks = self._ranks(subject, name, method, site, least)
            if ranks is None:
                left[name] = "no rank that was allowed saves anything"
                continue
            split, shape = Split(layer=name, method=method, ranks=ranks), weight_of(layer).shape
            chain, kept = factorised(layer, split)
            put(subject.layer, name, chain)
            subject.surgery.append((self.step, split.model_dump(mode="json")))
            replaced[name] = {
                "method": method,
                "ranks": list(ranks),
                "full": list(full_ranks(shape, method)),
                "kept": kept,
                "parameters": [prod(shape), cost(shape, method, ranks)],
                "macs": [prod(shape) * prod(sites[name].writes), cost(shape, method, ranks, sites[name])],
            }
        for name in dropped:
            if name.rpartition(".")[0] in replaced:
                del subject.constraints[name]
        if self.epochs and replaced:
            self.tune(subject, subject.seed)
        gone = [name for name in dropped if name not in subject.constraints]
        return {"replaced": replaced, "left": left, "dropped_constraints": gone, "parameters": [dense, _size(subject.layer)]}

    def methods(self, root: nn.Layer) -> dict[str, Method]:
        """The layers to try, and how.

        Raises:
            BadInput: a name that is no layer's of these kinds.
        """
        from paddle import nn

        kinds = (nn.Linear,) if self.convolutions == "none" else (nn.Linear, nn.Conv2D)
        found = {name: layer for name, layer in root.named_sublayers() if isinstance(layer, kinds)}
        named = {*self.layers, *self.per_layer}
        if unknown := sorted(named - set(found)):
            what = "linear layer" if self.convolutions == "none" else "linear layer or convolution"
            raise BadInput(f"there is no {what} {unknown[0]!r} to replace", hint=f"there are: {', '.join(found)}")
        ruled = set(self.per_layer) | (set(self.layers or found) if (self.energy or self.budget or self.max_drop is not None) else set())
        return {name: self._method(layer) for name, layer in found.items() if name in ruled}

    def _method(self, layer: nn.Layer) -> Method:
        return "svd" if prod(weight_of(layer).shape[2:]) == 1 or self.convolutions == "none" else self.convolutions

    def _ranks(self, subject: Subject, name: str, method: Method, site: Site, least: float) -> Ranks | None:
        """The ranks by the rule; None where they save nothing."""
        weight = weight_of(sublayer(subject.layer, name))
        whole = prod(weight.shape) * prod(site.writes)
        rungs = [ranks for ranks in ladder(weight.shape, method) if cost(weight.shape, method, ranks, site) < whole]
        if name in self.per_layer:
            asked = _checked(name, self.per_layer[name], weight.shape, method)
            return asked if cost(weight.shape, method, asked, site) < whole else None
        if self.energy is not None:
            found = by_energy(weight, method, self.energy)
            return found if cost(weight.shape, method, found, site) < whole else None
        if self.budget is not None:
            return max((ranks for ranks in rungs if cost(weight.shape, method, ranks, site) <= self.budget * whole), default=None)
        return first_good(rungs, lambda ranks: _accuracy_with(subject, Split(layer=name, method=method, ranks=ranks)) >= least)


def rebuild(layer: nn.Layer, details: Record) -> nn.Layer:
    """The structure once more.

    Raises:
        BadInput: details of another model, or damaged ones.
    """
    try:
        split = Split.model_validate(details)
    except ValidationError as error:
        raise BadInput(f"low-rank: the surgery is damaged: {error.errors(include_url=False)[0]['msg']}") from error
    old = dict(layer.named_sublayers()).get(split.layer)
    if old is None or obstacle(old) is not None:
        raise BadInput(f"low-rank: the model has no layer {split.layer!r} that could have been replaced")
    shape = weight_of(old).shape
    if cost(shape, split.method, _checked(split.layer, split.ranks, shape, split.method)) >= prod(shape):  # no step leaves more than there was
        raise BadInput(f"low-rank: ranks {list(split.ranks)} make {split.layer!r} larger")
    put(layer, split.layer, _chain(old, split))
    return layer


def ladder(shape: Sequence[int], method: Method) -> list[Ranks]:
    """All ranks from the least on; for Tucker-2 those with which both sides shrink alike."""
    full = full_ranks(shape, method)
    steps = max(full)
    return [tuple(-(-side * number // steps) for side in full) for number in range(1, steps + 1)]


def full_ranks(shape: Sequence[int], method: Method) -> Ranks:
    """Those with which nothing is lost."""
    outputs, inputs, height, width = shape
    if method == "tucker":
        return min(outputs, inputs * height * width), min(inputs, outputs * height * width)
    return (min(inputs * height, width * outputs),)


def cost(shape: Sequence[int], method: Method, ranks: Ranks, site: Site | None = None) -> int:
    """Multiply-accumulates of the new layers, or their parameters where no site is given; without the bias."""
    outputs, inputs, height, width = shape
    reads, writes = (site or Site()).reads, (site or Site()).writes
    if method == "tucker":
        outer, inner = ranks
        before = inner * inputs * prod(reads) if inner < inputs else 0
        after = outer * outputs * prod(writes) if outer < outputs else 0
        return before + outer * inner * height * width * prod(writes) + after
    between = writes[0] * reads[1]  # the first has moved over the height only
    return ranks[0] * (inputs * height * between + width * outputs * prod(writes))


def by_energy(weight: Weight, method: Method, share: float) -> Ranks:
    """The least ranks that keep this share of the squared singular values of each matrix that is cut."""
    kept = (np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2) for matrix in _unfolded(weight, method))
    return tuple(int(np.searchsorted(sums, share * sums[-1])) + 1 for sums in kept)


def _unfolded(weight: Weight, method: Method) -> list[NDArray[np.float64]]:
    """The matrices whose ranks are cut."""
    outputs, inputs, height, width = weight.shape
    if method == "tucker":
        return [weight.reshape(outputs, -1), np.moveaxis(weight, 1, 0).reshape(inputs, -1)]
    return [weight.transpose(1, 2, 0, 3).reshape(inputs * height, outputs * width)]


def parts_of(weight: Weight, method: Method, ranks: Ranks) -> list[Weight]:
    """The weights of the new layers, in their order."""
    return _tucker(weight, ranks) if method == "tucker" else _split(weight, ranks[0])


def _split(weight: Weight, rank: int) -> list[Weight]:
    """[rank, inputs, height, 1] and [outputs, rank, 1, width]: the best of this rank (Eckart and Young 1936), both of the same norm."""
    outputs, inputs, height, width = weight.shape
    left, values, right = np.linalg.svd(_unfolded(weight, "spatial")[0], full_matrices=False)
    root = np.sqrt(values[:rank])
    first = (left[:, :rank] * root).T.reshape(rank, inputs, height, 1)
    second = (right[:rank] * root[:, None]).reshape(rank, outputs, 1, width).transpose(1, 0, 2, 3)
    return [first, second]


def _tucker(weight: Weight, ranks: Ranks) -> list[Weight]:
    """[inner, inputs, 1, 1], [outer, inner, height, width], [outputs, outer, 1, 1], by higher-order orthogonal iteration."""
    from tensorly.decomposition import partial_tucker
    from tensorly.tenalg import mode_dot

    (core, (outer, inner)), _ = partial_tucker(weight, rank=list(ranks), modes=[0, 1], init="svd")
    parts = [core]
    if inner.shape[1] < len(inner):
        parts.insert(0, inner.T[:, :, None, None])
    else:
        parts[0] = mode_dot(parts[0], inner, 1)
    if outer.shape[1] < len(outer):
        parts.append(outer[:, :, None, None])
    else:
        parts[-1] = mode_dot(parts[-1], outer, 0)
    return parts


def product(parts: Sequence[Weight]) -> Weight:
    """The weight that a chain of layers has together."""
    whole = parts[0]
    for part in parts[1:]:
        whole = np.einsum("riab,orcd->oiacbd", whole, part).reshape(
            part.shape[0], whole.shape[1], whole.shape[2] * part.shape[2], whole.shape[3] * part.shape[3]
        )
    return whole


def factorised(layer: nn.Layer, split: Split) -> tuple[nn.Layer, float]:
    """The new layers with their weights, and the share of the old weight's squares that they keep."""
    weight = weight_of(layer)
    parts = parts_of(weight, split.method, split.ranks)
    chain = _chain(layer, split)
    for new, part in zip(chain, parts, strict=True):
        new.weight.set_value(_as_stored(new, part))
    if layer.bias is not None:
        chain[-1].bias.set_value(layer.bias)
    squares = float((weight**2).sum())
    return chain, 1.0 - float(((weight - product(parts)) ** 2).sum()) / squares if squares else 1.0


def _chain(layer: nn.Layer, split: Split) -> nn.Sequential:
    """The new layers with initial weights. The last has a bias where the old one had."""
    from paddle import nn

    bias = None if layer.bias is not None else False
    if isinstance(layer, nn.Linear):
        inputs, outputs = layer.weight.shape
        (rank,) = split.ranks
        return nn.Sequential(nn.Linear(inputs, rank, bias_attr=False), nn.Linear(rank, outputs, bias_attr=bias))
    outputs, inputs, height, width = layer.weight.shape
    moves = {"stride": layer._stride, "padding": _pair(layer._padding), "dilation": layer._dilation}
    if split.method == "tucker":
        outer, inner = split.ranks
        layers = [nn.Conv2D(inputs, inner, 1, bias_attr=False)] if inner < inputs else []
        layers.append(nn.Conv2D(inner, outer, (height, width), **moves, bias_attr=False if outer < outputs else bias))
        return nn.Sequential(*layers, *([nn.Conv2D(outer, outputs, 1, bias_attr=bias)] if outer < outputs else []))
    (rank,) = split.ranks
    first = {name: (pair[0], 0 if name == "padding" else 1) for name, pair in moves.items()}
    second = {name: (0 if name == "padding" else 1, pair[1]) for name, pair in moves.items()}
    return nn.Sequential(
        nn.Conv2D(inputs, rank, (height, 1), **first, bias_attr=False), nn.Conv2D(rank, outputs, (1, width), **second, bias_attr=bias)
    )


def obstacle(layer: nn.Layer) -> str | None:
    """Why a layer cannot be replaced."""
    from paddle import nn

    if isinstance(layer, nn.Linear):
        return None
    if not isinstance(layer, nn.Conv2D):
        return "neither linear nor a convolution"
    if layer._groups > 1:
        return f"its {layer._groups} groups are of low rank already"
    if layer._padding_mode != "zeros" or layer._data_format != "NCHW" or _pair(layer._padding) is None:
        return "only NCHW with the same zeros on both ends is split"
    return None


def _pair(padding: Any) -> tuple[int, int] | None:
    """Paddle's padding as (height, width); None where the ends differ or it is a word."""
    if isinstance(padding, int):
        return padding, padding
    if isinstance(padding, (list, tuple)) and len(padding) == 2 and all(isinstance(side, int) for side in padding):
        return padding[0], padding[1]
    return None


def weight_of(layer: nn.Layer) -> Weight:
    """[outputs, inputs, height, width].

    Raises:
        BadInput: it holds NaN or infinity.
    """
    values: Weight = layer.weight.numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise BadInput("a weight to be replaced holds NaN or infinity", hint="train the model first")
    return values.T[:, :, None, None] if values.ndim == 2 else values


def _as_stored(layer: nn.Layer, part: Weight) -> NDArray[np.float32]:
    values = part.astype(np.float32)
    return np.ascontiguousarray(values[:, :, 0, 0].T) if layer.weight.ndim == 2 else values


def observe_sites(subject: Subject) -> dict[str, Site]:
    """Where each linear layer and convolution stands, by running one held-out image."""
    from paddle import nn

    found: dict[str, Site] = {}

    def watch(name: str) -> Callable[..., None]:
        def observed(layer: nn.Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            reads, writes = inputs[0].shape, output.shape
            rows = (prod(reads[1:-1]), 1)
            found[name] = Site(rows, rows) if isinstance(layer, nn.Linear) else Site((reads[2], reads[3]), (writes[2], writes[3]))

        return observed

    layers = {name: layer for name, layer in subject.layer.named_sublayers() if isinstance(layer, (nn.Linear, nn.Conv2D))}
    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in layers.items()]
    try:
        predict(subject.layer, subject.held_out.images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def first_good(rungs: Sequence[Ranks], good: Callable[[Ranks], bool]) -> Ranks | None:
    """The first from which on they are good, by bisection; what is returned was found good."""
    low, high = 0, len(rungs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(rungs[middle]) else (middle + 1, high)
    return rungs[low] if low < len(rungs) else None


def _accuracy_with(subject: Subject, split: Split) -> float:
    old = sublayer(subject.layer, split.layer)
    put(subject.layer, split.layer, factorised(old, split)[0])
    try:
        return subject.accuracy()
    finally:
        put(subject.layer, split.layer, old)


def _checked(name: str, ranks: int | Ranks, shape: Sequence[int], method: Method) -> Ranks:
    """Ranks that were stated, as they fit the method."""
    asked, full = (ranks,) if isinstance(ranks, int) else tuple(ranks), full_ranks(shape, method)
    if len(asked) != len(full):
        raise BadInput(f"low-rank: {name}: {method} takes {len(full)} {'rank' if len(full) == 1 else 'ranks, of the outputs and of the inputs'}")
    if not all(1 <= rank <= most for rank, most in zip(asked, full, strict=True)):
        raise BadInput(f"low-rank: {name}: ranks {list(asked)} are not from 1 to {list(full)}, those of the whole weight")
    return asked


def _constraints_of(subject: Subject, name: str) -> list[str]:
    """Names of constraints that hold to nothing and go with the layer.

    Raises:
        BadInput: one that would be lost.
    """
    held = [full for full in (f"{name}.weight", f"{name}.bias") if full in subject.constraints]
    for full in held:
        constraint = subject.constraints[full]
        if not (isinstance(constraint, Mask) and constraint.keep.all()):
            raise BadInput(
                f"low-rank: {full} was pruned, shared or quantized by a step before, and a product of smaller weights would undo that",
                hint="put low-rank before those steps, or name the other layers in 'layers'",
            )
    return held


def sublayer(root: nn.Layer, name: str) -> nn.Layer:
    return dict(root.named_sublayers(include_self=True))[name]


def put(root: nn.Layer, name: str, layer: nn.Layer) -> None:
    """Put the layer in the place of another, in its parent."""
    parent, _, child = name.rpartition(".")
    setattr(sublayer(root, parent), child, layer)


def _size(root: nn.Layer) -> int:
    return sum(prod(parameter.shape) for parameter in root.parameters())
