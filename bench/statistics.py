"""Percentiles of latency samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.vocabulary import Measurement, absent


def percentile(samples_ms: NDArray[np.float64], q: float) -> Measurement:
    """The q-th percentile as an observed sample (Hyndman and Fan 1996, type 1: no interpolation between samples), in ms.

    Null when fewer than ten samples lie beyond it: the tail is then a guess.
    """
    needed = int(np.ceil(10 / (1 - q / 100)))
    if len(samples_ms) < needed and q > 50:
        return absent("ms", f"p{q:g} needs {needed} samples, there are {len(samples_ms)}")
    if not len(samples_ms):
        return absent("ms", "no samples")
    return Measurement(value=float(np.percentile(samples_ms, q, method="inverted_cdf")), unit="ms")
