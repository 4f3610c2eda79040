"""The subject of an export: the request, and the Paddle model with what every cell needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import VECTORS, Origin, TensorInfo, Work, artifact_name
from edge.bench.launch import write_inputs
from edge.children import interrupted
from edge.datasets.preprocessing import Preprocessing
from edge.datasets.samples import ExportData, export_data
from edge.datasets.sizes import at_the_ends
from edge.environments import lite_python, paddlelite_version
from edge.export.room import check_room
from edge.export.support import Cell
from edge.export.workspace import Options, Workspace, versions
from edge.files import sha256_of
from edge.models.source import ModelSource
from edge.package.run.compare import agreement_of, is_classifier
from edge.vocabulary import Format, Precision
from edge.workflows.accuracy import TuningSet

#: Samples that calibrate int8.
CALIBRATION_SAMPLES = 512
#: Judging samples whose inputs and outputs travel inside the artifact, and the bytes that they may take before compression.
VECTOR_SAMPLES, VECTOR_BYTES = 16, 16 << 20


@dataclass(frozen=True)
class ExportRequest:
    """One model to export.

    Attributes:
        source: see `edge.models.source.resolve_model`.
        name: of the model in the artifacts, e.g. ``mnist_student_distilled``.
        data: what calibrates and judges, see `edge.datasets.samples.export_data`; None: random input judges, and int8 is refused.
        formats, precisions: None is all; a set is "asked for by name".
        max_drop: bound on what int8 may lose, in points of `edge.export.parity.metric_of`; layers stay in float to hold it.
        calibration_samples, judge_samples: at most so many; None is all.
        allow_mismatch: keep an artifact that failed its gate, marked.
        recipe: the training record, kept in the manifest.
    """

    source: ModelSource
    name: str
    data: str | None = None
    preprocessing: Preprocessing | None = None
    formats: frozenset[Format] | None = None
    precisions: frozenset[Precision] | None = None
    options: Options = field(default_factory=Options)
    max_drop: float | None = None
    allow_mismatch: bool = False
    calibration_samples: int = CALIBRATION_SAMPLES
    judge_samples: int | None = None
    recipe: dict[str, Any] | None = None


@dataclass(frozen=True)
class Digests:
    """sha256 of the program with its parameters, and of the samples with their labels."""

    program: str
    judge: str
    calibration: str


@dataclass(frozen=True)
class Source:
    """The Paddle model with what every cell needs: data, its outputs on the judging samples, and the shared conversion steps."""

    request: ExportRequest
    data: ExportData
    workspace: Workspace
    judge: tuple[Path, ...]
    #: Runs the cells; what is submitted to it runs when a thread has no cell to make.
    pool: Executor
    #: The inputs at each end of the stated ranges: see `edge.datasets.sizes.at_the_ends`.
    ends: tuple[tuple[Path, ...], ...] = ()

    @staticmethod
    def prepare(request: ExportRequest, cells: list[Cell], workspace: Workspace, scratch: Path, out: Path, pool: Executor) -> Source:
        """Refuse what cannot be exported. Everything waits for the legacy program; what else is sure to be needed is made beside it, in the pool."""
        # where the inputs are known, data that cannot be used is refused before anything is loaded
        known = request.source.inputs
        data = _data(request, known) if known else None
        judge = write_inputs(scratch / "judge", data.judge.inputs) if data else []
        names = [artifact_name(request.name, cell.format, cell.precision, cell.target_arch) for cell in cells]
        fresh = not any((out / name).exists() for name in names)  # cells that are kept need no outputs

        def ahead() -> None:
            """Steps that the cells share: one that fails here fails for the cell that asks for it."""
            if any(cell.format is Format.PADDLE_INFERENCE and cell.precision is Precision.FP32 for cell in cells):
                workspace.pir()
            if judge and fresh:
                workspace.source_outputs(judge)
                if not any(cell.format is Format.ONNX for cell in cells):
                    workspace.work(judge)  # converts a model that no cell converts: it takes longest to begin with

        pool.submit(ahead)
        described = workspace.described()
        check_room(out, described["parameter_bytes"], cells)
        inputs = tuple(TensorInfo(**tensor) for tensor in described["inputs"])
        if data is None or inputs != known:
            data = _data(request, inputs)
            judge = write_inputs(scratch / "judge of the program", data.judge.inputs)
        samples = tuple(write_inputs(scratch / "calibration", data.calibration.inputs)) if request.data else ()
        ends = [tuple(write_inputs(scratch / f"end {number}", found.inputs)) for number, found in enumerate(at_the_ends(inputs, data.judge))]
        return Source(request, data, replace(workspace, samples=samples), tuple(judge), pool, tuple(ends))

    def outputs(self) -> list[NDArray[Any]]:
        """The Paddle model's outputs on the judging samples, computed when first asked for."""
        return self.workspace.source_outputs(self.judge)

    def work(self) -> Work | None:
        """The counted work of one judging sample; None where it could not be counted, which is no reason to refuse an artifact.

        Raises:
            EdgeError: the export is being interrupted.
        """
        try:
            return self.workspace.work(self.judge)
        except Exception:
            if interrupted():
                raise
            return None

    def tuning(self) -> TuningSet:
        """The calibration samples and the Paddle model's outputs on them."""
        samples = self.workspace.samples
        return TuningSet(samples, self.workspace.source_outputs(samples), self.data.calibration.labels)

    @property
    def accuracy(self) -> float | None:
        """The Paddle model's top-1 on the judging samples in %, None without labels."""
        labels, first = self.data.judge.labels, self.outputs()[0]
        return agreement_of(first, labels) if labels is not None and is_classifier(first) else None

    @property
    def digests(self) -> Digests:
        """Computed when first asked for."""
        workspace, data = self.workspace, self.data

        def compute() -> Digests:
            return Digests(
                _digest(workspace.program()), _digest(self.judge, data.judge.labels), _digest(workspace.samples, data.calibration.labels)
            )  # fmt: skip

        digests: Digests = workspace.once("digests", compute)
        return digests

    def vectors(self) -> Path:
        """The .npz that travels inside every artifact, written when first asked for."""
        path = self.workspace.folder / VECTORS

        def write() -> None:
            outputs, inputs = self.outputs(), self.data.judge.inputs
            each = sum(array[:1].nbytes for array in (*inputs, *outputs))
            count = max(1, min(VECTOR_SAMPLES, VECTOR_BYTES // max(each, 1)))
            arrays = {f"input_{index}": array[:count] for index, array in enumerate(inputs)}
            arrays |= {f"output_{index}": array[:count] for index, array in enumerate(outputs)}
            if is_classifier(outputs[0]):
                arrays["source_top1"] = outputs[0].argmax(1).astype(np.int32)
            np.savez_compressed(path, allow_pickle=False, **arrays)

        self.workspace.once("vectors", write)
        return path

    def fingerprint(self, cell: Cell) -> str:
        """Of all that decides what the cell's files hold."""
        request = self.request
        settings: dict[str, Any] = {
            "source": self.digests.program, "judge": self.digests.judge, "data": self.data.name,
            "cell": [cell.format.value, cell.precision.value, cell.target_arch.value],
            "ranges": [tensor.get("ranges") for tensor in self.workspace.described()["inputs"]],
            "opset": request.options.opset, "half_io": request.options.half_io, "recipe": request.recipe,
            "tools": versions("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime", "paddle-edge"),
        }  # fmt: skip
        if cell.format is Format.PADDLE_LITE:
            settings["paddlelite"] = paddlelite_version(lite_python())
        if cell.precision is Precision.INT8:
            settings |= {"options": asdict(request.options), "max_drop": request.max_drop, "calibration": self.digests.calibration}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def origin(self, cell: Cell) -> Origin:
        source = self.request.source
        return Origin(
            source=source.name,
            weights_sha256=sha256_of(Path(source.weights)) if source.weights else None,
            source_sha256=self.digests.program,
            dataset=self.data.name if self.data.real else None,
            calibration=self.data.description if cell.precision is Precision.INT8 else None,
            source_accuracy=self.accuracy,
            recipe=self.request.recipe,
            fingerprint=self.fingerprint(cell),
        )


def _data(request: ExportRequest, inputs: Sequence[TensorInfo]) -> ExportData:
    return export_data(
        request.data or "random",
        inputs,
        preprocessing=request.preprocessing,
        calibration_count=request.calibration_samples,
        judge_count=request.judge_samples,
    )


def _digest(paths: Iterable[Path], labels: NDArray[np.int64] | None = None) -> str:
    marks = [*(sha256_of(path) for path in paths), "" if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()]
    return hashlib.sha256("".join(marks).encode()).hexdigest()
