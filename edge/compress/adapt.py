"""Each layer gets what it can bear: its sensitivity is measured, and a target is reached where that costs least.

Each layer alone is compressed to each level, and the loss on held-out images is measured (Li et al. 2016, "Pruning Filters for Efficient ConvNets",
section 3.2). What the layers lose is taken to add up, and the levels that lose least within an allowance are an integer programme, as in Yao et al.
2021, "HAWQ-V3" (arXiv 2011.10680). Sizes, multiplications and times do not add up exactly, so the largest allowance whose model really meets
the target is found by bisection: the compressed model is made, and packed, counted or timed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edge.compress.folder import packed_state
from edge.compress.low_rank import LowRank, obstacle
from edge.compress.prune_channels import PruneChannels
from edge.compress.prune_filters import PruneFilters
from edge.compress.prune_neurons import PruneNeurons
from edge.compress.prune_weights import PruneWeights, prunable
from edge.compress.quantize import Quantize
from edge.compress.structure import macs_of, structure_of
from edge.compress.technique import Record, Step, Subject, TuningStep
from edge.compress.train import predict
from edge.datasets import Split
from edge.errors import BadInput
from edge.models import model_entry

Technique = Literal["prune-weights", "prune-filters", "prune-neurons", "low-rank", "quantize"]
Measure = Literal["size", "macs", "latency", "latency_ms"]
#: What is tried of each layer: the share that goes, for low rank the share of its parameters that stays, or bits. The first leaves it as it is.
LEVELS: dict[Technique, tuple[float, ...]] = {
    "prune-weights": (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99),
    "prune-filters": (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875),
    "prune-neurons": (0.0, 0.25, 0.5, 0.75, 0.875, 0.95),
    "low-rank": (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1),
    "quantize": (32, 16, 8, 4, 1),
}
#: What a technique leaves as it is: zeros and codes are multiplied by the runtimes like any other weight.
ONLY_SIZE: tuple[Technique, ...] = ("prune-weights", "quantize")
#: Halvings of the allowance: as many models are made, and packed, counted or timed.
HALVINGS: dict[Measure, int] = {"size": 8, "macs": 14, "latency": 6, "latency_ms": 6}


@dataclass(frozen=True)
class Option:
    """One layer at one level, all others as they were: the loss on the held-out images, and what the whole model then costs."""

    layer: str
    level: float
    loss: float
    cost: int


class Adapt(TuningStep):
    """Find each layer's level, then do the technique with them.

    Attributes:
        technique: what is done to the layers.
        size, macs, latency: the share that is left of the packed bytes, the multiplications or the measured latency. latency_ms: a latency, instead.
            Latency is measured where `edge compress --target --device` says, onnxruntime fp32, 1 thread, batch 1.
        levels: that are tried, see `LEVELS`; sorted from the mildest on.
        layers: those that may change; all where nothing is named.
        samples: held-out images by which sensitivity is measured.
        importance: of the channels, for filters and neurons.
        convolutions: the method for low rank.
        rounds: steps in which weights, filters or neurons go, with ``epochs`` of training after each, at the ``learning_rate`` of this step.

    The record: ``found`` is what the levels came to before that training, and meets the target; ``reached`` is what is there in the end.
    """

    step: Literal["adapt"] = "adapt"
    technique: Technique
    size: float | None = Field(None, gt=0, lt=1)
    macs: float | None = Field(None, gt=0, lt=1)
    latency: float | None = Field(None, gt=0, lt=1)
    latency_ms: float | None = Field(None, gt=0)
    levels: tuple[float, ...] = Field((), max_length=20)
    layers: tuple[str, ...] = ()
    samples: int = Field(2000, ge=1, le=1_000_000)
    importance: Literal["l1", "fpgm", "bn-scale", "taylor", "random"] = "l1"
    convolutions: Literal["tucker", "spatial", "none"] = "tucker"
    rounds: int = Field(1, ge=1, le=200)

    @model_validator(mode="after")
    def _one_target(self) -> Adapt:
        given = [name for name in HALVINGS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("state one of size, macs, latency, latency_ms")
        if self.technique in ONLY_SIZE and given[0] != "size":
            raise ValueError(
                f"{self.technique} changes the size alone, not {given[0].replace('_', ' ')}: a runtime multiplies what it has changed too"
            )
        if wrong := next((level for level in self.levels if not self._is_level(level)), None):
            raise ValueError(f"levels: {wrong:g} is none of {self.technique}")
        return self

    def _is_level(self, level: float) -> bool:
        if self.technique == "quantize":
            return level in LEVELS["quantize"]
        return 0 < level <= 1 if self.technique == "low-rank" else 0 <= level < 1

    @property
    def measures(self) -> bool:
        return self.measure in ("latency", "latency_ms")

    @property
    def measure(self) -> Measure:
        return next(name for name in HALVINGS if getattr(self, name) is not None)

    def run(self, subject: Subject) -> Record:
        before = self._cost(subject)
        target = self.latency_ms or before * (self.size or self.macs or self.latency or 1.0)
        if target >= before:
            return {"target": target, "found": before, "reached": before, "before": before, "levels": {}, "sensitivity": []}
        options = self._sensitivity(subject)
        levels, found = self._allot(subject, options, target)
        for step in self._steps(levels, final=True):
            step.run(subject)
        if self.technique == "low-rank" and self.epochs and levels:
            self.tune(subject, subject.seed)
        return {
            "target": target,
            "found": found,
            "reached": self._cost(subject),
            "before": before,
            "unit": {"size": "B", "macs": "multiplications"}.get(self.measure, "ms"),
            "levels": levels,
            "sensitivity": [[each.layer, each.level, each.loss, each.cost] for each in options],
        }

    def _sensitivity(self, subject: Subject) -> list[Option]:
        """Every layer at every level.

        Raises:
            BadInput: there is no layer to change, or none can be, and why.
        """
        part = Split(subject.held_out.images[: self.samples], subject.held_out.labels[: self.samples])
        names, levels = self._layers(subject), sorted(self.levels or LEVELS[self.technique], reverse=self.technique in ("low-rank", "quantize"))
        mildest = LEVELS[self.technique][0]
        untouched = Option("", mildest, _loss(subject, part), self._proxy(subject, {}))
        found: list[Option] = []
        obstacle_met: BadInput | None = None
        for number, name in enumerate(names):
            found.append(replace(untouched, layer=name))
            for level in levels:
                if level == mildest:
                    continue
                try:
                    trial = self._tried(subject, {name: level})
                except BadInput as error:  # this layer cannot be changed so far
                    obstacle_met = error
                    continue
                found.append(Option(name, level, _loss(trial, part), self._proxy(trial, {name: level})))
            if subject.progress:
                subject.progress(number + 1, len(names), found[-1].loss)
        if obstacle_met and all(option.level == mildest for option in found):
            raise obstacle_met
        return found

    def _allot(self, subject: Subject, options: Sequence[Option], target: float) -> tuple[dict[str, float], float]:
        """The levels that lose least and meet the target, and what they reach.

        Raises:
            BadInput: even the strongest levels do not meet it.
        """
        least = {name: min(option.cost for option in options if option.layer == name) for name in {option.layer for option in options}}
        whole = next(option.cost for option in options if option.level == LEVELS[self.technique][0])
        strongest = whole - sum(whole - cost for cost in least.values())
        low, high, best = 0.0, 1.0, None
        for number in range(HALVINGS[self.measure] + 1):
            share = low if number == 0 else (low + high) / 2  # the strongest first: if that does not do, nothing does
            levels = chosen(options, strongest + share * (whole - strongest))
            reached = self._cost(self._tried(subject, levels))
            if reached <= target:
                low, best = share, (levels, reached)
            elif number == 0:
                raise BadInput(
                    f"adapt: {self.measure}: with every layer at its strongest level the model has {reached:,.6g}, wanted: {target:,.6g}",
                    hint="ask for less, or add stronger levels",
                )
            else:
                high = share
        assert best is not None  # noqa: S101 - the first share has set it
        return best

    def _tried(self, subject: Subject, levels: dict[str, float]) -> Subject:
        """A copy of the subject with these levels, untrained."""
        trial = replace(
            subject, layer=copy.deepcopy(subject.layer), constraints=dict(subject.constraints), surgery=list(subject.surgery), progress=None
        )
        for step in self._steps(levels, final=False):
            step.run(trial)
        return trial

    def _steps(self, levels: dict[str, float], final: bool) -> list[Step]:
        """The technique with these levels; ``final``: with its training."""
        if self.technique != "low-rank":
            return [self._step(levels, final)] if levels else []
        return [
            LowRank(budget=level, layers=tuple(name for name in levels if levels[name] == level), convolutions=self.convolutions)
            for level in sorted(set(levels.values()))
        ]

    def _step(self, levels: dict[str, Any], final: bool = False) -> Step:
        shared = {name: getattr(self, name) for name in TuningStep.model_fields if name != "step"} if final else {"batch_size": self.batch_size}
        channels = {"per_layer": levels or {"a": 0.5}, "importance": self.importance, "rounds": self.rounds if final else 1, **shared}
        if self.technique == "prune-filters":
            return PruneFilters(**channels)
        if self.technique == "prune-neurons":
            return PruneNeurons(**channels)
        if self.technique == "quantize":
            if min(levels.values()) == 16:  # rounded after training: nothing is learnt
                shared["epochs"] = 0
            return Quantize(bits=32, others=16 if final else 32, per_layer=levels, **shared)
        return PruneWeights(per_layer=levels or {"a": 0.5}, rounds=self.rounds if final else 1, **shared)

    def _layers(self, subject: Subject) -> list[str]:
        if self.technique in ("prune-weights", "quantize"):
            found = list(prunable(subject))
        elif self.technique == "low-rank":
            kinds = LowRank(budget=0.5, convolutions=self.convolutions).methods(subject.layer)
            layers = dict(subject.layer.named_sublayers())
            found = [name for name in kinds if obstacle(layers[name]) is None]
        else:
            step = self._step({})
            assert isinstance(step, PruneChannels)  # noqa: S101
            structure = structure_of(subject.layer, model_entry(subject.model).inputs.values())
            found = [bundle.layers[0] for bundle in step.bundles(structure)]
        if unknown := sorted(set(self.layers) - set(found)):
            raise BadInput(f"adapt: there is no layer {unknown[0]!r} for {self.technique}", hint=f"there are: {', '.join(found)}")
        if not found:
            raise BadInput(f"adapt: the model has no layer for {self.technique}")
        return list(self.layers or found)

    def _cost(self, subject: Subject) -> float:
        """What the target is about.

        Raises:
            BadInput: a latency, and nothing measures it.
        """
        if self.measure == "size":
            return len(packed_state(subject.layer))
        if self.measure == "macs":
            return _macs(subject)
        if subject.latency_of is None:
            raise BadInput("adapt: nothing here measures latency", hint="run the recipe with: edge compress RECIPE --out DIR")
        return subject.latency_of(subject.layer)

    def _proxy(self, subject: Subject, levels: dict[str, float]) -> int:
        """What stands for the target in the programme: multiplications, or about the bytes of what is not zero and of where it stands."""
        if self.measure != "size":
            return _macs(subject)
        bits = levels if self.technique == "quantize" else {}
        return round(sum(_stored_bits(value.numpy(), bits.get(name, 32)) for name, value in subject.layer.state_dict().items()) / 8)


def chosen(options: Sequence[Option], allowance: float) -> dict[str, float]:
    """Layer -> level: of each layer one, together of the least loss, and of at most this cost if costs add up. Untouched layers are left out.

    Where no choice costs so little, the cheapest.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers = list(dict.fromkeys(option.layer for option in options))
    whole = {option.layer: option for option in reversed(options)}  # the first of each layer, which leaves it as it is
    extra = np.array([option.loss - whole[option.layer].loss for option in options])
    saved = np.array([whole[option.layer].cost - option.cost for option in options], float)
    one_each = np.array([[option.layer == layer for option in options] for layer in layers], float)
    needed = min(next(iter(whole.values())).cost - allowance, sum(saved[row > 0].max() for row in one_each))
    scale = max(abs(saved).max(), 1.0)
    found = milp(
        extra,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(saved[None] / scale, (needed - 1e-6 * scale) / scale, np.inf)],
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
    )
    if found.x is None:
        raise BadInput(f"adapt: no levels were found: {found.message}")
    taken = [option for option, on in zip(options, found.x, strict=True) if on > 0.5]
    return {option.layer: option.level for option in taken if option is not whole[option.layer]}


def _macs(subject: Subject) -> int:
    return macs_of(subject.layer, model_entry(subject.model).inputs.values())


def _stored_bits(values: NDArray[np.float32], bits: float) -> float:
    """Of a parameter whose values take so many bits each, the zeros none: their places take the entropy of being one."""
    left = np.count_nonzero(values) / max(values.size, 1)
    places = -sum(share * np.log2(share) for share in (left, 1 - left) if share > 0)
    return float(values.size * (left * bits + places))


def _loss(subject: Subject, part: Split) -> float:
    """Mean cross-entropy; see `Subject.accuracy` for its errors."""
    from scipy.special import log_softmax

    subject.require_data()
    logits = predict(subject.layer, part.images).astype(np.float64)
    return float(-log_softmax(logits, axis=1)[np.arange(len(part)), part.labels].mean())
