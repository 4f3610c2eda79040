"""Whole layers are left out: residual blocks, or others that give what they take, by what that costs on the held-out images.

A residual net without one of its blocks still works (Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from edge.compress.structure import macs_of
from edge.compress.technique import Record, Subject, TuningStep
from edge.errors import BadInput
from edge.models import model_entry

if TYPE_CHECKING:
    from paddle import nn


class PruneLayers(TuningStep):
    """Replace layers by identities, one after another.

    Attributes:
        count: how many go, at most where ``max_drop`` is stated.
        max_drop: in points: none goes whose absence, before training, costs more of the held-out accuracy.
        layers: choose among these, not among all whose inputs and outputs have the same shape.
        importance: ``influence`` on the held-out accuracy, measured anew for each that goes, or ``random`` for a baseline.
        epochs: of training after each.
    """

    step: Literal["prune-layers"] = "prune-layers"
    count: int = Field(1, ge=1, le=1000)
    max_drop: float | None = Field(None, ge=0, le=100)
    layers: tuple[str, ...] = ()
    importance: Literal["influence", "random"] = "influence"

    def run(self, subject: Subject) -> Record:
        inputs = model_entry(subject.model).inputs
        left, removed, before = self._candidates(subject), [], macs_of(subject.layer, inputs.values())
        random = np.random.default_rng(subject.seed)
        for number in range(1, self.count + 1):
            whole = subject.accuracy()
            drops = {name: whole - _accuracy_without(subject, name) for name in left}
            chosen = str(random.choice(left)) if self.importance == "random" else min(drops, key=lambda name: drops[name])
            if self.max_drop is not None and drops[chosen] > self.max_drop:
                break
            left.remove(chosen)
            removed.append({"layer": chosen, "drop": drops[chosen], "drops": drops})
            replace(subject.layer, [chosen])
            subject.constraints = {name: held for name, held in subject.constraints.items() if not name.startswith(f"{chosen}.")}
            if self.epochs:
                self.tune(subject, subject.seed + number)
        subject.surgery.append((self.step, {"removed": [one["layer"] for one in removed]}))
        return {"removed": removed, "macs_before": before, "macs_after": macs_of(subject.layer, inputs.values())}

    def _candidates(self, subject: Subject) -> list[str]:
        same = _same_shape(subject.layer, subject.train.images[:1])
        found = list(self.layers) or _outermost(subject.layer, same)
        if wrong := [name for name in found if name not in same]:
            raise BadInput(f"prune-layers: {wrong[0]!r} is no layer with weights that gives the shape which it takes", hint=_choice(same))
        for name, other in itertools.permutations(found, 2):
            if f"{name}.".startswith(f"{other}."):
                raise BadInput(f"prune-layers: {name!r} is named twice, or lies in {other!r}, which is named too", hint="name each layer once")
        if len(found) < self.count:
            raise BadInput(f"prune-layers: count is {self.count}, but only {len(found)} layers give the shape which they take", hint=_choice(found))
        return found


def rebuild(layer: nn.Layer, details: Record) -> nn.Layer:
    """The layer without those that were removed; see `edge.compress.technique.Rebuild`."""
    replace(layer, details["removed"])
    return layer


def replace(layer: nn.Layer, names: list[str]) -> None:
    """Put identities in the place of sublayers.

    Raises:
        LookupError: there is none of such a name.
    """
    from paddle import nn

    for name in names:
        parent, last = _parent(layer, name)
        if last not in parent._sub_layers:
            raise LookupError(f"there is no layer {name!r}")
        parent._sub_layers[last] = nn.Identity()


def _choice(names: list[str]) -> str | None:
    return f"there are: {', '.join(names)}" if names else None


def _parent(layer: nn.Layer, name: str) -> tuple[Any, str]:
    path, _, last = name.rpartition(".")
    return dict(layer.named_sublayers(include_self=True))[path], last


@contextmanager
def _without(layer: nn.Layer, name: str) -> Iterator[None]:
    parent, last = _parent(layer, name)
    kept = parent._sub_layers[last]
    replace(layer, [name])
    try:
        yield
    finally:
        parent._sub_layers[last] = kept


def _accuracy_without(subject: Subject, name: str) -> float:
    with _without(subject.layer, name):
        return subject.accuracy()


def _same_shape(layer: nn.Layer, images: Any) -> list[str]:
    """Sublayers with weights that take one tensor, and give one of the same shape."""
    import paddle

    seen: dict[str, list[tuple[Any, ...]]] = {}

    def watch(name: str) -> Any:
        def note(_: Any, inputs: Any, output: Any) -> None:
            tensors = [*inputs, output]
            shapes = [tuple(one.shape) if isinstance(one, paddle.Tensor) else None for one in tensors]
            seen.setdefault(name, []).append(tuple(shapes))

        return note

    named = [(name, one) for name, one in layer.named_sublayers() if _has_weights(one)]
    hooks = [one.register_forward_post_hook(watch(name)) for name, one in named]
    try:
        layer.eval()
        with paddle.no_grad():
            layer(paddle.to_tensor(images))
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, calls in seen.items() if all(len(shapes) == 2 and shapes[0] is not None and shapes[0] == shapes[1] for shapes in calls)]


def _has_weights(layer: nn.Layer) -> bool:
    return any(value.ndim >= 2 for value in layer.parameters())


def _outermost(layer: nn.Layer, same: list[str], prefix: str = "") -> list[str]:
    """Those that lie in no other; but a plain list of several layers is looked into, where one of them will do."""
    from paddle import nn

    found: list[str] = []
    for last, child in layer.named_children():
        name = f"{prefix}{last}"
        parts = [f"{name}.{part}" for part, inner in child.named_children() if _has_weights(inner)]
        a_list = isinstance(child, nn.Sequential) and len(parts) > 1 and any(part in same for part in parts)
        found += [name] if name in same and not a_list else _outermost(child, same, f"{name}.")
    return found
