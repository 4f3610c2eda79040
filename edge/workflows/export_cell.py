"""One cell of an export: make the candidate, prove it, keep it or say why not."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.artifact import (
    VECTORS,
    Artifact,
    Int8,
    Kernels,
    Manifest,
    Parity,
    TensorInfo,
    Tuning,
    artifact_name,
    file_entry,
    load_artifact,
    write_manifest,
)
from edge.bench.runnable import why_not_runnable
from edge.devices.local import LocalTarget
from edge.environments import lite_python
from edge.errors import BadArtifact, BadInput, CheckFailed, EdgeError, Unavailable, Unsupported
from edge.export.calibrate import ranges_of_layers, read_ranges
from edge.export.support import Cell, select
from edge.files import new_folder
from edge.vocabulary import Arch, Format, Precision, Status
from edge.workflows.accuracy import fewest_float_layers
from edge.workflows.export_index import ExportedCell
from edge.workflows.export_source import Source
from edge.workflows.prove import at_other_sizes, kernels_of, parity_of


def export_cell(cell: Cell, source: Source, out: Path) -> ExportedCell:
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
        kept = _still_good(out / name, source, cell)
        if kept:
            return _finished(kept, source, identity, True)
        with new_folder(out / name) as folder:
            manifest = _make_and_prove(cell, source, folder)
        return _finished(Artifact(out / name, manifest), source, identity, False)
    except Unavailable as error:
        return ExportedCell(**identity, status=Status.UNAVAILABLE, reason=str(error))
    except Unsupported as error:
        return ExportedCell(**identity, status=Status.UNSUPPORTED, reason=str(error))
    except EdgeError as error:
        if isinstance(error, BadInput) and not isinstance(error, BadArtifact):
            raise
        return ExportedCell(**identity, status=Status.FAILED, reason=str(error))


def _still_good(folder: Path, source: Source, cell: Cell) -> Artifact | None:
    """An earlier, intact artifact that was made from the same things in the same way, and may be kept."""
    try:
        artifact = load_artifact(folder) if folder.is_dir() else None
    except BadArtifact:
        return None
    if artifact is None or artifact.manifest.provenance.fingerprint != source.fingerprint(cell):
        return None
    passes = artifact.manifest.parity.passed is not False or source.request.allow_mismatch
    return artifact if passes else None


def _finished(artifact: Artifact, source: Source, identity: dict[str, Any], kept: bool) -> ExportedCell:
    manifest, blocked = artifact.manifest, why_not_runnable(artifact, LocalTarget())
    failed = manifest.parity.passed is False
    reason = f"failed its gate and was kept on demand: {manifest.parity.reason}" if failed else blocked
    parameters = source.workspace.described()["parameter_bytes"]
    return ExportedCell(
        **identity,
        status=Status.FAILED if failed else Status.EXPORTED if blocked else Status.OK,
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
    tuning, plain, kept = int8.tuning, int8.tuning.plain, int8.tuning.kept
    names = ", ".join(int8.float_layers) or "no layer"
    loss = f"{tuning.metric} loss {plain.drop:.2f} -> {kept.drop:.2f} points on {tuning.samples} calibration samples"
    cost = f"{plain.size / 1024:.0f} -> {kept.size / 1024:.0f} KiB, p50 {plain.p50:.3g} -> {kept.p50:.3g} ms"
    return f"{names} kept in float: {loss}; {cost}"


def _make_and_prove(cell: Cell, source: Source, folder: Path) -> Manifest:
    """Fill ``folder``: the files, the vectors, the manifest with what the proof found and the work that was counted beside it.

    Raises:
        CheckFailed: it is not the model any more.
        UnsupportedPrecision: none of its kernels runs in its precision.
    """
    source.pool.submit(source.work)
    max_drop = source.request.max_drop if cell.precision is Precision.INT8 else None
    float_layers, tuning = ((), None) if max_drop is None else _tuned(cell, source, max_drop)
    candidate = _make(cell, source, folder, float_layers, tuning)
    parity = _parity(candidate, cell, source, float_layers)
    if parity.passed is False and not source.request.allow_mismatch:
        # a trace that only PIR allows may have taken a value for a constant
        untraced = source.workspace.without_legacy()
        raise CheckFailed(
            f"{parity.reason}; {untraced}" if untraced else str(parity.reason),
            hint="--allow-mismatch keeps it, marked; for int8 try --max-drop or another --method",
        )
    layers = len(source.workspace.described()["layers"])
    kernels = kernels_of(candidate, source.judge, layers, cell.makes == "storage-only", cell.reason)
    found = {"parity": parity, "kernels": kernels, "work": source.work()}
    return write_manifest(folder, candidate.manifest.model_copy(update=found)).manifest


def _make(cell: Cell, source: Source, folder: Path, float_layers: tuple[str, ...] = (), tuning: Tuning | None = None) -> Artifact:
    """The candidate: files and a manifest that has not been proven yet."""
    exporter = importlib.import_module(f"edge.export.{cell.format.value.replace('-', '_')}")
    workspace = source.workspace.keeping(float_layers)
    made = exporter.make(cell.precision, cell.target_arch, workspace, folder)
    shutil.copyfile(source.vectors(), folder / VECTORS)
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


def _int8(source: Source, float_layers: tuple[str, ...], tuning: Tuning | None) -> Int8:
    ranges, request = read_ranges(source.workspace.ranges()), source.request
    return Int8(
        method=ranges.method,
        data=source.data.name,
        samples=ranges.samples,
        ranges=ranges_of_layers(ranges),
        signed_activations=request.options.signed_activations,
        full_range=request.options.full_range,
        float_layers=float_layers,
        max_drop=request.max_drop,
        tuning=tuning,
    )


def _parity(candidate: Artifact, cell: Cell, source: Source, float_layers: tuple[str, ...]) -> Parity:
    """Of the candidate itself; of a Paddle Lite file for ARM, of the x86 file made from the same program."""
    blocked = why_not_runnable(candidate, LocalTarget())
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


def _measured(candidate: Artifact | Callable[[], Artifact], cell: Cell, source: Source, float_layers: tuple[str, ...]) -> Parity:
    """The candidate against the source, once for a cell and its twin; whichever comes first runs it."""
    request, data = source.request, source.data
    max_drop = request.max_drop if cell.precision is Precision.INT8 else None

    def run() -> Parity:
        artifact = candidate() if callable(candidate) else candidate
        found = parity_of(artifact, source.judge, source.outputs(), data.judge.labels, real=data.real, max_drop=max_drop)
        return at_other_sizes(found, artifact, [(inputs, source.workspace.source_outputs(inputs)) for inputs in source.ends])

    found: Parity = source.workspace.once(f"parity {cell.format.value} {cell.precision.value} {cell.target_arch.value} {float_layers}", run)
    return found


def _twin(cell: Cell) -> Cell | None:
    """The x86 cell of a Paddle Lite file for ARM. fp16 has none: the fp32 file shows that its program is right, not its arithmetic."""
    if cell.format is not Format.PADDLE_LITE or cell.target_arch is not Arch.ARM:
        return None
    precision = Precision.FP32 if cell.precision is Precision.FP16 else cell.precision
    return next(c for c in select({cell.format}, {precision}) if c.target_arch is Arch.X86)


def _tuned(cell: Cell, source: Source, max_drop: float) -> tuple[tuple[str, ...], Tuning]:
    """The layers that stay in float in this cell, found in its own runtime, or in that of its twin."""
    judged = _twin(cell) or cell
    ranked = source.workspace.ranked_layers()

    def run() -> tuple[tuple[str, ...], Tuning]:
        with tempfile.TemporaryDirectory(dir=source.workspace.folder) as scratch:

            def make(layers: tuple[str, ...]) -> Artifact:
                folder = Path(scratch, str(len(layers)))
                folder.mkdir()
                return _make(judged, source, folder, layers)

            return fewest_float_layers(ranked, make, source.tuning(), max_drop, source.workspace.progress)

    found: tuple[tuple[str, ...], Tuning] = source.workspace.once(f"tuned {judged.format.value} {judged.target_arch.value}", run)
    return found
