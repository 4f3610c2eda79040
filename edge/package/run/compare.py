"""How far outputs are from others: the figures of the parity gate, on the desk and on the device. Needs numpy."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np


def malformed(source: Sequence[Any], outputs: Sequence[Any]) -> Optional[str]:
    """What is wrong with outputs that cannot be compared: their number, a shape, NaN or infinity."""
    if len(source) != len(outputs):
        return "there are %d outputs, the source gives %d" % (len(outputs), len(source))
    for index, (wanted, found) in enumerate(zip(source, outputs)):
        if found.shape != wanted.shape:
            return "output %d has shape %s, the source gives %s" % (index, found.shape, wanted.shape)
        if wanted.dtype.kind == "f" and not np.isfinite(wanted).all():
            return "output %d of the source itself holds NaN or infinity" % index
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            bad = int(np.count_nonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1)))
            return "output %d holds NaN or infinity for %d of %d samples" % (index, bad, len(found))
    return None


def is_classifier(output: Any) -> bool:
    """[N, classes] of floats."""
    return bool(output.ndim == 2 and output.shape[1] > 1 and output.dtype.kind == "f")


def agreement_of(outputs: Any, classes: Any) -> float:
    """Share of rows whose largest output is the given class, in %."""
    return 100.0 * float(np.mean(outputs.argmax(1) == classes))


def largest_difference(a: Any, b: Any) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if a.size else 0.0


def relative_difference(source: Any, output: Any) -> float:
    """The largest difference over the source's largest magnitude."""
    return largest_difference(source, output) / max(float(np.abs(source.astype(np.float64)).max()) if source.size else 0.0, 1e-30)


def cosine_of(a: Any, b: Any) -> float:
    """Of the angle between two arrays seen as vectors; 1 where both are zero."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else float(np.array_equal(x, y))
