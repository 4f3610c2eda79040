"""A cell's parts: the worker runs that measure it, one process each, and what each of them found as plain JSON."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.artifact import MANIFEST, Artifact, TensorInfo
from edge.bench.judge import Judge
from edge.bench.launch import run_worker, write_inputs
from edge.bench.metrics import Metric
from edge.bench.runnable import why_not_runnable
from edge.bench.scenarios import Scenario, SingleStream, timing
from edge.datasets.preprocessing import Preprocessing
from edge.datasets.samples import export_data
from edge.datasets.sizes import stretched
from edge.devices.target import Target
from edge.errors import EdgeError, Interrupted, LinkLost, OutOfMemory, Unavailable, Unsupported
from edge.files import sha256_of
from edge.vocabulary import Format, Status

Part = Literal["accuracy", "latency", "memory", "profile", "count"]
#: What is measured by default. A wrong artifact is found out by the first part, and gets no further ones.
PARTS: tuple[Part, ...] = ("accuracy", "latency", "memory")
#: Different frames that are fed, in turn.
FRAMES = 64
#: The kind of a failure that a verdict must know, see `edge.bench.results.Cell.failure`.
OUT_OF_MEMORY = "out-of-memory"
#: In a cell's environment: the sha256 of the artifact's manifest, which holds those of its files; `edge.package.run.bench` tells it too.
ARTIFACT = "artifact_sha256"
ONE_THREAD = "Paddle Lite's Python API has one thread, whatever is asked for: measure it with --threads 1"


@dataclass(frozen=True)
class BenchRequest:
    """What to measure of every artifact: each combination of the axes is a cell.

    Attributes:
        affinities: CPUs that the worker may run on; None is all. shapes: input -> its shape without the batch, empty for that of the judging samples.
        repeats: fresh processes that measure the latency.
        warmup: (shortest, longest) in seconds.
        frames, preprocessing: data whose samples are fed while it is timed, see `edge.datasets.samples.export_data`; None: the artifact's own.
        metric: of the accuracy, beside top-1.
        timeout: seconds that a worker may take beyond its scenario.
        growth_seconds: that the look at the growth of memory may take.
    """

    target: Target
    scenario: Scenario = field(default_factory=SingleStream)
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    affinities: tuple[tuple[int, ...] | None, ...] = (None,)
    shapes: tuple[dict[str, tuple[int, ...]], ...] = ({},)
    repeats: int = 3
    warmup: tuple[float, float] = (0.3, 5.0)
    parts: tuple[Part, ...] = PARTS
    frames: str | None = None
    preprocessing: Preprocessing | None = None
    metric: Metric | None = None
    timeout: float = 600.0
    growth_seconds: float = 10.0


@dataclass(frozen=True)
class Frames:
    """What the model is fed with while it is timed, in place of the samples that travel with the artifact.

    Attributes:
        name: of the data, as `edge.datasets.samples.export_data` gives it. arrays: one an input, [N, ...]. digest: sha256 of their bytes.
    """

    name: str
    arrays: tuple[np.ndarray, ...]
    digest: str


@dataclass(frozen=True)
class Plan:
    """One cell that is to be measured."""

    artifact: Artifact
    request: BenchRequest
    threads: int = 1
    batch: int = 1
    affinity: tuple[int, ...] | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    frames: Frames | None = None

    @property
    def name(self) -> str:
        settings = [f"{self.threads} thread{'s' * (self.threads > 1)}", f"batch {self.batch}" if self.batch > 1 else ""]
        settings += [f"CPUs {','.join(map(str, self.affinity))}" if self.affinity else "", *(f"{n} {'x'.join(map(str, s))}" for n, s in self.shapes)]
        target = self.request.target
        place = "" if target.name == "local" else f" on {target.name}" if target.name.startswith("ssh:") else f" on {target.name} {target.device}"
        return ", ".join([f"{self.artifact.name} {self.request.scenario.name}{place}", *(text for text in settings if text)])

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is measured of it. Under emulation times mean nothing: instructions are counted in their place, and memory with them."""
        asked = self.request.parts
        if not self.request.target.emulated:
            return asked
        return (*(part for part in asked if part == "accuracy"), *(("count",) if {"latency", "memory"} & {*asked} else ()))

    @property
    def blocked(self) -> tuple[Status, str] | None:
        """Why it cannot be measured here, as a status and a reason."""
        manifest = self.artifact.manifest
        if blocked := why_not_runnable(self.artifact, self.request.target):
            return Status.EXPORTED, blocked
        if manifest.parity.passed is False:
            return Status.FAILED, f"failed its gate when it was exported, a wrong artifact gets no figures: {manifest.parity.reason}"
        if manifest.format is Format.PADDLE_LITE and self.threads > 1:
            return Status.UNSUPPORTED, ONE_THREAD
        return None

    @cached_property
    def digest(self) -> str:
        """Of the artifact: its manifest holds the checksums of its files."""
        return sha256_of(self.artifact.folder / MANIFEST)

    def key(self, part: Part, repeat: int = 0) -> dict[str, Any]:
        """All that decides what a part finds."""
        request = self.request
        place: dict[str, Any] = {"tool": version("paddle-edge"), "part": part, "artifact": self.digest, "batch": self.batch}
        place |= {"target": request.target.name, "device": request.target.device, **request.target.settings}
        if part == "accuracy":
            return {**place, "metric": request.metric.name if request.metric else None}
        place |= {"threads": self.threads, "affinity": self.affinity, "shapes": self.shapes, "frames": self.frames.digest if self.frames else None}
        if part == "latency":
            return {**place, "scenario": request.scenario.model_dump(), "warmup": request.warmup, "repeat": repeat}
        return {**place, "growth_seconds": request.growth_seconds}

    def seconds(self, part: Part) -> float:
        """About how long a part takes, for an estimate: starting the runtime, loading, and what is asked for."""
        start = 2.5 if self.artifact.manifest.format is Format.PADDLE_INFERENCE else 0.7
        return start + {"latency": 1.0 + self.request.scenario.seconds, "accuracy": 2.0, "memory": 3.0, "profile": 1.0, "count": 20.0}[part]


def load_frames(request: BenchRequest, inputs: Sequence[TensorInfo]) -> Frames | None:
    """The request's frames for a model with these inputs.

    Raises:
        BadInput: data that cannot be read or do not fit the model.
    """
    if request.frames is None:
        return None
    data = export_data(request.frames, inputs, preprocessing=request.preprocessing, calibration_count=1, judge_count=FRAMES)
    digest = hashlib.sha256()
    for array in data.judge.inputs:
        digest.update(np.ascontiguousarray(array).data)
    return Frames(data.name, data.judge.inputs, digest.hexdigest())


def perform(plan: Plan, part: Part) -> dict[str, Any]:
    """Run one part of a cell. What fails is a finding too: ``failure`` with its status and reason.

    Raises:
        Interrupted: by the user.
        LinkLost: the board is gone; what follows is no finding of the cells.
    """
    try:
        return _judge(plan) if part == "accuracy" else _worker(plan, part)
    except (Interrupted, LinkLost):
        raise
    except Unavailable as error:
        return {"failure": {"status": Status.UNAVAILABLE.value, "reason": str(error)}}
    except OutOfMemory as error:
        return {"failure": {"status": Status.FAILED.value, "reason": str(error), "kind": OUT_OF_MEMORY}}
    except Unsupported as error:
        return {"failure": {"status": Status.UNSUPPORTED.value, "reason": str(error)}}
    except EdgeError as error:
        return {"failure": {"status": Status.FAILED.value, "reason": str(error)}}


def _worker(plan: Plan, part: Part) -> dict[str, Any]:
    request = plan.request
    settings: dict[str, Any] = {
        "threads": plan.threads,
        "affinity": list(plan.affinity) if plan.affinity else None,
        "batch": plan.batch,
        **timing(request.scenario, request.warmup),
        "growth_seconds": request.growth_seconds,
    }
    # where a meter answers, the scenario runs once more for it
    longest = 2 * max(request.scenario.max_seconds, request.scenario.seconds) + request.warmup[1]
    with tempfile.TemporaryDirectory(prefix="edge-cell.") as scratch:
        arrays = list(plan.frames.arrays) if plan.frames else _vectors(plan.artifact)
        inputs = write_inputs(Path(scratch), _at_shapes(plan, arrays))
        task: Any = part
        result = run_worker(task, plan.artifact, inputs, request.target, settings=settings, timeout=request.timeout + longest)
    return {"figures": result.figures, "environment": {**result.environment, ARTIFACT: plan.digest}, "seen": result.seen}


def _judge(plan: Plan) -> dict[str, Any]:
    request = plan.request
    return Judge(plan.artifact, request.target, plan.batch, request.metric, request.timeout).judge()


def _at_shapes(plan: Plan, arrays: list[np.ndarray]) -> list[np.ndarray]:
    wanted, inputs = dict(plan.shapes), plan.artifact.manifest.inputs
    return [stretched(array, wanted.get(info.name, array.shape[1:])) for info, array in zip(inputs, arrays, strict=True)]


def _vectors(artifact: Artifact) -> list[np.ndarray]:
    vectors = artifact.vectors()
    return [vectors[f"input_{index}"] for index in range(len(artifact.manifest.inputs))]
