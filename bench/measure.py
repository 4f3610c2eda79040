"""One cell: run an artifact's workers one after another and turn what they say into figures, or into a reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact
from edge.bench.launch import Timing, WorkerResult, read_outputs, run_worker
from edge.bench.results import ENERGY_UNITS, Cell, Latency, Memory, Top1, empty_figures
from edge.bench.runnable import why_not_runnable
from edge.bench.statistics import percentile
from edge.datasets import Split, load_dataset
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
        samples = _sample_file(artifact, scratch)
        if "latency" in request.parts:
            step("latency")
            result = run_worker(
                "latency", artifact, [samples], request.target, threads=request.threads, batch=request.batch,
                timing=request.timing, keep=_raw_file(artifact, request),
            )  # fmt: skip
            figures |= _latency(result, request.batch)
        if "memory" in request.parts:
            step("memory")
            figures["memory"] = _memory(run_worker("memory", artifact, [samples], request.target, threads=request.threads, batch=request.batch))
    return figures


def _accuracy(artifact: Artifact, target: Target, scratch: Path) -> dict[str, Any]:
    """Run the artifact over its test set, hold it to the source's answers, and count what is right.

    Raises:
        CheckFailed: it is not the model any more.
    """
    manifest, vectors = artifact.manifest, artifact.vectors()
    source_top1 = vectors["source_top1"]
    test = _test_split(artifact, len(source_top1))
    inputs, path = scratch / "test.npy", scratch / "outputs.npy"
    np.save(inputs, test.images)
    result = run_worker("outputs", artifact, [inputs], target, outputs=path)
    outputs = read_outputs(path, len(test))
    sample = compare(manifest.precision, vectors["output_0"], outputs[: len(vectors["output_0"])])
    agreement = agreement_of(outputs, source_top1)
    accuracy = agreement_of(outputs, test.labels)
    source_accuracy = 100.0 * float(np.mean(source_top1 == test.labels))
    if reason := verdict(manifest.precision, sample.max_rel, agreement, source_accuracy - accuracy, len(test)):
        raise CheckFailed(f"wrong results: {reason}")
    return {
        "accuracy": Top1(top1=Measurement(value=accuracy, unit="%")),
        "agreement": Top1(top1=Measurement(value=agreement, unit="%")),
        "environment": result.environment,
    }


def _test_split(artifact: Artifact, samples: int) -> Split:
    name = artifact.manifest.provenance.dataset
    if name is None:
        raise CheckFailed("the artifact names no data set, so its accuracy cannot be measured")
    data = load_dataset(name)
    if data.name != name or len(data.test) != samples:
        raise Unavailable(f"the data set {name} ({samples} test samples) is not on this machine", hint="run: python3 scripts/fetch_mnist.py")
    return data.test


def _sample_file(artifact: Artifact, scratch: Path) -> Path:
    path = scratch / "samples.npy"
    np.save(path, artifact.vectors()["input_0"])
    return path


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
