"""ONNX: paddle2onnx for fp32, half-sized weights for fp16, static QDQ for int8."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edge.errors import ConversionFailed, Unsupported
from edge.export.workspace import Made, Workspace, versions
from edge.files import link_or_copy
from edge.vocabulary import Arch, Precision

#: What paddle2onnx says about an operator it does not know.
UNKNOWN_OPERATOR = re.compile(r"(?:operators not supported yet, including|operators? .*not supported.*?:)\s*([\w.,\s]+)", re.IGNORECASE)


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
        Unsupported: an operator that paddle2onnx does not know.
        ConversionFailed: nothing usable was written.
    """
    import onnx
    import onnxruntime
    import paddle2onnx

    raw, clean = f"{out}/raw.onnx", f"{out}/model.onnx"
    try:
        paddle2onnx.export(program, params, raw, opset_version=opset, optimize_tool="None", verbose=False)
    except Exception as error:
        raise _explained(error) from error
    if not Path(raw).is_file() or Path(raw).stat().st_size == 0:
        raise ConversionFailed("paddle2onnx wrote no file")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = clean
    options.log_severity_level = 3
    onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    Path(raw).unlink()
    graph = onnx.load(clean)
    onnx.checker.check_model(graph, full_check=True)
    if foreign := sorted({node.domain for node in graph.graph.node} - {"", "ai.onnx"}):
        raise ConversionFailed(f"the ONNX graph holds operators of {', '.join(foreign)}, which only one runtime knows")
    return Path(clean).stat().st_size


def to_half(model: str, out: str, keep_io: bool, progress: Any) -> int:
    """Job: fp16 weights and arithmetic; inputs and outputs stay float32 with ``keep_io``. Returns the size in bytes."""
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    half = convert_float_to_float16(_with_outputs_apart(onnx.load(model)), keep_io_types=keep_io)
    onnx.checker.check_model(half)
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


def _explained(error: Exception) -> Exception:
    text = " ".join(str(error).split())
    found = UNKNOWN_OPERATOR.search(text)
    if found:
        return Unsupported(f"paddle2onnx does not know the operator {found.group(1).strip(' ,.')}")
    return ConversionFailed(f"paddle2onnx: {type(error).__name__}: {text[-400:]}")
