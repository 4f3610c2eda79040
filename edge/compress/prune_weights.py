"""Weights to zero: below a threshold or to a sparsity, over the whole net or layer by layer, N of M, at random; at once or gradually.

Sources: Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections" (magnitude, with training in between); Zhu and Gupta 2017, "To prune,
or not to prune" (the cubic schedule of gradual pruning); Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (N:M).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edge.compress.constraints import Mask
from edge.compress.technique import Record, Subject, TuningStep
from edge.errors import BadInput


class PruneWeights(TuningStep):
    """Prune every parameter of two or more axes: of convolutions, linear layers and embeddings; biases and norms stay.

    Attributes:
        sparsity: share that is zero in the end, of all together (``scope`` global) or of each layer (``layer``). per_layer: of single ones.
        threshold: instead of a sparsity, magnitudes below this times the standard deviation of the layer's weights before the first round.
        pattern: ``N:M``: the N largest of each M neighbours along the inputs stay, at each place of a kernel.
        importance: ``magnitude``, or ``random`` for a baseline.
        rounds: steps in which the sparsity grows, by a cube; after each ``epochs`` of training.
    """

    step: Literal["prune-weights"] = "prune-weights"
    sparsity: float | None = Field(None, gt=0, lt=1)
    per_layer: dict[str, float] = Field(default_factory=dict)
    threshold: float | None = Field(None, gt=0)
    pattern: str | None = Field(None, pattern=r"^[1-9]\d?:[1-9]\d?$")
    scope: Literal["global", "layer"] = "global"
    importance: Literal["magnitude", "random"] = "magnitude"
    rounds: int = Field(1, ge=1, le=200)

    @model_validator(mode="after")
    def _one_way(self) -> PruneWeights:
        ways = (self.sparsity is not None or bool(self.per_layer), self.threshold is not None, self.pattern is not None)
        if sum(ways) != 1:
            raise ValueError("state one of sparsity or per_layer, threshold, pattern")
        if self.threshold is not None and self.importance == "random":
            raise ValueError("a threshold is of magnitudes: there is no random one")
        if self.pattern and int(self.pattern.partition(":")[0]) >= int(self.pattern.partition(":")[2]):
            raise ValueError(f"pattern {self.pattern} leaves nothing to prune")
        if bad := next((name for name, share in self.per_layer.items() if not 0 <= share < 1), None):
            raise ValueError(f"per_layer: {bad}: a sparsity is from 0 to less than 1")
        return self

    def run(self, subject: Subject) -> Record:
        weights = prunable(subject)
        check_named(self.step, self.per_layer, weights)
        subject.require_free(weights, self.step)
        random = np.random.default_rng(subject.seed)
        scores, limits = None, {name: (self.threshold or 0.0) * float(value.std()) for name, value in weights.items()}
        if self.importance == "random":  # what is zero already goes first
            scores = {name: np.where(value == 0, -1.0, random.random(value.shape)) for name, value in weights.items()}
        for number in range(1, self.rounds + 1):
            share = 1 - (1 - number / self.rounds) ** 3  # of the way to the sparsity
            current = {name: np.abs(value) for name, value in prunable(subject).items()}
            for name, keep in self._keep(scores or current, limits, share).items():
                held = subject.constraints.get(name)
                subject.constraints[name] = Mask(keep & held.keep if isinstance(held, Mask) else keep)
            subject.hold()
            if self.epochs:
                seed = subject.seed + number
                self.tune(subject, seed)
        return {"sparsity": sparsity_of(subject), "by_layer": {name: float(np.mean(value == 0)) for name, value in prunable(subject).items()}}

    def _keep(self, scores: dict[str, NDArray[np.float64]], limits: dict[str, float], share: float) -> dict[str, NDArray[np.bool_]]:
        if self.pattern:
            kept, group = map(int, self.pattern.split(":"))
            found = {name: largest_of_each(score, kept, group) for name, score in scores.items()}
            if all(keep.all() for keep in found.values()):
                raise BadInput(f"{self.step}: no layer's inputs divide into groups of {group}", hint="choose another pattern, or a sparsity")
            return found
        if self.threshold is not None:
            return {name: size >= share * limits[name] for name, size in scores.items()}
        if self.per_layer or self.scope == "layer":
            wanted = {name: self.per_layer.get(name, self.sparsity or 0.0) * share for name in scores}
            return {name: above(score, wanted[name]) for name, score in scores.items()}
        together = above(np.concatenate([score.ravel() for score in scores.values()]), (self.sparsity or 0.0) * share)
        ends = np.cumsum([score.size for score in scores.values()])[:-1]
        return {name: part.reshape(scores[name].shape) for name, part in zip(scores, np.split(together, ends), strict=True)}


def above(scores: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """True but for this share of the scores, the smallest ones."""
    count = round(share * scores.size)
    keep = np.ones(scores.size, bool)
    keep[np.argsort(scores, axis=None, kind="stable")[:count]] = False
    return keep.reshape(scores.shape)


def largest_of_each(scores: NDArray[np.float64], kept: int, group: int) -> NDArray[np.bool_]:
    """True for the ``kept`` largest of each ``group`` neighbours in a weight's inputs; all true where the inputs do not divide into groups: such a
    layer stays dense, as in NVIDIA's recipe.

    Args:
        scores: [inputs, outputs] of a linear layer, [outputs, inputs, height, width] of a convolution.
    """
    inputs = 0 if scores.ndim == 2 else 1
    rows = np.moveaxis(scores, inputs, -1)
    if rows.shape[-1] % group:
        return np.ones(scores.shape, bool)
    groups = rows.reshape(-1, group)
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, np.argsort(-groups, axis=1, kind="stable")[:, :kept], True, axis=1)
    return np.ascontiguousarray(np.moveaxis(keep.reshape(rows.shape), -1, inputs))


def prunable(subject: Subject) -> dict[str, NDArray[np.float32]]:
    """The parameters of two or more axes, by their names in the state."""
    return {name: value.numpy() for name, value in subject.layer.named_parameters() if value.ndim >= 2}


def check_named(step: str, named: Iterable[str], weights: Collection[str]) -> None:
    """
    Raises:
        BadInput: a weight is named that there is not.
    """
    if unknown := sorted(set(named) - set(weights)):
        raise BadInput(f"{step}: there is no weight {unknown[0]!r}", hint=f"there are: {', '.join(weights)}")


def sparsity_of(subject: Subject) -> float:
    weights = prunable(subject).values()
    return sum(int((value == 0).sum()) for value in weights) / sum(value.size for value in weights)
