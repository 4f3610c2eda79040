"""Accuracy-aware int8: the layers that hurt most stay in float, found by measuring, until the loss is within a bound.

The idea is NNCF's accuracy control (Intel, ``quantize_with_accuracy_control``). Layers are ranked by the error that each alone brings, on the
ONNX graph; how many of them must stay in float is found for each runtime by running it. Both on calibration samples: the judging samples are
used once, by the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Artifact, Side, Tuning
from edge.bench.launch import run_worker
from edge.bench.scenarios import SingleStream, timing
from edge.devices.local import LocalTarget
from edge.errors import CheckFailed
from edge.export.parity import distance, metric_of
from edge.jobs import JobProgress
from edge.package.run.compare import malformed
from edge.workflows.prove import outputs_of

#: Enough for a median that is set beside another one of the same minute.
QUICK = timing(SingleStream(min_seconds=0.5, min_count=50), warmup=(0.2, 1.0))


@dataclass(frozen=True)
class TuningSet:
    """Calibration samples with the source's outputs for them."""

    inputs: tuple[Path, ...]
    outputs: Sequence[NDArray[Any]]
    labels: NDArray[np.int64] | None

    def drop(self, candidate: Artifact) -> float:
        """Points that the candidate loses; all of them where its outputs are no outputs of the model (NaN, another shape)."""
        outputs = outputs_of(candidate, self.inputs, len(self.outputs[0]))
        return 100.0 if malformed(self.outputs, outputs) else distance(self.outputs, outputs, self.labels).loss


#: Makes the cell's candidate with these layers in float.
MakeCandidate = Callable[[tuple[str, ...]], Artifact]


def fewest_float_layers(
    ranked: Sequence[str], make: MakeCandidate, tuning: TuningSet, max_drop: float, progress: JobProgress
) -> tuple[tuple[str, ...], Tuning]:
    """The fewest of the ``ranked`` layers that must stay in float for the drop to be within ``max_drop`` points.

    Counts are tried 0, 1, 2, 4, 8, ... and then halved between the last that fails and the first that holds. Every trial makes and runs the artifact.

    Raises:
        CheckFailed: the bound is not held even with all but one layer in float.
    """
    metric = metric_of(tuning.outputs, tuning.labels)
    tried: dict[int, tuple[float, Artifact]] = {}

    def holds(count: int) -> bool:
        progress(count, len(ranked), "try layers in float")
        candidate = make(tuple(ranked[:count]))
        tried[count] = (tuning.drop(candidate), candidate)
        return tried[count][0] <= max_drop + 1e-9

    count, failed, most = 0, -1, len(ranked) - 1
    while not holds(count):
        if count >= most:
            raise CheckFailed(
                f"int8 loses {tried[count][0]:.2f} points of {metric} even with {count} of {len(ranked)} layers in float; --max-drop is {max_drop:g}"
            )
        failed, count = count, min(max(1, 2 * count), most)
    while count - failed > 1:
        middle = (count + failed) // 2
        count, failed = (middle, failed) if holds(middle) else (count, middle)
    sides = {n: _side(n, *tried[n], tuning.inputs) for n in {0, count}}
    kept = Tuning(metric=metric, samples=len(tuning.outputs[0]), trials=len(tried), plain=sides[0], kept=sides[count])
    return tuple(ranked[:count]), kept


def _side(float_layers: int, drop: float, candidate: Artifact, inputs: Sequence[Path]) -> Side:
    return Side(float_layers=float_layers, drop=drop, size=candidate.size, p50=_p50(candidate, inputs))


def _p50(candidate: Artifact, inputs: Sequence[Path]) -> float:
    """Median latency in ms on this machine."""
    figures = run_worker("latency", candidate, list(inputs), LocalTarget(), settings=QUICK).figures
    return float(np.median(figures["samples_ns"])) / 1e6
