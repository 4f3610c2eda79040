"""ONNX: paddle2onnx for fp32, half-sized weights for fp16, static QDQ for int8."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edge.errors import ConversionFailed
from edge.export.trace import Graph, layers_of, read_program
from edge.export.workspace import UNKNOWN_OPERATORS, Made, Workspace, versions
from edge.files import link_or_copy
from edge.vocabulary import Arch, Precision

#: Operators of a PIR program under the names that paddle2onnx has for them; others differ by underscores, prefix and version only.
PIR_NAMES = {
    "subtract": "elementwise_sub",
    "multiply": "elementwise_mul",
    "divide": "elementwise_div",
    "maximum": "elementwise_max",
    "minimum": "elementwise_min",
    "remainder": "elementwise_mod",
    "floor_divide": "elementwise_floordiv",
}
#: Part of every program, or of its control flow.
STRUCTURE = frozenset({"feed", "fetch", "data", "p", "constant", "while", "conditional_block", "if", "yield"})
_PREFIX, _VERSION = re.compile(r"^(?:elementwise|reduce)_"), re.compile(r"(?:_?v)?\d?_?$")


def make(precision: Precision, arch: Arch, workspace: Workspace, folder: Path) -> Made:
    """Write ``model.onnx`` of one precision into ``folder``."""
    out, options = folder / "model.onnx", workspace.options
    tools = versions("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime")
    if precision is Precision.FP32:
        link_or_copy(workspace.onnx_fp32(), out)
    elif precision is Precision.FP16:
        workspace.job("edge.export.onnx:to_half", {"model": str(workspace.onnx_fp32()), "out": str(out), "keep_io": not options.half_io})
        tools |= versions("onnxconverter-common")
    else:
        arguments: dict[str, Any] = {
            "model": str(workspace.onnx_fp32()),
            "ranges": str(workspace.ranges()),
            "float_layers": list(workspace.float_layers),
        }
        arguments |= {"signed": options.signed_activations, "full_range": options.full_range, "out": str(out)}
        workspace.job("edge.export.quantize:quantize_onnx", arguments)
    return Made({"model.onnx": "model"}, f"onnx opset {options.opset}", tools)


def convert(program: str, params: str, out: str, opset: int, progress: Any) -> int:
    """Job: Paddle program -> ``out/model.onnx`` with a clean graph; returns its size in bytes.

    ``optimize_tool="None"``, for the default one pip-installs packages at run time. It leaves the weights as Constant nodes,
    which the quantizer would take for activations; onnxruntime's basic optimization makes them initializers, and folds bias
    additions into Conv and Gemm, in standard operators only.

    Raises:
        ConversionFailed: nothing usable was written. On an operator that it does not know paddle2onnx ends the process, without its name:
            what it will have been is written to ``out`` before.
    """
    import onnx
    import onnxruntime
    import paddle2onnx

    raw, clean = f"{out}/raw.onnx", f"{out}/model.onnx"
    Path(out, UNKNOWN_OPERATORS).write_text(_unknown(read_program(Path(program))))
    try:
        paddle2onnx.export(program, params, raw, opset_version=opset, optimize_tool="None", verbose=False)
    except Exception as error:
        raise ConversionFailed(f"paddle2onnx: {type(error).__name__}: {' '.join(str(error).split())[-400:]}") from error
    if not Path(raw).is_file() or Path(raw).stat().st_size == 0:
        raise ConversionFailed("paddle2onnx wrote no file")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = clean
    options.log_severity_level = 3
    onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    Path(raw).unlink()
    graph = onnx.load(clean)
    if foreign := sorted({node.domain for node in graph.graph.node} - {"", "ai.onnx"}):
        raise ConversionFailed(f"the ONNX graph holds operators of {', '.join(foreign)}, which only one runtime knows")
    return Path(clean).stat().st_size


def to_half(model: str, out: str, keep_io: bool, progress: Any) -> int:
    """Job: fp16 weights and arithmetic; inputs and outputs stay float32 with ``keep_io``. Returns the size in bytes."""
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    half = convert_float_to_float16(_with_outputs_apart(onnx.load(model)), keep_io_types=keep_io)
    onnx.save(half, out)
    return Path(out).stat().st_size


def _with_outputs_apart(model: Any) -> Any:
    """No output of the graph is read inside it: the converter gives such an output one type only, and the graph does not load."""
    from onnx import helper

    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    for output in [tensor.name for tensor in graph.output if tensor.name in read]:
        inner = f"{output}.inner"
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == output:
                        names[index] = inner
        graph.node.append(helper.make_node("Identity", [inner], [output], name=f"{output}.apart"))
    return model


def _unknown(graph: Graph) -> str:
    """The sentence about the operators that paddle2onnx has no converter for, each with the layer before it."""
    from paddle2onnx import paddle2onnx_cpp2py_export as converters

    known = {_plain(name) for name in (*converters.get_all_supported_operators(), *converters.get_all_supported_operators_pir())}
    unknown = {op.kind: op.inputs for op in reversed(graph.ops) if op.kind not in STRUCTURE and _plain(PIR_NAMES.get(op.kind, op.kind)) not in known}
    if not unknown:
        return "ONNX: paddle2onnx has no converter for an operator of the model, and does not say for which"
    places = [f"{kind}{_behind(graph, inputs[0] if inputs else None)}" for kind, inputs in reversed(unknown.items())]
    return f"ONNX: paddle2onnx has no converter for the operator{'s' if len(places) > 1 else ''} {', '.join(places)}"


def _plain(name: str) -> str:
    return _VERSION.sub("", _PREFIX.sub("", name)).replace("_", "")


def _behind(graph: Graph, tensor: str | None) -> str:
    """`` (behind layer NAME)``: the last one on the way from the inputs to the tensor."""
    ends, made = {layer.end: layer.name for layer in layers_of(graph)}, {name: op for op in graph.ops for name in op.outputs}
    while tensor in made and tensor not in ends:
        tensor = next(iter(made.pop(tensor).inputs), None)
    return f" (behind layer {ends[tensor]})" if tensor in ends else ""
