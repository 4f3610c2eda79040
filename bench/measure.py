"""One cell: run an artifact's workers one after another and turn what they say into figures, or into a reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact
from edge.bench.launch import Timing, WorkerResult, read_outputs, run_worker, write_inputs
from edge.bench.results import ENERGY_UNITS, Cell, Latency, Memory, Top1, empty_figures
from edge.bench.runnable import why_not_runnable
from edge.bench.statistics import percentile
from edge.datasets import known_datasets
from edge.datasets.samples import export_data
from edge.devices.target import Target
from edge.errors import CheckFailed, EdgeError, Unavailable
from edge.export.parity import agreement_of, compare, verdict
from edge.vocabulary import Format, Measurement, Status, absent

ALL_PARTS = frozenset({"accuracy", "latency", "memory"})
ONE_THREAD = "Paddle Lite's Python API has one thread, whatever is asked for: measure it with --threads 1"
#: Called with what is being done, e.g. "latency".
Step = Callable[[str], None]


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        parts: a subset of `ALL_PARTS`; figures of the others are null.
        raw: folder for the workers' raw result files (all samples), or None.
    """

    target: Target
    threads: int = 1
    batch: int = 1
    timing: Timing = field(default_factory=Timing)
    parts: frozenset[str] = ALL_PARTS
    raw: Path | None = None


def measure(artifact: Artifact, request: BenchRequest, step: Step = lambda _: None) -> Cell:
    """Measure one artifact; never raises for a failing cell: the row says what happened."""
    manifest = artifact.manifest
    identity = {
        "model": manifest.model,
        "format": manifest.format,
        "precision": manifest.precision,
        "target_arch": manifest.target_arch,
        "target": request.target.name,
        "device": request.target.device,
        "scenario": "single-stream",
        "threads": request.threads,
        "batch": request.batch,
        "kernels": manifest.kernels,
        "artifact": artifact.name,
    }
    size = {"size": Measurement(value=artifact.size, unit="B", provenance="counted")}
    if blocked := why_not_runnable(artifact):
        return Cell(**identity, status=Status.EXPORTED, reason=blocked, **{**empty_figures(blocked), **size})
    if manifest.parity.passed is False:
        reason = f"failed its gate when it was exported, a wrong artifact gets no figures: {manifest.parity.reason}"
        return Cell(**identity, status=Status.FAILED, reason=reason, **{**empty_figures(reason), **size})
    if manifest.format is Format.PADDLE_LITE and request.threads > 1:
        return Cell(**identity, status=Status.UNSUPPORTED, reason=ONE_THREAD, **{**empty_figures(ONE_THREAD), **size})
    try:
        figures = _figures(artifact, request, step)
        return Cell(**identity, status=Status.OK, reason=None, **{**empty_figures("not asked for"), **size, **figures})
    except Unavailable as error:
        return Cell(**identity, status=Status.UNAVAILABLE, reason=str(error), **{**empty_figures(str(error)), **size})
    except EdgeError as error:
        return Cell(**identity, status=Status.FAILED, reason=str(error), **{**empty_figures("the cell failed"), **size})


def _figures(artifact: Artifact, request: BenchRequest, step: Step) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edge-cell.") as folder:
        scratch = Path(folder)
        if "accuracy" in request.parts:
            step("accuracy")
            figures |= _accuracy(artifact, request.target, scratch)
        samples = write_inputs(scratch / "samples", _vector_inputs(artifact, artifact.vectors()))
        if "latency" in request.parts:
            step("latency")
            result = run_worker(
                "latency", artifact, samples, request.target, threads=request.threads, batch=request.batch,
                timing=request.timing, keep=_raw_file(artifact, request),
            )  # fmt: skip
            figures |= _latency(result, request.batch)
        if "memory" in request.parts:
            step("memory")
            figures["memory"] = _memory(run_worker("memory", artifact, samples, request.target, threads=request.threads, batch=request.batch))
    return figures


def _accuracy(artifact: Artifact, target: Target, scratch: Path) -> dict[str, Any]:
    """Run the artifact over what judged it, hold it to the source's answers, and count what is right.

    Without a data set on this machine the sample vectors that travel with the artifact judge it, and there is no accuracy.

    Raises:
        CheckFailed: it is not the model any more.
    """
    manifest, vectors = artifact.manifest, artifact.vectors()
    expected = [vectors[f"output_{index}"] for index in range(len(manifest.outputs))]
    inputs, labels = _judging_samples(artifact, vectors)
    folder = scratch / "outputs"
    folder.mkdir()
    result = run_worker("outputs", artifact, write_inputs(scratch / "judge", inputs), target, outputs=folder)
    outputs = read_outputs(folder, len(expected), len(inputs[0]))
    # a few samples cannot show the share of equal classes of a reduced precision: that is judged on all, below
    sample = compare(manifest.precision, expected, [array[: len(expected[0])] for array in outputs], real=False)
    if sample.passed is False:
        raise CheckFailed(f"wrong results on the {sample.samples} sample vectors: {sample.reason}")
    top1 = vectors.get("source_top1")
    classes = None if top1 is None else top1[: len(outputs[0])]
    agreement = None if classes is None else agreement_of(outputs[0], classes)
    accuracy = None if classes is None or labels is None else agreement_of(outputs[0], labels)
    drop = 0.0 if accuracy is None else 100.0 * float(np.mean(classes == labels)) - accuracy
    judged = agreement if manifest.parity.real and len(outputs[0]) == manifest.parity.samples else None
    if reason := verdict(manifest.precision, None, judged, drop, max_drop=manifest.int8.max_drop if manifest.int8 else None):
        raise CheckFailed(f"wrong results: {reason}")
    return {
        "accuracy": Top1(top1=_share(accuracy, _no_accuracy(artifact))),
        "agreement": Top1(top1=_share(agreement, "not a classifier")),
        "environment": result.environment,
    }


def _share(value: float | None, why_not: str) -> Measurement:
    return absent("%", why_not) if value is None else Measurement(value=value, unit="%")


def _no_accuracy(artifact: Artifact) -> str:
    name = artifact.manifest.provenance.dataset
    if name is None:
        return "the artifact was exported with random input"
    return f"{name} has no labels for this model's outputs, or is not a named data set"


def _judging_samples(artifact: Artifact, vectors: dict[str, Any]) -> tuple[list[Any], Any]:
    """(inputs, labels): the test set of the named data set, else the vectors."""
    name = artifact.manifest.provenance.dataset
    if name is None or name.partition(":")[0] not in known_datasets():
        return _vector_inputs(artifact, vectors), None
    data = export_data(name, artifact.manifest.inputs, judge_count=artifact.manifest.parity.samples or None)
    if data.name != name or len(data.judge) != artifact.manifest.parity.samples:
        raise Unavailable(f"the data set {name} is not on this machine as it was when this was exported", hint="run: make data")
    return list(data.judge.inputs), data.judge.labels


def _vector_inputs(artifact: Artifact, vectors: dict[str, Any]) -> list[Any]:
    return [vectors[f"input_{index}"] for index in range(len(artifact.manifest.inputs))]


def _latency(result: WorkerResult, batch: int) -> dict[str, Any]:
    raw = result.figures
    samples = np.asarray(raw["samples_ns"], np.float64) / 1e6
    ms = {name: Measurement(value=float(raw[f"{name}_ms"]), unit="ms") for name in ("load", "first")}
    latency = Latency(
        p50=percentile(samples, 50),
        p90=percentile(samples, 90),
        p99=percentile(samples, 99),
        min=Measurement(value=float(samples.min()), unit="ms"),
        count=Measurement(value=len(samples), unit="count", provenance="counted"),
        **ms,
    )
    return {
        "latency": latency,
        "throughput": Measurement(value=len(samples) * batch / float(raw["wall_s"]), unit="1/s"),
        "energy": {name: _energy(name, unit, raw["energy"]) for name, unit in ENERGY_UNITS.items()},
        "environment": result.environment,
    }


def _energy(name: str, unit: str, readings: dict[str, Any]) -> Measurement:
    reading = readings.get(name) or {"value": None, "reason": "the worker did not report it"}
    if reading["value"] is None:
        return absent(unit, str(reading["reason"]))
    return Measurement(value=reading["value"], unit=unit, provenance="counted" if name == "instructions" else "measured")


def _memory(result: WorkerResult) -> Memory:
    def figure(name: str) -> Measurement:
        value = result.figures.get(name)
        return absent("B", "this system has no /proc/self/status") if value is None else Measurement(value=int(value), unit="B")

    return Memory(peak_rss=figure("peak_rss"), baseline_rss=figure("baseline_rss"), model_rss=figure("model_rss"))


def _raw_file(artifact: Artifact, request: BenchRequest) -> Path | None:
    return None if request.raw is None else request.raw / f"{artifact.name}-t{request.threads}-b{request.batch}.latency.json"
