"""Prove a candidate: run it in its own runtime on the judging samples, and ask the runtime which kernels it used."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Artifact, Kernels, Parity, SizedParity
from edge.bench.launch import read_outputs, run_worker
from edge.bench.runnable import why_not_runnable
from edge.devices.local import LocalTarget
from edge.errors import UnsupportedPrecision
from edge.export.parity import compare
from edge.vocabulary import Format, Precision

#: Seconds that the judging samples may take.
TIMEOUT = 3600


def outputs_of(candidate: Artifact, inputs: Sequence[Path], samples: int) -> list[NDArray[Any]]:
    """What the candidate's own runtime gives for every sample, one array an output."""
    with tempfile.TemporaryDirectory(prefix="edge-outputs.") as folder:
        run_worker("outputs", candidate, list(inputs), LocalTarget(), outputs=Path(folder), timeout=TIMEOUT)
        return read_outputs(Path(folder), len(candidate.manifest.outputs), samples)


def parity_of(
    candidate: Artifact,
    inputs: Sequence[Path],
    source: Sequence[NDArray[Any]],
    labels: NDArray[np.int64] | None,
    *,
    real: bool,
    max_drop: float | None = None,
) -> Parity:
    """Compare the candidate with the source's outputs; see `edge.export.parity.compare`."""
    if blocked := why_not_runnable(candidate, LocalTarget()):
        return Parity(reason=blocked)
    outputs = outputs_of(candidate, inputs, len(source[0]))
    return compare(candidate.manifest.precision, source, outputs, labels, real=real, max_drop=max_drop)


def at_other_sizes(found: Parity, candidate: Artifact, others: Sequence[tuple[Sequence[Path], Sequence[NDArray[Any]]]]) -> Parity:
    """``found`` with the comparisons at ``others``, (inputs, the source's outputs) each: all must pass. A predictor sees one size only."""
    sizes = []
    for inputs, source in others:
        shapes = tuple(tuple(np.load(path, mmap_mode="r", allow_pickle=False).shape) for path in inputs)
        at = parity_of(candidate, inputs, source, None, real=False)
        sizes.append(SizedParity(shapes=shapes, max_rel=at.max_rel, cosine=at.cosine, passed=at.passed, reason=at.reason))
    failed = next((size for size in sizes if not size.passed), None)
    if failed is None or not found.passed:
        return found.model_copy(update={"sizes": tuple(sizes)})
    where = ", ".join("x".join(map(str, shape[1:])) for shape in failed.shapes)
    return found.model_copy(update={"sizes": tuple(sizes), "passed": False, "reason": f"at {where}: {failed.reason}"})


def kernels_of(candidate: Artifact, inputs: Sequence[Path], layers: int, storage_only: bool, reason: str | None) -> Kernels:
    """How many compute nodes ran in the candidate's precision, from the runtime's own account.

    Args:
        layers: multiplying operators of the source: runtimes do not report those that they run in their own fp32 kernels.
        reason: said of a candidate of which some nodes run in another precision.

    Raises:
        UnsupportedPrecision: none does, and the cell is not one that only saves storage.
    """
    precision = candidate.manifest.precision
    if precision is Precision.FP32:
        return Kernels(reduced=None, total=layers or None, reason="fp32 is not a reduced precision")
    blocked = why_not_runnable(candidate, LocalTarget())
    if blocked and candidate.manifest.format is not Format.PADDLE_LITE:
        return Kernels(reduced=None, total=layers or None, reason=blocked)
    counts: dict[str, int] = run_worker("kernels", candidate, list(inputs), LocalTarget(), timeout=TIMEOUT).figures["kernels"]
    reduced, total = counts.get(precision.value, 0), max(layers, sum(counts.values()))
    if reduced == 0 and not storage_only:
        raise UnsupportedPrecision(f"no compute node runs in {precision.value}: {json.dumps(counts)}")
    return Kernels(reduced=reduced, total=total, reason=reason if reduced < total else None)
