"""What the pruning of filters and of neurons have in common: scores of channels, how many go, and rounds with training in between.

Sources of the importances: Li et al. 2016, "Pruning Filters for Efficient ConvNets" (``l1``); He et al. 2019, "Filter Pruning via Geometric Median"
(``fpgm``); Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming" (``bn-scale``); Molchanov et al. 2017, "Pruning
Convolutional Neural Networks for Resource Efficient Inference" (``taylor``; the absolute value is taken of the mean over a batch, not of each
image, whose gradients a pass does not give apart).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edge.compress.constraints import as_arrays, from_arrays
from edge.compress.structure import Bundle, LayerUse, Structure, cut, outline, sliced, structure_of
from edge.compress.technique import Record, Subject, TuningStep
from edge.errors import BadInput
from edge.models import model_entry

Scores = NDArray[np.float64]


class PruneChannels(TuningStep):
    """Remove whole channels, with everything in the net that belongs to them.

    Layers whose outputs are added share their channels: each such bundle is treated as one layer.

    Attributes:
        share: of the channels that go, of all together (``scope`` global) or of each layer (``layer``).
        per_layer: instead, the share of single layers, by the names of their weights.
        macs: instead, the share of the net's multiplications that goes.
        importance: the least important go first. Scores are divided by their layer's mean, but for ``bn-scale``, so that layers compare.
        least: channels that each layer keeps.
        multiple: what a layer keeps is a multiple of this, as vector units like it, where it has more to begin with.
        rounds: steps in which channels go, equally many in each; after each ``epochs`` of training.
        samples: training images for ``taylor``.
    """

    kind: ClassVar[str]
    share: float | None = Field(None, gt=0, lt=1)
    per_layer: dict[str, float] = Field(default_factory=dict)
    macs: float | None = Field(None, gt=0, lt=1)
    scope: Literal["global", "layer"] = "global"
    importance: Literal["l1", "fpgm", "bn-scale", "taylor", "random"] = "l1"
    least: int = Field(1, ge=1, le=4096)
    multiple: int = Field(1, ge=1, le=64)
    rounds: int = Field(1, ge=1, le=200)
    samples: int = Field(512, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _one_way(self) -> PruneChannels:
        if (self.share is not None) + bool(self.per_layer) + (self.macs is not None) != 1:
            raise ValueError("state one of share, per_layer, macs")
        if bad := next((name for name, share in self.per_layer.items() if not 0 < share < 1), None):
            raise ValueError(f"per_layer: {bad}: a share is between 0 and 1")
        return self

    def run(self, subject: Subject) -> Record:
        before = left = _structure(subject)
        shares = self._shares(before)
        for number in range(1, self.rounds + 1):
            left = _cut(subject, left, self._keep(left, self._scores(subject, left, number), before, shares, number / self.rounds))
            if self.epochs:
                self.tune(subject, subject.seed + number)
        subject.surgery.append((self.step, outline(subject.layer)))
        return {"macs_before": before.macs(), "macs_after": left.macs(), "channels": _widths(before, left)}

    def bundles(self, structure: Structure) -> list[Bundle]:
        """Those whose channels it may remove."""
        return [bundle for bundle in structure.bundles() if ("conv" in bundle.kinds) == (self.kind == "conv")]

    def _shares(self, structure: Structure) -> dict[str, float]:
        """First layer of a bundle -> the share of its channels that goes; empty where they are ranked together.

        Raises:
            BadInput: there is nothing to prune, or a layer that was named cannot be.
        """
        bundles = self.bundles(structure)
        if not bundles:
            why = next((f": the outputs of {name} stay, {reason}" for name, reason in structure.fixed.items()), "")
            raise BadInput(f"{self.step}: the model has no {self.kind} layer whose outputs can be removed{why}")
        if self.per_layer:
            return dict(self._named(structure, bundles, name, share) for name, share in self.per_layer.items())
        return {bundle.layers[0]: self.share for bundle in bundles} if self.share and self.scope == "layer" else {}

    def _named(self, structure: Structure, bundles: list[Bundle], name: str, share: float) -> tuple[str, float]:
        for bundle in bundles:
            if name in bundle.layers:
                if also := next((other for other in self.per_layer if other != name and other in bundle.layers), None):
                    raise BadInput(f"{self.step}: per_layer: {name} and {also} share their channels", hint="name one of them")
                return bundle.layers[0], share
        if name in structure.fixed:
            raise BadInput(f"{self.step}: the outputs of {name} cannot be removed: {structure.fixed[name]}")
        raise BadInput(f"{self.step}: there is no {self.kind} layer {name!r}", hint=f"there are: {', '.join(b.layers[0] for b in bundles)}")

    def _keep(self, structure: Structure, scores: Scores, before: Structure, shares: dict[str, float], progress: float) -> NDArray[np.bool_]:
        """Which channels stay after the round that comes so far of the way."""
        bundles, started = self.bundles(structure), {bundle.layers[0]: len(bundle.channels) for bundle in self.bundles(before)}
        chunks = {bundle.layers[0]: self._chunks(structure, bundle, scores) for bundle in bundles}
        ranked = sorted((chunk for one in chunks.values() for chunk in one), key=lambda chunk: float(scores[chunk].mean()))
        if self.macs is not None:
            return _to_macs(structure, ranked, round(before.macs() * (1 - self.macs * progress)), self.step)
        if not shares:
            gone = round((self.share or 0.0) * progress * sum(started.values())) - (sum(started.values()) - sum(len(b.channels) for b in bundles))
            return _without(structure, _first(ranked, gone))
        chosen: list[NDArray[np.int64]] = []
        for bundle in bundles:
            start = started[bundle.layers[0]]
            gone = round(shares.get(bundle.layers[0], 0.0) * progress * start) - (start - len(bundle.channels))
            chosen += _first(chunks[bundle.layers[0]], gone)
        return _without(structure, chosen)

    def _chunks(self, structure: Structure, bundle: Bundle, scores: Scores) -> list[NDArray[np.int64]]:
        """The channels of a bundle that may go, those of the lowest scores first, as many at once as leave a multiple."""
        order = bundle.channels[np.argsort(scores[bundle.channels], kind="stable")]
        stays = {
            int(channel)
            for use in structure.layers
            if use.weight in bundle.layers
            for channel in sorted(set(structure.outputs(use).tolist()), key=lambda channel: -scores[channel])[: self.least]
        }
        chunks, start = [], 0
        end = len(order) % self.multiple or self.multiple
        while end < len(order) and not stays & set(order[start:end].tolist()):
            chunks.append(order[start:end])
            start, end = end, end + self.multiple
        return chunks

    def _scores(self, subject: Subject, structure: Structure, number: int) -> Scores:
        """[structure.count]: how much each channel matters."""
        if self.importance == "random":
            return np.random.default_rng([subject.seed, number]).random(structure.count)
        if self.importance == "taylor":
            return _by_layer(structure, _taylor(subject, structure, self.samples, self.batch_size, subject.seed + number))
        values = {name: value.numpy() for name, value in subject.layer.state_dict().items()}
        if self.importance == "bn-scale":
            scores, counts = _mean(structure, [(structure.labels[scale][0], np.abs(values[scale])) for scale, _ in structure.norms])
            for bundle in self.bundles(structure):
                if not counts[bundle.channels].all():
                    raise BadInput(f"{self.step}: no batch norm follows {bundle.layers[0]}", hint="choose another importance, e.g. l1")
            return scores
        measure = _l1 if self.importance == "l1" else _to_the_others
        parts = []
        for use in structure.layers:
            sizes = measure(_rows(values[use.weight], use))
            parts.append((structure.outputs(use), sizes / max(sizes.mean(), 1e-12)))
        return _mean(structure, parts)[0]


def _first(chunks: list[NDArray[np.int64]], count: int) -> list[NDArray[np.int64]]:
    """As many from the front as have at most so many channels."""
    return chunks[: int((np.cumsum([len(chunk) for chunk in chunks]) <= count).sum())]


def _without(structure: Structure, chunks: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
    keep = structure.all()
    for chunk in chunks:
        keep[chunk] = False
    return keep


def _to_macs(structure: Structure, ranked: list[NDArray[np.int64]], target: int, step: str) -> NDArray[np.bool_]:
    """The fewest that must go for at most so many multiplications to be left."""
    if (reached := structure.macs(_without(structure, ranked))) > target:
        raise BadInput(
            f"{step}: macs: with the least channels kept the net still has {reached:,} multiplications, of {structure.macs():,}; wanted: {target:,}",
            hint="ask for a smaller share, or lower least or multiple",
        )
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if structure.macs(_without(structure, ranked[:middle])) <= target else (middle + 1, high)
    return _without(structure, ranked[:low])


def _structure(subject: Subject) -> Structure:
    return structure_of(subject.layer, model_entry(subject.model).inputs.values())


def _cut(subject: Subject, structure: Structure, keep: NDArray[np.bool_]) -> Structure:
    """Remove channels from the layer, and from what its parameters are held to; what is left.

    Raises:
        BadInput: the model's own code counts on the number of channels.
    """
    held = {tuple(key.split(":", 1)): array for key, array in as_arrays(subject.constraints).items()}
    subject.constraints = from_arrays(
        {f"{kind}:{name}": sliced(array, structure, name, keep) if name in structure.labels else array for (kind, name), array in held.items()}
    )
    cut(subject.layer, structure, keep)
    try:
        return _structure(subject)
    except BadInput as error:
        raise BadInput(f"the code of {subject.model} counts on its channels: {error}") from error


def _widths(before: Structure, after: Structure) -> dict[str, list[int]]:
    """Weight -> its output channels before and after."""
    return {use.weight: [len(before.outputs(use)), len(after.outputs(now))] for use, now in zip(before.layers, after.layers, strict=True)}


def _rows(weight: NDArray[np.float32], use: LayerUse) -> NDArray[np.float64]:
    """[outputs, weights of one]."""
    return np.moveaxis(weight, use.outputs, 0).reshape(weight.shape[use.outputs], -1).astype(np.float64)


def _l1(rows: NDArray[np.float64]) -> Scores:
    return np.asarray(np.abs(rows).sum(1))


def _to_the_others(rows: NDArray[np.float64]) -> Scores:
    """Sum of the distances to all others: smallest near the geometric median, where a filter is replaced most easily by the others."""
    squares = (rows**2).sum(1)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)).sum(1))


def _mean(structure: Structure, parts: list[tuple[NDArray[np.int64], Scores]]) -> tuple[Scores, NDArray[np.int64]]:
    """Of the scores that a channel has got from its members, and how many they are."""
    sums, counts = np.zeros(structure.count), np.zeros(structure.count, np.int64)
    for labels, scores in parts:
        np.add.at(sums, labels, scores)
        np.add.at(counts, labels, 1)
    return sums / np.maximum(counts, 1), counts


def _by_layer(structure: Structure, scores: Scores) -> Scores:
    """Divided by the mean of their bundle."""
    result = scores.copy()
    for bundle in structure.bundles():
        result[bundle.channels] /= max(scores[bundle.channels].mean(), 1e-30)
    return result


def _taylor(subject: Subject, structure: Structure, samples: int, batch_size: int, seed: int) -> Scores:
    """Absolute first-order change of the loss if a channel were zero, mean over batches.

    The sum of gradient times activation over a channel is that of gradient times value over the parameters that scale it: scale and bias of the norm
    behind it, or the weights and bias of its layer where there is none.
    """
    import paddle

    parameters = {name: value for name, value in subject.layer.named_parameters() if not value.stop_gradient and name in structure.labels}
    norms = {name for pair in structure.norms for name in pair}
    normed = np.zeros(structure.count, bool)
    normed[[channel for name in norms for channel in structure.labels[name][0]]] = True
    outputs = {use.weight: use.outputs for use in structure.layers}
    axes = {name: outputs.get(name, 0) for name, value in parameters.items() if name in outputs or value.ndim == 1}
    loss_of, scores = subject.label_loss(), np.zeros(structure.count)
    chosen = np.random.default_rng(seed).permutation(len(subject.train))[:samples]
    subject.layer.eval()
    for batch in np.array_split(chosen, max(1, len(chosen) // batch_size)):
        loss_of(paddle.to_tensor(subject.train.images[batch]), paddle.to_tensor(subject.train.labels[batch]), paddle.to_tensor(batch)).backward()
        change = np.zeros(structure.count)
        for name, axis in axes.items():
            if (gradient := parameters[name].grad) is None:  # it has no part in the outputs
                continue
            labels = structure.labels[name][axis]
            product = np.moveaxis((parameters[name] * gradient).numpy(), axis, 0).reshape(len(labels), -1).sum(1)
            np.add.at(change, labels, np.where(normed[labels], name in norms, name not in norms) * product)
        scores += np.abs(change)
        subject.layer.clear_gradients()
    return scores
