"""Export: make every cell that can be made, run each in its own runtime, and keep those that are still the model."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.artifact import VECTORS, Artifact, Kernels, Manifest, Origin, Parity, TensorInfo, artifact_name, file_entry, load_artifact, write_manifest
from edge.bench.launch import read_outputs, run_worker
from edge.bench.runnable import why_not_runnable
from edge.datasets import Dataset, load_dataset
from edge.devices.local import LocalTarget
from edge.environments import lite_python
from edge.errors import BadInput, CheckFailed, EdgeError, Unavailable, UnsupportedPrecision
from edge.export.parity import agreement_of, compare
from edge.export.support import Cell, select
from edge.export.workspace import Workspace
from edge.files import new_folder, sha256_of, write_atomic
from edge.jobs import run_job, side_by_side
from edge.models import model_entry
from edge.vocabulary import Arch, Format, Frozen, Precision, Status
from edge.workflows.training import cores

#: Samples of the training split that calibrate int8.
CALIBRATION_SAMPLES = 512
#: Test samples whose inputs and outputs travel inside the artifact.
VECTOR_SAMPLES = 16
INDEX = "export.json"


class ExportedCell(Frozen):
    """What became of one cell; ``artifact`` is its folder's name when it was made."""

    model: str
    format: Format
    precision: Precision
    target_arch: Arch
    status: Status
    reason: str | None = None
    artifact: str | None = None


class ExportIndex(Frozen):
    """``export.json``: every cell of the last export of each model in the folder, also those that could not be made."""

    schema_version: Literal[1] = 1
    cells: tuple[ExportedCell, ...] = ()


@dataclass(frozen=True)
class ExportRequest:
    """One model to export.

    Attributes:
        name: of the model in the artifacts, e.g. ``mnist_student_distilled``; ``model`` is the zoo name.
        formats, precisions: None is all; a set is "asked for by name".
        recipe: the training record, kept in the manifest.
    """

    model: str
    weights: Path
    name: str
    dataset: str
    formats: frozenset[Format] | None = None
    precisions: frozenset[Precision] | None = None
    opset: int = 17
    recipe: dict[str, Any] | None = None


#: Called with each finished cell.
CellDone = Callable[[ExportedCell], None]


def export_model(request: ExportRequest, out: Path, done: CellDone = lambda _: None) -> list[ExportedCell]:
    """Export one model to every cell asked for, two conversions at a time.

    A cell that fails leaves no folder, and an older one as it was; the others go on. The index ``export.json`` in ``out`` lists them all.

    Returns:
        The cells in the order of the support table.
    """
    if not request.weights.is_file():
        raise BadInput(f"{request.weights}: no such weights file", hint="train one with: edge demo")
    model_entry(request.model)
    out.mkdir(parents=True, exist_ok=True)
    cells = select(set(request.formats) if request.formats else None, set(request.precisions) if request.precisions else None)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work.") as scratch:
        source = _Source.prepare(request, Path(scratch))
        with side_by_side(min(2, cores())) as pool:
            futures = {pool.submit(_export_cell, cell, source, out): index for index, cell in enumerate(cells)}
            finished: dict[int, ExportedCell] = {}
            for future in as_completed(futures):
                finished[futures[future]] = future.result()
                done(future.result())
    ordered = [finished[index] for index in range(len(cells))]
    _write_index(out, ordered)
    return ordered


def read_index(folder: Path) -> ExportIndex:
    """The export index of a folder; empty when there is none."""
    path = folder / INDEX
    if not path.is_file():
        return ExportIndex()
    try:
        return ExportIndex.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path}: not an export index of schema version 1: {' '.join(str(error).split())[:200]}") from error


def _write_index(out: Path, cells: Iterable[ExportedCell]) -> None:
    fresh = {cell_key(cell): cell for cell in cells}
    kept = [cell for cell in read_index(out).cells if cell_key(cell) not in fresh]
    write_atomic(out / INDEX, ExportIndex(cells=(*kept, *fresh.values())).model_dump_json(indent=1))


def cell_key(cell: ExportedCell) -> str:
    """The name that the cell's artifact has or would have."""
    return artifact_name(cell.model, cell.format, cell.precision, cell.target_arch)


@dataclass(frozen=True)
class _Source:
    """The Paddle model with what every cell needs: its outputs on the test set, and the shared conversion steps."""

    request: ExportRequest
    data: Dataset
    workspace: Workspace
    test_inputs: Path
    outputs: np.ndarray

    @staticmethod
    def prepare(request: ExportRequest, scratch: Path) -> _Source:
        data = load_dataset(request.dataset)
        test, samples, logits = (scratch / name for name in ("test.npy", "calibration.npy", "source.npy"))
        np.save(test, data.test.images)
        np.save(samples, data.train.images[:CALIBRATION_SAMPLES])
        arguments = {"model": request.model, "weights": str(request.weights), "images": str(test), "out": str(logits)}
        run_job("edge.export.source:source_outputs", arguments, flags={"OMP_NUM_THREADS": str(cores())})
        workspace = Workspace(scratch / "steps", request.model, request.weights, samples, request.opset)
        return _Source(request, data, workspace, test, np.load(logits, allow_pickle=False))

    @property
    def accuracy(self) -> float:
        return agreement_of(self.outputs, self.data.test.labels)

    def vectors(self) -> dict[str, np.ndarray]:
        return {
            "input_0": self.data.test.images[:VECTOR_SAMPLES],
            "output_0": self.outputs[:VECTOR_SAMPLES],
            "source_top1": self.outputs.argmax(1).astype(np.int32),
        }

    def origin(self, precision: Precision) -> Origin:
        calibration = f"{CALIBRATION_SAMPLES} training images of {self.data.name}" if precision is Precision.INT8 else None
        return Origin(
            source=self.request.model,
            weights_sha256=sha256_of(self.request.weights),
            dataset=self.data.name,
            calibration=calibration,
            source_accuracy=self.accuracy,
            recipe=self.request.recipe,
        )


def _export_cell(cell: Cell, source: _Source, out: Path) -> ExportedCell:
    """Make, prove and keep one cell; whatever stops it becomes its status and reason."""
    identity = {"model": source.request.name, "format": cell.format, "precision": cell.precision, "target_arch": cell.target_arch}
    name = artifact_name(source.request.name, cell.format, cell.precision, cell.target_arch)
    if cell.makes == "unsupported":
        return ExportedCell(**identity, status=Status.UNSUPPORTED, reason=cell.reason)
    try:
        if cell.format is Format.PADDLE_LITE:
            lite_python()
        with new_folder(out / name) as folder:
            manifest = _prove(_make(cell, source, folder), cell, source)
            write_manifest(folder, manifest)
        artifact = load_artifact(out / name)
        blocked = why_not_runnable(artifact)
        return ExportedCell(**identity, status=Status.EXPORTED if blocked else Status.OK, reason=blocked, artifact=name)
    except Unavailable as error:
        return ExportedCell(**identity, status=Status.UNAVAILABLE, reason=str(error))
    except EdgeError as error:
        return ExportedCell(**identity, status=Status.FAILED, reason=str(error))


def _make(cell: Cell, source: _Source, folder: Path) -> Artifact:
    """The candidate: files and a manifest that has not been proven yet."""
    exporter = importlib.import_module(f"edge.export.{cell.format.value.replace('-', '_')}")
    made = exporter.make(cell.precision, cell.target_arch, source.workspace, folder)
    np.savez_compressed(folder / VECTORS, allow_pickle=False, **source.vectors())
    files = [file_entry(folder, name, role) for name, role in made.files.items()]
    described = source.workspace.described()
    manifest = Manifest(
        model=source.request.name,
        format=cell.format,
        precision=cell.precision,
        target_arch=cell.target_arch,
        program=made.program,
        inputs=tuple(TensorInfo(**tensor) for tensor in described["inputs"]),
        outputs=(TensorInfo(name="logits", shape=(None, source.outputs.shape[1]), dtype="float32"),),
        files=(*files, file_entry(folder, VECTORS, "vectors")),
        tools=made.tools,
        kernels=Kernels(reduced=None, total=described["compute_ops"], reason="not proven yet"),
        parity=Parity(reason="not proven yet"),
        provenance=source.origin(cell.precision),
    )
    return write_manifest(folder, manifest)


def _prove(candidate: Artifact, cell: Cell, source: _Source) -> Manifest:
    """Run the candidate in its own runtime over the test set, and ask the runtime which kernels it used.

    Raises:
        CheckFailed: it is not the model any more.
        UnsupportedPrecision: none of its kernels runs in its precision.
    """
    blocked = why_not_runnable(candidate)
    parity = Parity(reason=blocked) if blocked else _parity(candidate, source)
    if parity.passed is False:
        raise CheckFailed(f"{candidate.name}: {parity.reason}")
    kernels = _kernels(candidate, cell, source, blocked)
    return candidate.manifest.model_copy(update={"parity": parity, "kernels": kernels})


def _parity(candidate: Artifact, source: _Source) -> Parity:
    with tempfile.TemporaryDirectory(prefix="edge-parity.") as folder:
        path = Path(folder, "outputs.npy")
        run_worker("outputs", candidate, [source.test_inputs], LocalTarget(), outputs=path)
        outputs = read_outputs(path, len(source.outputs))
    return compare(candidate.manifest.precision, source.outputs, outputs, source.data.test.labels)


def _kernels(candidate: Artifact, cell: Cell, source: _Source, blocked: str | None) -> Kernels:
    total = source.workspace.described()["compute_ops"]
    precision = candidate.manifest.precision
    if precision is Precision.FP32:
        return Kernels(reduced=None, total=total, reason="fp32 is not a reduced precision")
    if blocked and candidate.manifest.format is not Format.PADDLE_LITE:
        return Kernels(reduced=None, total=total, reason=blocked)
    result = run_worker("kernels", candidate, [source.test_inputs], LocalTarget())
    counts: dict[str, int] = result.figures["kernels"]
    reduced = counts.get(precision.value, 0)
    if reduced == 0 and cell.makes != "storage-only":
        raise UnsupportedPrecision(f"{candidate.name}: no compute node runs in {precision.value}: {json.dumps(counts)}")
    return Kernels(reduced=reduced, total=total, reason=cell.reason if reduced < total else None)
