"""Is an artifact still the model? Compares the outputs of its own runtime with those of the Paddle source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Parity
from edge.vocabulary import Precision


@dataclass(frozen=True)
class Threshold:
    """What a precision is allowed.

    Attributes:
        max_rel: largest difference over the largest absolute output; None sets no bound (int8).
        agreement: lowest share of equal classes, in %.
        accuracy_drop: largest loss of top-1 against the source, in points.
    """

    max_rel: float | None
    agreement: float
    accuracy_drop: float


THRESHOLDS = {
    Precision.FP32: Threshold(1e-4, 100.0, 0.0),
    Precision.FP16: Threshold(1e-2, 99.5, 0.3),
    Precision.BF16: Threshold(5e-2, 99.0, 0.3),
    Precision.INT8: Threshold(None, 98.0, 0.3),
}


def compare(precision: Precision, source: NDArray[np.float32], outputs: NDArray[np.float32], labels: NDArray[np.int64] | None = None) -> Parity:
    """Judge ``outputs`` [N, classes] against the source's outputs for the same inputs; labels [N] add the accuracy rule."""
    if outputs.shape != source.shape:
        return Parity(samples=len(source), passed=False, reason=f"outputs have shape {outputs.shape}, the source gives {source.shape}")
    if not np.isfinite(outputs).all():
        bad = int(np.count_nonzero(~np.isfinite(outputs).all(axis=1)))
        return Parity(samples=len(source), passed=False, reason=f"{bad} of {len(source)} outputs hold NaN or infinity")
    max_abs = float(np.abs(outputs - source).max())
    max_rel = max_abs / max(float(np.abs(source).max()), 1e-30)
    agreement = agreement_of(outputs, source.argmax(1))
    accuracy = None if labels is None else agreement_of(outputs, labels)
    drop = 0.0 if labels is None or accuracy is None else agreement_of(source, labels) - accuracy
    reason = verdict(precision, max_rel, agreement, drop, len(source))
    return Parity(
        max_abs=max_abs, max_rel=max_rel, top1_agreement=agreement, accuracy=accuracy, samples=len(source), passed=reason is None, reason=reason
    )


def verdict(precision: Precision, max_rel: float | None, agreement: float, drop: float, samples: int) -> str | None:
    """None when the figures are within the precision's thresholds, else what is not.

    Args:
        drop: accuracy lost, in points. Few samples cannot show a small loss: two of them are always forgiven a precision that may
            lose any (0.02 points of 10,000, 0.6 of 360).
    """
    limit = THRESHOLDS[precision]
    if limit.max_rel is not None and max_rel is not None and max_rel > limit.max_rel:
        return f"outputs differ by {max_rel:.2g} x max|output|, {precision.value} is allowed {limit.max_rel:g}"
    if agreement < limit.agreement:
        return f"the class agrees on {agreement:.2f} % of the samples, {precision.value} must reach {limit.agreement:g} %"
    allowed = max(limit.accuracy_drop, 200 / samples) if limit.accuracy_drop else 0.0
    if drop > allowed + 1e-9:
        return f"accuracy falls by {drop:.2f} points, {precision.value} is allowed {allowed:.2g} of {samples} samples"
    return None


def agreement_of(outputs: NDArray[np.float32], classes: NDArray[np.integer]) -> float:
    """Share of rows whose largest output is the given class, in %."""
    return 100.0 * float(np.mean(outputs.argmax(1) == classes))
