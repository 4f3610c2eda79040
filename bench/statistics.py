"""Percentiles with their confidence bounds, and what else is said of latency samples. Nothing is thrown away: the tail is kept.

The bounds take the samples as independent; successive ones are not quite (drift, other processes), which is why runs are repeated in fresh
processes, and why `edge.bench.compare` compares processes and not samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.vocabulary import Measurement, absent

#: Of every interval that is given.
CONFIDENCE = 0.95
#: Share of the samples that the trimmed mean leaves out at each end.
TRIMMED = 0.05


def percentile(samples_ms: NDArray[np.float64], q: float) -> Measurement:
    """The q-th percentile as an observed sample (Hyndman and Fan 1996, type 1), in ms, with its 95 % confidence interval.

    The bounds are the order statistics whose ranks are the 2.5 % and 97.5 % points of the binomial distribution of the number of samples below
    the percentile (Hahn and Meeker 1991, section 5.2). Null where the upper one would lie beyond the largest sample: so few samples cannot tell.
    """
    count, share = len(samples_ms), q / 100
    if not count:
        return absent("ms", "no samples")
    needed = _samples_needed(share)
    if count < needed:
        return absent("ms", f"p{q:g} needs {needed} samples, there are {count}")
    ordered = np.sort(samples_ms)
    low, high = _ranks(count, share)
    value = float(np.percentile(ordered, q, method="inverted_cdf"))
    return Measurement(value=value, unit="ms", interval=(float(ordered[low - 1]), float(ordered[high - 1])))


def _ranks(count: int, share: float) -> tuple[int, int]:
    """1-based ranks of the two order statistics; the upper one may be ``count`` + 1."""
    from scipy.stats import binom

    beyond = (1 - CONFIDENCE) / 2
    return max(1, int(binom.ppf(beyond, count, share))), int(binom.ppf(1 - beyond, count, share)) + 1


def _samples_needed(share: float) -> int:
    """Least number of samples whose upper bound is a sample: the probability that all lie below the percentile is at most 2.5 %."""
    return int(np.ceil(np.log((1 - CONFIDENCE) / 2) / np.log(share)))


def mean(samples_ms: NDArray[np.float64]) -> Measurement:
    return _of(samples_ms, float(np.mean(samples_ms)) if len(samples_ms) else None)


def trimmed_mean(samples_ms: NDArray[np.float64]) -> Measurement:
    """Without the fastest and the slowest 5 % of the samples."""
    from scipy.stats import trim_mean

    return _of(samples_ms, float(trim_mean(samples_ms, TRIMMED)) if len(samples_ms) else None)


def median_deviation(samples_ms: NDArray[np.float64]) -> Measurement:
    """Median absolute deviation from the median, not scaled."""
    return _of(samples_ms, float(np.median(np.abs(samples_ms - np.median(samples_ms)))) if len(samples_ms) else None)


def smallest(samples_ms: NDArray[np.float64]) -> Measurement:
    return _of(samples_ms, float(samples_ms.min()) if len(samples_ms) else None)


def _of(samples_ms: NDArray[np.float64], value: float | None) -> Measurement:
    return absent("ms", "no samples") if value is None else Measurement(value=value, unit="ms")


def slope(points: Sequence[tuple[float, float]], unit: str) -> Measurement:
    """Of a line through (x, y) by the median of all pairwise slopes (Theil 1950, Sen 1968), with its 95 % confidence interval.

    Null with fewer than five points: so few give no interval.
    """
    from scipy.stats import theilslopes

    if len(points) < 5:
        return absent(unit, f"a slope needs 5 points, there are {len(points)}")
    found = theilslopes([y for _, y in points], [x for x, _ in points], alpha=CONFIDENCE)
    return Measurement(value=float(found.slope), unit=unit, interval=(float(found.low_slope), float(found.high_slope)))
