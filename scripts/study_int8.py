#!/usr/bin/env python3
"""int8 of one classifier in every runtime of this machine: bytes, accuracy, and whether the runtimes say the same.

.venv/bin/python scripts/study_int8.py MODEL --data DATA [--weights FILE] [--out out/int8]

Parameter bytes are those of all initializers (ONNX), of all stored tensors (Paddle Inference): biases, scales and zero points too. Weight bytes are
those of what has two dimensions or more, with the scales and zero points that decode it. Of every sample on which two int8 files name different
classes the margin is looked up: how far the fp32 model's two largest outputs lie apart, and how many samples of all have a smaller one.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from edge.artifact import Artifact, load_artifact
from edge.bench.launch import write_inputs
from edge.bench.runnable import why_not_runnable
from edge.datasets.samples import export_data
from edge.devices.local import LocalTarget
from edge.export.parity import agreement_of
from edge.models.saved import StoredTensor, stored_tensors
from edge.models.source import resolve_model
from edge.vocabulary import Format, Precision
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest
from edge.workflows.prove import outputs_of

PRECISIONS = frozenset({Precision.FP32, Precision.INT8})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("out/int8"))
    options = parser.parse_args()
    source = resolve_model(options.model, weights=options.weights)
    cells = export_model(ExportRequest(source, source.label, options.data, precisions=PRECISIONS, allow_mismatch=True), options.out)
    made = [load_artifact(options.out / cell.artifact) for cell in cells if cell.artifact]
    data = export_data(options.data, made[0].manifest.inputs)
    judge = write_inputs(options.out / "judge", data.judge.inputs)
    outputs = {artifact.name: outputs_of(artifact, judge, len(data.judge))[0] for artifact in made if not why_not_runnable(artifact, LocalTarget())}
    print(f"{source.label}: {data.description}")
    print_bytes(made, outputs, data.judge.labels)
    exact = next(outputs[artifact.name] for artifact in made if artifact.manifest.precision is Precision.FP32)
    int8 = {a.name: outputs[a.name] for a in made if a.name in outputs and a.manifest.precision is Precision.INT8}
    for (one, first), (other, second) in itertools.combinations(int8.items(), 2):
        print(f"- {one}, {other}: {agreement_of(first, second.argmax(1)):.2f} % agree; {margins_of(exact, first, second)}")


def print_bytes(made: list[Artifact], outputs: dict[str, np.ndarray], labels: np.ndarray | None) -> None:
    fp32 = {artifact.manifest.format: artifact for artifact in made if artifact.manifest.precision is Precision.FP32}
    print("| artifact | top-1 % | file KiB | of fp32 | parameters of fp32 | weights of fp32 | kernels |\n|---|---:|---:|---:|---:|---:|---:|")
    for artifact in made:
        manifest, plain = artifact.manifest, fp32[artifact.manifest.format]
        known = labels is not None and artifact.name in outputs
        top1 = f"{agreement_of(outputs[artifact.name], labels):.2f}" if known else ""
        shares = " | ".join(share(count(artifact), count(plain)) for count in (parameter_bytes, weight_bytes))
        k = manifest.kernels
        kernels = "" if k.reduced is None else f"{k.reduced}/{k.total}"
        print(f"| {artifact.name} | {top1} | {artifact.size / 1024:,.0f} | {artifact.size / plain.size:.2f} | {shares} | {kernels} |")


def share(stored: int, plain: int) -> str:
    return f"{stored / plain:.3f}" if stored and plain else ""


def parameter_bytes(artifact: Artifact) -> int:
    stored, _ = tensors_of(artifact)
    return sum(tensor.nbytes for tensor in stored.values())


def weight_bytes(artifact: Artifact) -> int:
    stored, decoders = tensors_of(artifact)
    weights = [name for name, tensor in stored.items() if len(tensor.shape) > 1]
    return sum(stored[name].nbytes for weight in weights for name in (weight, *decoders.get(weight, ())))


def tensors_of(artifact: Artifact) -> tuple[dict[str, StoredTensor], dict[str, tuple[str, ...]]]:
    """The parameters, and weight -> scales and zero points that decode it; both empty for a Paddle Lite file."""
    model, params = artifact.path("model"), artifact.path("params")
    if artifact.manifest.format is Format.ONNX:
        return _onnx_tensors(str(model))
    if params is None:
        return {}, {}
    if artifact.manifest.precision is Precision.FP32:
        return {str(index): tensor for index, tensor in enumerate(stored_tensors(params))}, {}
    return _legacy_tensors(str(model), params)


def _onnx_tensors(model: str) -> tuple[dict[str, StoredTensor], dict[str, tuple[str, ...]]]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(model).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    decoders = {node.input[0]: tuple(node.input[1:]) for node in graph.node if node.op_type == "DequantizeLinear"}
    return {name: StoredTensor(array.shape, array.nbytes) for name, array in arrays.items()}, decoders


def _legacy_tensors(program: str, params: Path) -> tuple[dict[str, StoredTensor], dict[str, tuple[str, ...]]]:
    import paddle

    paddle.enable_static()
    block = paddle.static.deserialize_program(Path(program).read_bytes()).global_block()
    # the program itself calls them float32: the file says what they are
    names = sorted(variable.name for variable in block.vars.values() if paddle.static.io.is_persistable(variable))
    decoders = {op.input("X")[0]: (op.input("Scale")[0], op.input("ZeroPoint")[0]) for op in block.ops if op.type == "dequantize_linear"}
    return dict(zip(names, stored_tensors(params), strict=True)), decoders


def margins_of(exact: np.ndarray, first: np.ndarray, second: np.ndarray) -> str:
    """Where two files disagree: the largest margin there, and the share of all samples whose margin is smaller."""
    top = np.sort(exact, axis=1)
    margins = top[:, -1] - top[:, -2]
    apart = margins[first.argmax(1) != second.argmax(1)]
    if not len(apart):
        return "no sample is told apart"
    smaller = 100 * float(np.mean(margins < apart.max()))
    return f"{len(apart)} are told apart, margins up to {apart.max():.3g} (median of all {np.median(margins):.3g}; {smaller:.1f} % are smaller)"


if __name__ == "__main__":
    main()
