"""Diff: at which layer an artifact stops being its Paddle source.

The source's repaired program gives every layer's result, without any optimization. An ONNX graph is run once with its layers as outputs. A Paddle
program is cut behind a layer and run in its own runtime as any artifact, one cut at a time, for a second output in the middle would keep the
runtime from fusing operators; programs with many layers are searched by halves. A Paddle Lite file cannot be cut.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Artifact, TensorInfo, artifact_name, file_entry
from edge.bench.launch import write_inputs
from edge.bench.runnable import why_not_runnable
from edge.devices.local import LocalTarget
from edge.errors import BadArtifact, BadInput, CheckFailed, ConversionFailed, Unavailable
from edge.export.support import select
from edge.export.trace import Layer
from edge.export.workspace import Workspace
from edge.files import link_or_copy
from edge.jobs import JobProgress, WarmServers
from edge.models.source import ModelSource, resolve_model
from edge.package.run.compare import cosine_of, largest_difference
from edge.vocabulary import Format, Frozen, Precision
from edge.workflows.prove import outputs_of

#: Relative rms error that a layer's output may have.
TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.BF16: 5e-2, Precision.INT8: 0.1}
#: A Paddle program with more layers is searched by halves: every look costs a start of the runtime.
FEW_LAYERS = 8
#: The source's outputs may differ by this from those that the artifact carries: more is another model, or the model with other weights.
SAME_SOURCE = 1e-2
#: Rows that are no layer.
PROGRAM, OUTPUT = "program", "output"


class DiffRow(Frozen):
    """How one tensor differs from the source's.

    Attributes:
        layer: weight of the layer; ``program``: the repaired program's outputs against the model itself; ``output``: the artifact's outputs.
        operator: its type in the artifact.
        rms: of the difference over that of the source. max_abs: largest difference. All null where the artifact gives NaN or infinity, or
            nothing that can be compared: ``reason`` says which.
    """

    layer: str
    operator: str | None = None
    rms: float | None = None
    max_abs: float | None = None
    cosine: float | None = None
    diverges: bool
    reason: str | None = None


class Diff(Frozen):
    """What was found, in program order.

    Attributes:
        layers: that source and artifact share; ``rows`` holds those that were looked at.
        first: the first row over tolerance.
        notes: what a reader should know of layers that were not looked at.
    """

    schema_version: Literal[1] = 1
    artifact: str
    source: str
    precision: Precision
    samples: int
    tolerance: float
    layers: int
    rows: tuple[DiffRow, ...]
    first: str | None
    sentence: str
    notes: tuple[str, ...] = ()


def source_of(artifact: Artifact, text: str, *, weights: Path | None = None, seed: int | None = None) -> ModelSource:
    """SOURCE as `edge export` takes it; a layer is called with the artifact's inputs.

    Raises:
        BadInput: there is no such model, or it is called with other inputs.
    """
    source = resolve_model(text, weights=weights, seed=seed)
    if not source.has_layer:
        return source
    return resolve_model(text, weights=weights, inputs=artifact.manifest.inputs, seed=seed)


def diff(
    artifact: Artifact,
    source: ModelSource,
    samples: int = 8,
    tolerance: float | None = None,
    progress: JobProgress = lambda done, total, note: None,
) -> Diff:
    """Compare an artifact with its source on the samples that it carries, layer by layer.

    Args:
        samples: at most.
        tolerance: relative rms error of a row; default by precision (`TOLERANCES`), for the row ``program`` that of fp32.

    Raises:
        BadInput: the source is not what the artifact was made from.
        Unavailable: this machine cannot run the artifact.
        CheckFailed: the artifact does not run.
    """
    manifest = artifact.manifest
    if blocked := why_not_runnable(artifact, LocalTarget()):
        raise Unavailable(f"{artifact.name}: {blocked}", hint=_instead(artifact))
    limit = TOLERANCES[manifest.precision] if tolerance is None else tolerance
    with tempfile.TemporaryDirectory(prefix="edge-diff.") as scratch, WarmServers() as servers:
        workspace = Workspace(Path(scratch, "steps"), source, servers, progress=progress)
        traced = _Source.run(artifact, workspace, Path(scratch), samples)
        program = _row(PROGRAM, None, traced.outputs, traced.of_program("output"), TOLERANCES[Precision.FP32] if tolerance is None else limit)
        final = _final(traced, limit)
        rows, layers, notes = _layer_rows(traced, limit, final.diverges)
    ordered = (program, *rows, final)
    first = next((row for row in ordered if row.diverges), None)
    return Diff(
        artifact=artifact.name, source=source.name, precision=manifest.precision, samples=len(traced.outputs[0]), tolerance=limit, layers=layers,
        rows=ordered, first=first.layer if first else None, sentence=_sentence(first, limit, len(rows), layers), notes=tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """The source on the artifact's samples.

    Attributes:
        inputs: input -> .npy [N, ...].
        outputs: of the model itself.
        layers: of its repaired program; ``folder`` holds their results.
    """

    artifact: Artifact
    workspace: Workspace
    inputs: dict[str, Path]
    outputs: list[NDArray[Any]]
    layers: list[Layer]
    folder: Path

    @staticmethod
    def run(artifact: Artifact, workspace: Workspace, scratch: Path, samples: int) -> _Source:
        source, vectors = workspace.source, artifact.vectors()
        folder, taken = scratch / "source", artifact.manifest.inputs
        folder.mkdir()
        written = write_inputs(scratch, [vectors[f"input_{index}"][:samples] for index in range(len(taken))])
        inputs = {tensor.name: path for tensor, path in zip(taken, written, strict=True)}
        with _another_model(artifact, source):
            _check_inputs(artifact, source, workspace)
            outputs = workspace.source_outputs(written)
            _check_outputs(artifact, source, outputs, [vectors[f"output_{index}"][:samples] for index in range(len(artifact.manifest.outputs))])
            program, params = workspace.program()
            arguments = {"program": str(program), "params": str(params), "inputs": _texts(inputs), "out": str(folder)}
            layers = [Layer(**layer) for layer in workspace.job("edge.export.trace:program_layers", arguments)]
        return _Source(artifact, workspace, inputs, outputs, layers, folder)

    def of_program(self, what: str) -> list[NDArray[Any]]:
        count = len(self.layers) if what == "layer" else len(self.outputs)
        return [np.load(self.folder / f"{what}_{index}.npy", mmap_mode="r", allow_pickle=False) for index in range(count)]


def _texts(paths: dict[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}


@contextmanager
def _another_model(artifact: Artifact, source: ModelSource) -> Iterator[None]:
    """A source that cannot be run on the artifact's samples is a wrong argument."""
    try:
        yield
    except (BadInput, ConversionFailed) as error:
        raise _wrong(artifact, source, f"it cannot be run on the artifact's samples: {error.message[-300:]}") from error


def _wrong(artifact: Artifact, source: ModelSource, why: str) -> BadInput:
    named = artifact.manifest.provenance.source[:100]
    return BadInput(
        f"{source.name} is not what {artifact.name} was made from: {why}",
        hint=f"give MODEL and --weights as the export got them; the manifest names {named!r}",
    )


def _check_inputs(artifact: Artifact, source: ModelSource, workspace: Workspace) -> None:
    def described(tensors: list[TensorInfo]) -> list[tuple[str, int, str]]:
        return [(tensor.name, len(tensor.shape), tensor.dtype) for tensor in tensors]

    taken = [TensorInfo(**tensor) for tensor in workspace.described()["inputs"]] if not source.has_layer else None
    if taken is not None and sorted(described(taken)) != sorted(described(list(artifact.manifest.inputs))):
        raise _wrong(artifact, source, f"it takes {', '.join(tensor.name for tensor in taken)[:200]}")


def _check_outputs(artifact: Artifact, source: ModelSource, outputs: list[NDArray[Any]], carried: list[NDArray[Any]]) -> None:
    if [array.shape for array in outputs] != [array.shape for array in carried]:
        raise _wrong(artifact, source, f"its outputs have the shapes {', '.join(str(array.shape) for array in outputs)[:200]}")
    worst = max(_relative_rms(a, b) for a, b in zip(carried, outputs, strict=True))
    if not worst <= SAME_SOURCE:
        raise _wrong(artifact, source, f"its outputs differ by {worst:.2g} (rms) from those that the artifact carries")


def _final(traced: _Source, limit: float) -> DiffRow:
    artifact = traced.artifact
    try:
        found = outputs_of(artifact, list(traced.inputs.values()), len(traced.outputs[0]))
    except CheckFailed as error:
        if "NaN" not in error.message:
            raise
        return DiffRow(layer=OUTPUT, diverges=True, reason="NaN or infinity")
    return _row(OUTPUT, None, traced.outputs, found, limit)


def _layer_rows(traced: _Source, limit: float, final_diverges: bool) -> tuple[list[DiffRow], int, list[str]]:
    """The rows of the layers that were looked at, how many layers there are to look at, and notes."""
    artifact = traced.artifact
    if artifact.manifest.format is Format.PADDLE_LITE:
        return [], 0, [f"a .nb file has no layers to look into, its outputs alone were compared; {_instead(artifact)}"]
    with tempfile.TemporaryDirectory(dir=traced.folder) as folder:
        if artifact.manifest.format is Format.ONNX:
            found, look = _onnx(traced, Path(folder), limit)
        else:
            found, look = _paddle(traced, Path(folder), limit)
        names = {layer.name for layer in found}
        shared = [layer for layer in traced.layers if layer.name in names]
        if traced.layers and not shared:
            raise _wrong(artifact, traced.workspace.source, f"they share no layer; the first is {traced.layers[0].name} in one")
        order = _halves if artifact.manifest.format is Format.PADDLE_INFERENCE and len(shared) > FEW_LAYERS else _all
        rows = order(shared, look, final_diverges, traced.workspace.progress)
    missing = [layer.name for layer in traced.layers if layer.name not in names]
    notes = [f"{len(missing)} layers have no counterpart in the artifact: {', '.join(missing[:5])}"] if missing else []
    return rows, len(shared), notes


#: The row of a layer of the source.
_Look = Callable[[Layer], DiffRow]


def _all(layers: list[Layer], look: _Look, final_diverges: bool, progress: JobProgress) -> list[DiffRow]:
    rows = []
    for index, layer in enumerate(layers):
        rows.append(look(layer))
        progress(index + 1, len(layers), "layers")
    return rows


def _halves(layers: list[Layer], look: _Look, final_diverges: bool, progress: JobProgress) -> list[DiffRow]:
    """Rows up to a layer that diverges behind one that does not. Where the outputs agree the search looks for a layer that does not."""
    rows: dict[int, DiffRow] = {}
    good, bad, most = -1, len(layers), math.ceil(math.log2(len(layers) + 1))
    while bad - good > 1:
        middle = (good + bad) // 2
        rows[middle] = look(layers[middle])
        good, bad = (good, middle) if rows[middle].diverges else (middle, bad)
        progress(len(rows), most, "layers")
    return [rows[index] for index in sorted(rows)]


def _onnx(traced: _Source, folder: Path, limit: float) -> tuple[list[Layer], _Look]:
    model = traced.artifact.path("model")
    arguments = {"model": str(model), "inputs": _texts(traced.inputs), "out": str(folder)}
    found = [Layer(**layer) for layer in traced.workspace.job("edge.export.trace:onnx_layers", arguments)]
    wanted = _wanted(traced)

    def compared(layer: Layer, index: int) -> DiffRow:
        twin = found[index]
        given = np.load(folder / f"layer_{index}.npy", mmap_mode="r", allow_pickle=False)
        clipped = layer.activation if twin.decoded and not twin.activation else None
        return _row(layer.name, twin.kind, [_clipped(wanted[layer.name], clipped)], [given], limit)

    def look(layer: Layer) -> DiffRow:
        """Of the uses of a shared weight the nearest: onnxruntime may have put them in another order."""
        uses = [compared(layer, index) for index, twin in enumerate(found) if twin.weight == layer.weight]
        return min(uses, key=lambda row: math.inf if row.rms is None else row.rms)

    return found, look


def _paddle(traced: _Source, folder: Path, limit: float) -> tuple[list[Layer], _Look]:
    artifact = traced.artifact
    model, params = artifact.path("model"), artifact.path("params")
    if model is None or params is None:
        raise BadArtifact(f"{artifact.folder}: the manifest lists no program with its parameters", hint="export it again with: edge export")
    arguments = {"program": str(model), "out": str(folder)}
    found = [Layer(**layer) for layer in traced.workspace.job("edge.export.trace:cut_layers", arguments)]
    link_or_copy(params, folder / "model.pdiparams")
    places, wanted = {layer.name: index for index, layer in enumerate(found)}, _wanted(traced)

    def look(layer: Layer) -> DiffRow:
        index = places[layer.name]
        output = TensorInfo(name=layer.name, shape=(), dtype="float32")
        files = (file_entry(folder, f"cut_{index}{model.suffix}", "model"), file_entry(folder, "model.pdiparams", "params"))
        candidate = replace(artifact, folder=folder, manifest=artifact.manifest.model_copy(update={"files": files, "outputs": (output,)}))
        source = wanted[layer.name]
        try:
            given = outputs_of(candidate, list(traced.inputs.values()), len(source))
        except CheckFailed as error:
            broken = "NaN" in error.message
            reason = "NaN or infinity" if broken else f"not compared: {error.message[:200]}"
            return DiffRow(layer=layer.name, operator=found[index].kind, diverges=broken, reason=reason)
        return _row(layer.name, found[index].kind, [source], given, limit)

    return found, look


def _wanted(traced: _Source) -> dict[str, NDArray[Any]]:
    return {layer.name: array for layer, array in zip(traced.layers, traced.of_program("layer"), strict=True)}


def _clipped(array: NDArray[Any], activation: str | None) -> NDArray[Any]:
    """With the activation that a quantizer has replaced by its range."""
    if activation is None:
        return array
    clipped: NDArray[Any] = np.clip(array, 0, 6 if activation == "relu6" else None)
    return clipped


def _row(layer: str, operator: str | None, source: list[NDArray[Any]], given: list[NDArray[Any]], limit: float) -> DiffRow:
    """Of several outputs the worst."""
    if [array.size for array in source] != [array.size for array in given]:
        shapes = f"{', '.join(str(array.shape) for array in given)}, the source {', '.join(str(array.shape) for array in source)}"
        return DiffRow(layer=layer, operator=operator, diverges=True, reason=f"gives {shapes}")
    if not all(np.isfinite(array).all() for array in given):
        return DiffRow(layer=layer, operator=operator, diverges=True, reason="NaN or infinity")
    pairs = list(zip(source, [array.reshape(wanted.shape) for array, wanted in zip(given, source, strict=True)], strict=True))
    rms = max(_relative_rms(a, b) for a, b in pairs)
    return DiffRow(
        layer=layer,
        operator=operator,
        rms=rms,
        max_abs=max(largest_difference(a, b) for a, b in pairs),
        cosine=min(cosine_of(a, b) for a, b in pairs),
        diverges=rms > limit,
    )


def _relative_rms(source: NDArray[Any], given: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the source."""
    a, b = source.astype(np.float64).ravel(), given.astype(np.float64).ravel()
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-30))


def _sentence(first: DiffRow | None, limit: float, looked: int, layers: int) -> str:
    if first is None:
        some = "" if looked == layers else f" ({looked} of {layers} looked at)"
        return f"no {'layer' if layers else 'output'} diverges by more than {limit:g}{some}"
    operator = f" ({first.operator})" if first.operator else ""
    return f"first diverges at {first.layer}{operator}: {first.reason if first.rms is None else f'rms {first.rms:.2g}'}"


def _instead(artifact: Artifact) -> str:
    """Which artifact of the same precision has layers and runs here."""
    manifest = artifact.manifest
    for format in (Format.PADDLE_INFERENCE, Format.ONNX):
        for cell in select({format}, {manifest.precision}):
            if cell.makes != "unsupported" and format is not manifest.format:
                return f"diff {artifact_name(manifest.model, format, manifest.precision, cell.target_arch)} instead"
    return f"diff {artifact_name(manifest.model, Format.ONNX, Precision.FP32, select({Format.ONNX}, {Precision.FP32})[0].target_arch)} instead"
