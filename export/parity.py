"""Is an artifact still the model? Compares the outputs of its own runtime with those of the Paddle source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Metric, Parity
from edge.package.run.compare import agreement_of, cosine_of, is_classifier, largest_difference, malformed, relative_difference
from edge.vocabulary import Precision


@dataclass(frozen=True)
class Threshold:
    """What a precision is allowed.

    Attributes:
        max_rel: largest difference over the largest absolute output; None sets no bound (int8).
        cosine: smallest cosine of the angle between the outputs.
        agreement: lowest share of equal classes, in %; int8 on random input is not held to it.
        accuracy_drop: largest loss of top-1 against the source, in points.
    """

    max_rel: float | None
    cosine: float
    agreement: float
    accuracy_drop: float


THRESHOLDS = {
    Precision.FP32: Threshold(1e-4, 0.999999, 100.0, 0.0),
    Precision.FP16: Threshold(1e-2, 0.9999, 99.5, 0.3),
    Precision.BF16: Threshold(5e-2, 0.999, 99.0, 0.3),
    Precision.INT8: Threshold(None, 0.95, 98.0, 0.3),
}


def compare(
    precision: Precision,
    source: Sequence[NDArray[Any]],
    outputs: Sequence[NDArray[Any]],
    labels: NDArray[np.int64] | None = None,
    *,
    real: bool = True,
    max_drop: float | None = None,
) -> Parity:
    """Judge ``outputs`` against the source's outputs for the same inputs, each [N, ...].

    Args:
        labels: [N]; they add the accuracy rule where the first output is [N, classes].
        real: False for random input, on which a reduced precision is not held to the share of equal classes.
        max_drop: in place of the precision's own bound on the loss of accuracy, in points; where `metric_of` is another, a bound beside the gate's.
    """
    count = len(source[0])
    if problem := malformed(source, outputs):
        return Parity(samples=count, real=real, passed=False, reason=problem)
    found = distance(source, outputs, labels)
    judged = found.agreement if real or precision is Precision.FP32 else None
    lost = found.loss if found.metric == "accuracy" else 0.0
    reason = verdict(precision, found.max_rel, judged, lost, cosine=found.cosine, max_drop=max_drop)
    if reason is None and max_drop is not None and (real or found.metric == "cosine") and found.loss > max_drop + 1e-9:
        reason = f"the {found.metric} falls by {found.loss:.2f} points, allowed are {max_drop:g}"
    return Parity(
        max_abs=found.max_abs, max_rel=found.max_rel, cosine=found.cosine, top1_agreement=found.agreement, accuracy=found.accuracy,
        samples=count, real=real, passed=reason is None, reason=reason,
    )  # fmt: skip


@dataclass(frozen=True)
class Distance:
    """How far outputs are from the source's; the figures of `edge.artifact.Parity`.

    Attributes:
        metric: what may be lost: ``accuracy`` of a classifier with labels, ``agreement`` of one without, ``cosine`` of anything else's outputs.
        loss: points of it: of top-1 or equal classes in %, or 100 x (1 - cosine).
    """

    max_abs: float
    max_rel: float
    cosine: float
    agreement: float | None
    accuracy: float | None
    metric: Metric
    loss: float


def distance(source: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], labels: NDArray[np.integer] | None) -> Distance:
    """Of outputs that are not `malformed`; of several outputs the worst counts."""
    pairs = list(zip(source, outputs, strict=True))
    differences = [largest_difference(a, b) for a, b in pairs]
    cosine = min(cosine_of(a, b) for a, b in pairs)
    agreement = agreement_of(outputs[0], source[0].argmax(1)) if is_classifier(source[0]) else None
    accuracy = agreement_of(outputs[0], labels) if labels is not None and agreement is not None else None
    metric = metric_of(source, labels)
    if accuracy is not None and labels is not None:
        loss = agreement_of(source[0], labels) - accuracy
    else:
        loss = 100.0 * (1.0 - cosine) if agreement is None else 100.0 - agreement
    return Distance(max(differences), max(relative_difference(a, b) for a, b in pairs), cosine, agreement, accuracy, metric, loss)


def verdict(
    precision: Precision, max_rel: float | None, agreement: float | None, drop: float, *, cosine: float | None = None, max_drop: float | None = None
) -> str | None:
    """None when the figures are within the precision's thresholds, else what is not. ``drop``: accuracy lost, in points."""
    limit = THRESHOLDS[precision]
    name = precision.value
    if limit.max_rel is not None and max_rel is not None and max_rel > limit.max_rel:
        return f"outputs differ by {max_rel:.2g} x max|output|, {name} is allowed {limit.max_rel:g}"
    if cosine is not None and cosine < limit.cosine:
        return f"the cosine between the outputs is {cosine:.4f}, {name} must reach {limit.cosine:g}"
    if agreement is not None and agreement < limit.agreement:
        return f"the class agrees on {agreement:.2f} % of the samples, {name} must reach {limit.agreement:g} %"
    allowed = limit.accuracy_drop if max_drop is None else max_drop
    if drop > allowed + 1e-9:
        return f"accuracy falls by {drop:.2f} points, {name} is allowed {allowed:g}"
    return None


def metric_of(source: Sequence[NDArray[Any]], labels: NDArray[np.integer] | None) -> Metric:
    """See `Distance`."""
    if not is_classifier(source[0]):
        return "cosine"
    return "agreement" if labels is None else "accuracy"
