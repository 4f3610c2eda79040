"""Export: make every cell that can be made, run each in its own runtime, and keep those that are still the model."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.artifact import (
    MODEL_NAME,
    VECTORS,
    Artifact,
    Int8,
    Kernels,
    Manifest,
    Origin,
    Parity,
    TensorInfo,
    artifact_name,
    file_entry,
    load_artifact,
    write_manifest,
)
from edge.bench.runnable import why_not_runnable
from edge.datasets.preprocessing import Preprocessing
from edge.datasets.samples import ExportData, Samples, export_data
from edge.environments import lite_python
from edge.errors import BadArtifact, BadInput, CheckFailed, EdgeError, Unavailable, Unsupported
from edge.export.calibrate import ranges_of_layers, read_ranges
from edge.export.parity import agreement_of, is_classifier
from edge.export.room import check_room
from edge.export.support import Cell, select
from edge.export.workspace import Options, Workspace, versions
from edge.files import new_folder, sha256_of, write_atomic
from edge.jobs import JobProgress, run_job, side_by_side
from edge.models.source import ModelSource
from edge.vocabulary import Arch, Format, Frozen, Precision, Status
from edge.workflows.accuracy import Tuning, TuningSet, fewest_float_layers
from edge.workflows.prove import kernels_of, parity_of
from edge.workflows.training import cores

#: Samples that calibrate int8.
CALIBRATION_SAMPLES = 512
#: Judging samples whose inputs and outputs travel inside the artifact, and the bytes that they may take before compression.
VECTOR_SAMPLES, VECTOR_BYTES = 16, 16 << 20
INDEX = "export.json"
#: Of a model, in characters: it becomes the name of folders.
MAX_NAME = 100


class ExportedCell(Frozen):
    """What became of one cell.

    Attributes:
        artifact: its folder's name when it was made.
        size, ratio: bytes of its files, and over those of the fp32 parameters.
        note: what a reader should know of a cell that was made.
        kept: it was there already, made from the same things in the same way.
    """

    model: str
    format: Format
    precision: Precision
    target_arch: Arch
    status: Status
    reason: str | None = None
    artifact: str | None = None
    size: int | None = None
    ratio: float | None = None
    parity: Parity | None = None
    kernels: Kernels | None = None
    note: str | None = None
    kept: bool = False


class ExportIndex(Frozen):
    """``export.json``: every cell of the last export of each model in the folder, also those that could not be made."""

    schema_version: Literal[1] = 1
    cells: tuple[ExportedCell, ...] = ()


@dataclass(frozen=True)
class ExportRequest:
    """One model to export.

    Attributes:
        source: see `edge.models.source.resolve_model`.
        name: of the model in the artifacts, e.g. ``mnist_student_distilled``.
        data: what calibrates and judges, see `edge.datasets.samples.export_data`; None: random input judges, and int8 is refused.
        formats, precisions: None is all; a set is "asked for by name".
        max_drop: bound on what int8 may lose, in points; layers stay in float to hold it.
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


#: Called with each finished cell.
CellDone = Callable[[ExportedCell], None]


def export_model(
    request: ExportRequest, out: Path, done: CellDone = lambda _: None, progress: JobProgress = lambda done, total, note: None
) -> list[ExportedCell]:
    """Export one model to every cell asked for, two conversions at a time.

    A cell that fails leaves no folder, and an older one as it was; the others go on. One that is there already, made from the same things in
    the same way, is kept: an interrupted export goes on with what is missing. The index ``export.json`` in ``out`` lists them all.

    Returns:
        The cells in the order of the support table.

    Raises:
        BadInput: the model, its name, the data or ``out`` cannot be used.
        Unavailable: not enough disk or memory.
    """
    if not re.fullmatch(MODEL_NAME, request.name) or len(request.name) > MAX_NAME:
        raise BadInput(
            f"{request.name[: MAX_NAME + 1]!r} is no name for a model: it begins with a letter or digit, goes on with those and . _ -, "
            f"and has {MAX_NAME} characters at most",
            hint="give one with --name",
        )
    cells = select(set(request.formats) if request.formats else None, set(request.precisions) if request.precisions else None)
    with _scratch_in(out) as scratch:
        source = _Source.prepare(request, cells, scratch, out, progress)
        with side_by_side(min(2, cores())) as pool:
            futures = {pool.submit(_export_cell, cell, source, out): index for index, cell in enumerate(cells)}
            finished: dict[int, ExportedCell] = {}
            for future in as_completed(futures):
                finished[futures[future]] = future.result()
                done(future.result())
    ordered = [finished[index] for index in range(len(cells))]
    _write_index(out, ordered)
    return ordered


@contextlib.contextmanager
def _scratch_in(out: Path) -> Iterator[Path]:
    """A scratch folder in ``out``, on the same file system as what will be kept; ``out`` is made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out, prefix=".work.")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise BadInput(f"{out}: artifacts cannot be written there: {error.strerror}", hint="name another folder with --out") from error
    with scratch as folder:
        yield Path(folder)


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
    """The Paddle model with what every cell needs: data, its outputs on the judging samples, and the shared conversion steps."""

    request: ExportRequest
    data: ExportData
    workspace: Workspace
    judge: tuple[Path, ...]
    digest: str

    @staticmethod
    def prepare(request: ExportRequest, cells: list[Cell], scratch: Path, out: Path, progress: JobProgress) -> _Source:
        workspace = Workspace(scratch / "steps", request.source, (), request.options, progress=progress)
        # where the inputs are known, data that cannot be used is refused before anything is loaded
        known = request.source.inputs
        early = _data(request, known) if known else None
        described = workspace.described()
        check_room(out, described["parameter_bytes"], cells)
        inputs = tuple(TensorInfo(**tensor) for tensor in described["inputs"])
        rank = len(described["outputs"][0]["shape"])
        if request.max_drop is not None and rank != 2:
            raise BadInput(f"{request.name}: --max-drop needs a classifier, whose first output is [N, classes]; this one has {rank} dimensions")
        data = early if early and inputs == known else _data(request, inputs)
        judge = _saved(scratch / "judge", data.judge)
        samples = _saved(scratch / "calibration", data.calibration) if request.data else ()
        digest = _digest([*workspace.program(), *judge])
        return _Source(request, data, replace(workspace, samples=samples), judge, digest)

    def outputs(self) -> list[NDArray[Any]]:
        """The Paddle model's outputs on the judging samples, computed when first asked for."""
        made: list[NDArray[Any]] = self.workspace.once("judge outputs", lambda: self._run(self.judge, "judge_outputs"))
        return made

    def tuning(self) -> TuningSet:
        """The calibration samples and the Paddle model's outputs on them."""
        samples = self.workspace.samples

        def make() -> TuningSet:
            return TuningSet(samples, self._run(samples, "calibration_outputs"), self.data.calibration.labels)

        tuning: TuningSet = self.workspace.once("tuning", make)
        return tuning

    @property
    def accuracy(self) -> float | None:
        """The Paddle model's top-1 on the judging samples in %, None without labels."""
        labels, first = self.data.judge.labels, self.outputs()[0]
        return agreement_of(first, labels) if labels is not None and is_classifier(first) else None

    def vectors(self) -> dict[str, NDArray[Any]]:
        outputs, inputs = self.outputs(), self.data.judge.inputs
        each = sum(array[:1].nbytes for array in (*inputs, *outputs))
        count = max(1, min(VECTOR_SAMPLES, VECTOR_BYTES // max(each, 1)))
        arrays = {f"input_{index}": array[:count] for index, array in enumerate(inputs)}
        arrays |= {f"output_{index}": array[:count] for index, array in enumerate(outputs)}
        return {**arrays, "source_top1": outputs[0].argmax(1).astype(np.int32)} if is_classifier(outputs[0]) else arrays

    def fingerprint(self, cell: Cell) -> str:
        """Of all that decides what the cell's files hold."""
        request = self.request
        settings: dict[str, Any] = {
            "source": self.digest, "cell": [cell.format.value, cell.precision.value, cell.target_arch.value], "data": self.data.name,
            "opset": request.options.opset, "half_io": request.options.half_io, "recipe": request.recipe,
            "tools": versions("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime", "paddle-edge"),
        }  # fmt: skip
        if cell.precision is Precision.INT8:
            settings |= {"options": asdict(request.options), "max_drop": request.max_drop, "calibration": _digest(self.workspace.samples)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def origin(self, cell: Cell) -> Origin:
        source = self.request.source
        return Origin(
            source=source.name,
            weights_sha256=sha256_of(Path(source.weights)) if source.weights else None,
            source_sha256=self.digest,
            dataset=self.data.name if self.data.real else None,
            calibration=self.data.description if cell.precision is Precision.INT8 else None,
            source_accuracy=self.accuracy,
            recipe=self.request.recipe,
            fingerprint=self.fingerprint(cell),
        )

    def _run(self, inputs: tuple[Path, ...], name: str) -> list[NDArray[Any]]:
        folder = self.workspace.folder / name
        folder.mkdir(parents=True)
        arguments = {"source": self.request.source.as_dict(), "inputs": [str(path) for path in inputs], "out": str(folder)}
        flags = {"OMP_NUM_THREADS": str(cores())}
        shapes = run_job("edge.export.source:source_outputs", arguments, flags=flags, on_progress=self.workspace.progress)
        return [np.load(folder / f"output_{index}.npy", allow_pickle=False) for index in range(len(shapes))]


def _data(request: ExportRequest, inputs: Sequence[TensorInfo]) -> ExportData:
    return export_data(
        request.data or "random",
        inputs,
        preprocessing=request.preprocessing,
        calibration_count=request.calibration_samples,
        judge_count=request.judge_samples,
    )


def _saved(folder: Path, samples: Samples) -> tuple[Path, ...]:
    folder.mkdir()
    for index, array in enumerate(samples.inputs):
        np.save(folder / f"input_{index}.npy", array)
    return tuple(folder / f"input_{index}.npy" for index in range(len(samples.inputs)))


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256("".join(sha256_of(path) for path in paths).encode()).hexdigest()


def _export_cell(cell: Cell, source: _Source, out: Path) -> ExportedCell:
    """Make, prove and keep one cell; whatever stops it becomes its status and reason.

    Raises:
        BadInput: the model itself does not run on the data, and no cell can be judged.
    """
    identity = {"model": source.request.name, "format": cell.format, "precision": cell.precision, "target_arch": cell.target_arch}
    name = artifact_name(source.request.name, cell.format, cell.precision, cell.target_arch)
    if cell.makes == "unsupported":
        return ExportedCell(**identity, status=Status.UNSUPPORTED, reason=cell.reason)
    try:
        if cell.format is Format.PADDLE_LITE:
            lite_python()
        kept = _still_good(out / name, source.fingerprint(cell))
        if not kept:
            with new_folder(out / name) as folder:
                _make_and_prove(cell, source, folder)
        return _finished(load_artifact(out / name), source, identity, kept)
    except Unavailable as error:
        return ExportedCell(**identity, status=Status.UNAVAILABLE, reason=str(error))
    except Unsupported as error:
        return ExportedCell(**identity, status=Status.UNSUPPORTED, reason=str(error))
    except EdgeError as error:
        if isinstance(error, BadInput) and not isinstance(error, BadArtifact):
            raise
        return ExportedCell(**identity, status=Status.FAILED, reason=str(error))


def _still_good(folder: Path, fingerprint: str) -> bool:
    """An earlier, intact artifact was made from the same things in the same way."""
    try:
        return folder.is_dir() and load_artifact(folder).manifest.provenance.fingerprint == fingerprint
    except BadArtifact:
        return False


def _finished(artifact: Artifact, source: _Source, identity: dict[str, Any], kept: bool) -> ExportedCell:
    manifest, blocked = artifact.manifest, why_not_runnable(artifact)
    reason = blocked or (f"failed its gate and was kept on demand: {manifest.parity.reason}" if manifest.parity.passed is False else None)
    parameters = source.workspace.described()["parameter_bytes"]
    return ExportedCell(
        **identity,
        status=Status.EXPORTED if blocked else Status.FAILED if reason else Status.OK,
        reason=reason,
        artifact=artifact.name,
        size=artifact.size,
        ratio=artifact.size / parameters if parameters else None,
        parity=manifest.parity,
        kernels=manifest.kernels,
        note=_note(manifest.int8),
        kept=kept,
    )


def _note(int8: Int8 | None) -> str | None:
    if int8 is None or int8.tuning is None:
        return None
    plain, kept = int8.tuning["plain"], int8.tuning["kept"]
    names = ", ".join(int8.float_layers) or "no layer"
    loss = f"{int8.tuning['metric']} loss {plain['drop']:.2f} -> {kept['drop']:.2f} points on {int8.tuning['samples']} calibration samples"
    cost = f"{plain['size'] / 1024:.0f} -> {kept['size'] / 1024:.0f} KiB, p50 {plain['p50']:.3g} -> {kept['p50']:.3g} ms"
    return f"{names} kept in float: {loss}; {cost}"


def _make_and_prove(cell: Cell, source: _Source, folder: Path) -> None:
    """Fill ``folder``: the files, the vectors, the manifest with what the proof found.

    Raises:
        CheckFailed: it is not the model any more.
        UnsupportedPrecision: none of its kernels runs in its precision.
    """
    float_layers, tuning = _tuned(cell, source) if cell.precision is Precision.INT8 and source.request.max_drop is not None else ((), None)
    candidate = _make(cell, source, folder, float_layers, tuning)
    parity = _parity(candidate, cell, source, float_layers)
    if parity.passed is False and not source.request.allow_mismatch:
        raise CheckFailed(f"{candidate.name}: {parity.reason}", hint="--allow-mismatch keeps it, marked; for int8 try --max-drop or another --method")
    layers = len(source.workspace.described()["layers"])
    kernels = kernels_of(candidate, source.judge, layers, cell.makes == "storage-only", cell.reason)
    write_manifest(folder, candidate.manifest.model_copy(update={"parity": parity, "kernels": kernels}))


def _make(cell: Cell, source: _Source, folder: Path, float_layers: tuple[str, ...] = (), tuning: Tuning | None = None) -> Artifact:
    """The candidate: files and a manifest that has not been proven yet."""
    exporter = importlib.import_module(f"edge.export.{cell.format.value.replace('-', '_')}")
    workspace = source.workspace.keeping(float_layers)
    made = exporter.make(cell.precision, cell.target_arch, workspace, folder)
    np.savez_compressed(folder / VECTORS, allow_pickle=False, **source.vectors())
    files = [file_entry(folder, name, role) for name, role in made.files.items()]
    described = workspace.described()
    manifest = Manifest(
        model=source.request.name,
        format=cell.format,
        precision=cell.precision,
        target_arch=cell.target_arch,
        program=made.program,
        inputs=tuple(TensorInfo(**tensor) for tensor in described["inputs"]),
        outputs=tuple(TensorInfo(**tensor) for tensor in described["outputs"]),
        files=(*files, file_entry(folder, VECTORS, "vectors")),
        tools=made.tools,
        kernels=Kernels(reduced=None, total=len(described["layers"]) or None, reason="not proven yet"),
        parity=Parity(reason="not proven yet"),
        provenance=source.origin(cell),
        int8=_int8(source, float_layers, tuning) if cell.precision is Precision.INT8 else None,
    )
    return write_manifest(folder, manifest)


def _int8(source: _Source, float_layers: tuple[str, ...], tuning: Tuning | None) -> Int8:
    ranges, request = read_ranges(source.workspace.ranges()), source.request
    return Int8(
        method=ranges.method,
        data=source.data.name,
        samples=ranges.samples,
        ranges=ranges_of_layers(ranges),
        full_range=request.options.full_range,
        float_layers=float_layers,
        max_drop=request.max_drop,
        tuning=None if tuning is None else tuning.as_dict(),
    )


def _parity(candidate: Artifact, cell: Cell, source: _Source, float_layers: tuple[str, ...]) -> Parity:
    """Of the candidate itself; of a Paddle Lite file for ARM, of the x86 file made from the same program."""
    blocked = why_not_runnable(candidate)
    if not blocked:
        return _measured(candidate, cell, source, float_layers)
    twin = _twin(cell)
    if twin is None:
        return Parity(reason=blocked)
    name = artifact_name(source.request.name, twin.format, twin.precision, twin.target_arch)
    try:
        with tempfile.TemporaryDirectory(dir=source.workspace.folder) as scratch:
            found = _measured(lambda: _make(twin, source, Path(scratch), float_layers), twin, source, float_layers)
    except Unsupported as error:
        return Parity(reason=f"{blocked}; {name} cannot stand in for it: {error}")
    passed, reason = (None, f"{blocked}; compared through {name}") if found.passed else (found.passed, found.reason)
    return found.model_copy(update={"passed": passed, "twin": name, "reason": reason})


def _measured(candidate: Artifact | Callable[[], Artifact], cell: Cell, source: _Source, float_layers: tuple[str, ...]) -> Parity:
    """The candidate against the source, once for a cell and its twin; whichever comes first runs it."""
    request, data = source.request, source.data
    max_drop = request.max_drop if cell.precision is Precision.INT8 else None

    def run() -> Parity:
        artifact = candidate() if callable(candidate) else candidate
        return parity_of(artifact, source.judge, source.outputs(), data.judge.labels, real=data.real, max_drop=max_drop)

    found: Parity = source.workspace.once(f"parity {cell.format.value} {cell.precision.value} {cell.target_arch.value} {float_layers}", run)
    return found


def _twin(cell: Cell) -> Cell | None:
    """The x86 cell of a Paddle Lite file for ARM. fp16 has none: the fp32 file shows that its program is right, not its arithmetic."""
    if cell.format is not Format.PADDLE_LITE or cell.target_arch is not Arch.ARM:
        return None
    precision = Precision.FP32 if cell.precision is Precision.FP16 else cell.precision
    return next(c for c in select({cell.format}, {precision}) if c.target_arch is Arch.X86)


def _tuned(cell: Cell, source: _Source) -> tuple[tuple[str, ...], Tuning]:
    """The layers that stay in float in this cell, found in its own runtime, or in that of its twin."""
    assert source.request.max_drop is not None  # noqa: S101 - the caller has looked
    judged = _twin(cell) or cell
    ranked = source.workspace.ranked_layers()

    def run() -> tuple[tuple[str, ...], Tuning]:
        with tempfile.TemporaryDirectory(dir=source.workspace.folder) as scratch:

            def make(layers: tuple[str, ...]) -> Artifact:
                folder = Path(scratch, str(len(layers)))
                folder.mkdir()
                return _make(judged, source, folder, layers)

            return fewest_float_layers(ranked, make, source.tuning(), source.request.max_drop or 0.0)

    found: tuple[tuple[str, ...], Tuning] = source.workspace.once(f"tuned {judged.format.value} {judged.target_arch.value}", run)
    return found
