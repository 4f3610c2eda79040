"""What a bundle has measured on its device (`edge.package.run.bench`), as results: the rows of `edge bench`, made from what the same worker wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edge.artifact import Artifact, Manifest
from edge.bench.measure import BenchRequest, Part, Plan
from edge.bench.results import Cell, Results
from edge.bench.rows import row
from edge.bench.scenarios import Scenario
from edge.devices.target import Ending, Job
from edge.environments import arch_of
from edge.vocabulary import Format, Frozen


class Warmup(Frozen):
    min_seconds: float
    max_seconds: float


class Settings(Frozen):
    scenario: Scenario
    warmup: Warmup
    growth_seconds: float


class Asked(Frozen):
    """What the bundle asked of the worker, see `edge.workflows.pack`."""

    spec_version: int
    repeats: int
    seconds: float
    settings: Settings


class Packed(Frozen):
    name: str
    manifest_sha256: str


class Record(Frozen):
    """What a process of the worker found."""

    artifact: str
    part: Literal["latency", "memory"]
    figures: dict[str, Any]
    environment: dict[str, Any]


class DeviceBench(Frozen):
    """The file that ``python3 -m run bench`` writes. ``device``: the profile's name where the device is one, else what it calls itself."""

    kind: Literal["bundle-bench"]
    schema_version: Literal[1]
    bundle: Packed
    device: str = Field(max_length=200)
    threads: int = Field(ge=1, le=1024)
    bench: Asked
    artifacts: dict[str, Manifest] = Field(max_length=100)
    records: tuple[Record, ...] = Field(max_length=10_000)


@dataclass(frozen=True)
class _There:
    """The device, as a target that has run already."""

    device: str
    environment: Mapping[str, Any]
    name: str = "local"
    emulated: bool = False
    here: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arch(self) -> str:
        return arch_of(str(self.environment.get("machine", "")))

    @property
    def flags(self) -> frozenset[str]:
        isa = self.environment.get("isa")
        return frozenset(map(str, isa)) if isinstance(isa, list) else frozenset()

    def lacks(self, format: Format) -> str | None:
        return None

    def push(self, path: Path) -> str:
        raise NotImplementedError("it has run already")

    def run(self, job: Job) -> Ending:
        raise NotImplementedError("it has run already")

    def close(self) -> None:
        """Nothing is open."""


def results_of(raw: dict[str, Any]) -> Results:
    """
    Raises:
        ValidationError: no such file, or a damaged one.
    """
    found = DeviceBench.model_validate(raw)
    return Results(cells=tuple(_cell(found, name, manifest) for name, manifest in found.artifacts.items()))


def _cell(found: DeviceBench, name: str, manifest: Manifest) -> Cell:
    mine = [record for record in found.records if record.artifact == name]
    target = _There(found.device, mine[0].environment if mine else {})
    warmup = found.bench.settings.warmup
    request = BenchRequest(
        target,
        found.bench.settings.scenario,
        threads=(found.threads,),
        repeats=found.bench.repeats,
        warmup=(warmup.min_seconds, warmup.max_seconds),
        parts=("latency", "memory"),
        growth_seconds=found.bench.settings.growth_seconds,
    )
    findings: dict[Part, list[dict[str, Any]]] = {}
    for record in mine:
        findings.setdefault(record.part, []).append({"figures": record.figures, "environment": record.environment})
    plan = Plan(Artifact(Path(name), manifest), request, found.threads)
    return row(plan, findings, {"bundle": found.bundle.name, "manifest_sha256": found.bundle.manifest_sha256})
