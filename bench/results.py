"""``results.json``: versioned, one cell a row, every figure with unit and provenance. Read as untrusted input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from edge.artifact import Kernels, Work
from edge.bench.samples import Samples
from edge.errors import BadInput
from edge.files import write_atomic
from edge.vocabulary import Arch, Format, Frozen, Measurement, Precision, Status, absent

SCHEMA_VERSION = 2
#: A larger results file is refused, in bytes.
MAX_RESULTS = 256 << 20
#: What stands for figures that results of version 1 do not have.
NOT_IN_1 = "not in results of schema version 1"
#: Why a judged artifact has no agreement.
NO_CLASSES = "not a classifier, or measured with batch 1"


class Latency(Frozen):
    """Milliseconds per query, host arrays in to host arrays out; ``count`` queries were timed, of all processes together. (On a graphics card with
    the setting ``copies = "out"``: inputs lie on the card, and the results stay there.)

    ``load`` and ``first`` are medians over the processes; ``mad`` is the median absolute deviation. No sample is left out, but of
    ``trimmed_mean`` (see `edge.bench.statistics`).
    """

    p50: Measurement
    p90: Measurement
    p95: Measurement
    p99: Measurement
    p99_9: Measurement
    min: Measurement
    mean: Measurement
    trimmed_mean: Measurement
    mad: Measurement
    load: Measurement
    first: Measurement
    count: Measurement


class Memory(Frozen):
    """Bytes. RSS counts shared pages whole, PSS by its share of them (Linux, /proc/PID/smaps_rollup).

    Attributes:
        peak_rss: of the process. baseline_rss: the runtime imported, no model. model_rss, model_pss: what the loaded, warm model adds.
        growth: bytes per inference, with its interval: a leak where that lies above 0. gpu: of the process on the graphics card.
    """

    peak_rss: Measurement
    baseline_rss: Measurement
    model_rss: Measurement
    baseline_pss: Measurement
    model_pss: Measurement
    growth: Measurement
    gpu: Measurement


class Accuracy(Frozen):
    """Share of test samples in %; other metrics by the name they were asked for with."""

    top1: Measurement
    metrics: dict[str, Measurement] = Field(default_factory=dict)


class Process(Frozen):
    """One fresh process. Names end in their unit.

    Attributes:
        began: seconds since 1970. warm: the warm-up ended with a stable median.
        before, after: the machine's state around the measurement (frequency, temperature, load, ...). others_busy: cores that other processes used.
    """

    samples: Samples
    began: float
    wall_s: float
    cpu_s: float
    import_ms: float
    load_ms: float
    first_ms: float
    warmup_s: float
    warm: bool
    inferences: int
    timer_ns: int
    others_busy: float | None = None
    before: dict[str, Any] = Field(default_factory=dict)
    after: dict[str, Any] = Field(default_factory=dict)


class Minute(Frozen):
    """A row of the scenario ``sustained``."""

    process: int
    count: int
    p50: Measurement
    p99: Measurement
    before: dict[str, Any]
    after: dict[str, Any]


class Operator(Frozen):
    """An operator's mean time in a profiled run."""

    name: str
    kind: str
    time: Measurement


class Cell(Frozen):
    """One artifact on one target in one scenario.

    Attributes:
        settings: of the scenario, and of the target. affinity: CPUs that it may run on; None is all.
        shapes: input -> its shape without the batch, where another than the judging samples' was asked for.
        frames: data that were fed while it was timed; None is the artifact's own samples.
        macs: multiplications with their additions for one sample, counted from the graph when it was exported.
        work: the same by layer, with the elements that are moved.
        failure: the kind of a failure that a verdict tells apart from others.
        figures: the scenario's own, e.g. ``deadline_misses``; what the target saw; of another processor how far its results are from this one's.
        warnings: why the figures may not be repeatable, one sentence each.
    """

    model: str
    format: Format
    precision: Precision
    target_arch: Arch
    target: str
    device: str
    scenario: str
    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    status: Status
    reason: str | None
    failure: Literal["out-of-memory"] | None = None
    latency: Latency
    throughput: Measurement
    memory: Memory
    energy: dict[str, Measurement]
    size: Measurement
    accuracy: Accuracy
    agreement: Accuracy
    kernels: Kernels
    work: Work | None = None
    macs: Measurement = Field(default_factory=lambda: absent("count", "not counted when it was exported"))
    artifact: str | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    affinity: tuple[int, ...] | None = None
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    frames: str | None = None
    figures: dict[str, Measurement] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    minutes: tuple[Minute, ...] = ()
    operators: tuple[Operator, ...] = ()

    @property
    def label(self) -> str:
        tail = "" if self.target_arch is Arch.ANY else f" {self.target_arch.value}"
        return f"{self.format.value} {self.precision.value}{tail}"

    @property
    def judged(self) -> bool:
        """Whether its outputs were held to the source's."""
        return self.agreement.top1.value is not None or self.agreement.top1.reason == NO_CLASSES

    @property
    def asked(self) -> str:
        """The scenario and settings, in words."""
        return f"{self.scenario}, {self.threads} thread{'s' * (self.threads > 1)}, batch {self.batch}"

    @property
    def key(self) -> str:
        """What makes two cells of different files the same."""
        where = [self.model, self.label, self.target, self.device, self.affinity]
        return json.dumps([*where, self.scenario, self.settings, self.threads, self.batch, self.shapes, self.frames], sort_keys=True)


class Training(Frozen):
    """One trained model: its top-1 on ``test_count`` test images, and the seconds its training took."""

    name: str
    epochs: int
    top1: Measurement
    test_count: int
    seconds: Measurement


class Results(Frozen):
    """``training`` holds the demo's teacher and students; empty elsewhere."""

    schema_version: Literal[2] = 2
    cells: tuple[Cell, ...] = ()
    training: tuple[Training, ...] = ()


ENERGY_UNITS = {
    "cpu_time": "s",
    "instructions": "count",
    **{f"energy_{meter}": "mJ" for meter in ("rapl", "ina3221", "pmic", "battery", "nvml", "meter", "modelled")},
}


def no_latency(reason: str) -> Latency:
    ms = absent("ms", reason)
    return Latency(**{name: ms for name in Latency.model_fields if name != "count"}, count=absent("count", reason))


def no_memory(reason: str) -> Memory:
    return Memory(**{name: absent("B", reason) for name in Memory.model_fields})


def empty_figures(reason: str) -> dict[str, Any]:
    """Every figure of a cell that was not measured: null with the reason."""
    return {
        "latency": no_latency(reason),
        "throughput": absent("1/s", reason),
        "memory": no_memory(reason),
        "energy": {name: absent(unit, reason) for name, unit in ENERGY_UNITS.items()},
        "size": absent("B", reason),
        "accuracy": Accuracy(top1=absent("%", reason)),
        "agreement": Accuracy(top1=absent("%", reason)),
    }


def write_results(path: Path, results: Results) -> None:
    """Replace the file as a whole; the old one stays until the new one is complete."""
    write_atomic(path, results.model_dump_json(indent=1))


def read_results(path: Path) -> Results:
    """Read and validate a results file, or what a bundle has measured on its device.

    Raises:
        BadInput: missing, too large, not JSON, of an unknown schema version, or with a field of the wrong kind.
    """
    try:
        if path.stat().st_size > MAX_RESULTS:
            raise BadInput(f"{path}: larger than {MAX_RESULTS >> 20} MiB, not a results file")
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such results file", hint="make one with: edge bench ARTIFACT... --out FILE.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(raw, dict) and raw.get("kind") == "bundle-bench":
        return _validated(path, raw, _from_device)
    if version not in (1, SCHEMA_VERSION):
        raise BadInput(
            f"{path}: schema version {version!r} is unknown, this tool reads 1 and {SCHEMA_VERSION}", hint="measure again, or update this tool"
        )
    return _validated(path, _from_1(raw) if version == 1 else raw, Results.model_validate)


def _validated(path: Path, raw: dict[str, Any], read: Callable[[dict[str, Any]], Results]) -> Results:
    try:
        return read(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _from_device(raw: dict[str, Any]) -> Results:
    from edge.bench.from_device import results_of  # it makes rows, which are made of what stands here

    return results_of(raw)


def _from_1(raw: dict[str, Any]) -> dict[str, Any]:
    """Results of version 1 as version 2 has them: what they lack is null, with that as the reason. What is malformed stays so."""
    missing = {"latency": no_latency(NOT_IN_1).model_dump(), "memory": no_memory(NOT_IN_1).model_dump()}
    listed = raw.get("cells", [])
    if not isinstance(listed, list):
        return {**raw, "schema_version": SCHEMA_VERSION}
    cells = [
        {**cell, **{group: {**empty, **cell[group]} for group, empty in missing.items() if isinstance(cell.get(group), dict)}}
        if isinstance(cell, dict)
        else cell
        for cell in listed
    ]
    return {**raw, "schema_version": SCHEMA_VERSION, "cells": cells}
