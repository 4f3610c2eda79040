"""``results.json``: versioned, one cell a row, every figure with unit and provenance. Read as untrusted input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from edge.artifact import Kernels
from edge.errors import BadInput
from edge.files import write_atomic
from edge.vocabulary import Arch, Format, Frozen, Measurement, Precision, Status, absent

SCHEMA_VERSION = 1
#: A larger results file is refused, in bytes.
MAX_RESULTS = 64 << 20


class Latency(Frozen):
    """Milliseconds per call, host arrays in to host arrays out; ``count`` calls were timed."""

    p50: Measurement
    p90: Measurement
    p99: Measurement
    min: Measurement
    load: Measurement
    first: Measurement
    count: Measurement


class Memory(Frozen):
    """Bytes: peak of the process, the runtime imported without a model, and what the loaded, warm model adds."""

    peak_rss: Measurement
    baseline_rss: Measurement
    model_rss: Measurement


class Top1(Frozen):
    """Share of test samples in %."""

    top1: Measurement


class Cell(Frozen):
    """One artifact on one target in one scenario."""

    model: str
    format: Format
    precision: Precision
    target_arch: Arch
    target: str
    device: str
    scenario: str
    threads: int
    batch: int
    status: Status
    reason: str | None
    latency: Latency
    throughput: Measurement
    memory: Memory
    energy: dict[str, Measurement]
    size: Measurement
    accuracy: Top1
    agreement: Top1
    kernels: Kernels
    artifact: str | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        tail = "" if self.target_arch is Arch.ANY else f" {self.target_arch.value}"
        return f"{self.format.value} {self.precision.value}{tail}"


class Training(Frozen):
    """One trained model: its top-1 on ``test_count`` test images, and the seconds its training took."""

    name: str
    epochs: int
    top1: Measurement
    test_count: int
    seconds: Measurement


class Results(Frozen):
    """``training`` holds the demo's teacher and students; empty elsewhere."""

    schema_version: Literal[1] = 1
    cells: tuple[Cell, ...] = ()
    training: tuple[Training, ...] = ()


ENERGY_UNITS = {"cpu_time": "s", "instructions": "count", "energy_rapl": "mJ"}


def empty_figures(reason: str) -> dict[str, Any]:
    """Every figure of a cell that was not measured: null with the reason."""
    ms, bytes_ = absent("ms", reason), absent("B", reason)
    return {
        "latency": Latency(p50=ms, p90=ms, p99=ms, min=ms, load=ms, first=ms, count=absent("count", reason)),
        "throughput": absent("1/s", reason),
        "memory": Memory(peak_rss=bytes_, baseline_rss=bytes_, model_rss=bytes_),
        "energy": {name: absent(unit, reason) for name, unit in ENERGY_UNITS.items()},
        "size": bytes_,
        "accuracy": Top1(top1=absent("%", reason)),
        "agreement": Top1(top1=absent("%", reason)),
    }


def write_results(path: Path, results: Results) -> None:
    """Replace the file as a whole; the old one stays until the new one is complete."""
    write_atomic(path, results.model_dump_json(indent=1))


def read_results(path: Path) -> Results:
    """Read and validate a results file.

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
    if version != SCHEMA_VERSION:
        raise BadInput(f"{path}: schema version {version!r} is unknown, this tool reads {SCHEMA_VERSION}", hint="measure again, or update this tool")
    try:
        return Results.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
