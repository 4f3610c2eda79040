"""ONNX: paddle2onnx for fp32, half-sized weights for fp16, static QDQ for int8."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edge.errors import ConversionFailed
from edge.export.workspace import Made, Workspace, versions
from edge.vocabulary import Arch, Precision


def make(precision: Precision, arch: Arch, workspace: Workspace, folder: Path) -> Made:
    """Write ``model.onnx`` of one precision into ``folder``."""
    source, out = workspace.onnx_fp32(), folder / "model.onnx"
    tools = versions("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime")
    if precision is Precision.FP32:
        shutil.copyfile(source, out)
    elif precision is Precision.FP16:
        workspace.job("edge.export.onnx:to_half", {"model": str(source), "out": str(out)})
        tools |= versions("onnxconverter-common")
    else:
        workspace.job("edge.export.quantize:quantize_onnx", {"model": str(source), "samples": str(workspace.samples), "out": str(out)})
    return Made({"model.onnx": "model"}, f"onnx opset {workspace.opset}", tools)


def convert(program: str, out: str, opset: int, progress: Any) -> int:
    """Job: PIR program -> ``out/model.onnx`` with a clean graph; returns its size in bytes.

    ``optimize_tool="None"``, for the default one pip-installs packages at run time. It leaves the weights as Constant nodes,
    which the quantizer would take for activations; onnxruntime's basic optimization makes them initializers, and folds bias
    additions into Conv and Gemm, in standard operators only.
    """
    import onnx
    import onnxruntime
    import paddle2onnx

    raw, clean = f"{out}/raw.onnx", f"{out}/model.onnx"
    paddle2onnx.export(f"{program}/model.json", f"{program}/model.pdiparams", raw, opset_version=opset, optimize_tool="None", verbose=False)
    if not Path(raw).is_file() or Path(raw).stat().st_size == 0:
        raise ConversionFailed("paddle2onnx wrote no file")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = clean
    onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(clean)
    onnx.checker.check_model(graph, full_check=True)
    if foreign := sorted({node.domain for node in graph.graph.node} - {"", "ai.onnx"}):
        raise ConversionFailed(f"the ONNX graph holds operators of {', '.join(foreign)}, which only one runtime knows")
    return Path(clean).stat().st_size


def to_half(model: str, out: str, progress: Any) -> int:
    """Job: fp16 weights and arithmetic; inputs and outputs stay float32. Returns the size in bytes."""
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(model), keep_io_types=True)
    onnx.checker.check_model(half)
    onnx.save(half, out)
    return Path(out).stat().st_size
