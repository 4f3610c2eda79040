"""Paddle Inference: the PIR program for fp32 where there is one, with halved parameters for fp16; for bf16 and int8 the legacy program, whose
oneDNN passes are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import Unsupported
from edge.export.workspace import Made, Workspace, versions
from edge.files import link_or_copy
from edge.vocabulary import Arch, Precision

#: In a PIR program Paddle 3.3.1 cannot run these through oneDNN: "ConvertPirAttribute2RuntimeAttribute not support ArrayAttribute<DoubleAttribute>".
INTERPOLATION = b"_interp"


def make(precision: Precision, arch: Arch, workspace: Workspace, folder: Path) -> Made:
    """Put the program of one precision into ``folder``. bf16 is chosen when it is loaded; the file stays fp32."""
    if precision is Precision.INT8:
        source = workspace.quantized("paddle-inference")
        program, params = source / "model.pdmodel", source / "model.pdiparams"
    elif precision is Precision.BF16:
        program, params = workspace.legacy() / "clipped.pdmodel", workspace.legacy() / "model.pdiparams"
    else:
        program, params = _program(workspace)
    if precision is Precision.FP16:
        if INTERPOLATION in program.read_bytes():
            raise Unsupported("half-sized parameters need a PIR program, and Paddle 3.3.1 cannot run the interpolations of one through oneDNN")
        workspace.job("edge.export.paddle_inference:to_half", {"program": str(program), "params": str(params), "out": str(folder)})
        return Made({"model.json": "model", "model.pdiparams": "params"}, "pir", versions("paddlepaddle"))
    name = "model.json" if program.suffix == ".json" else "model.pdmodel"
    link_or_copy(program, folder / name)
    link_or_copy(params, folder / "model.pdiparams")
    kind = "pir" if program.suffix == ".json" else "legacy"
    return Made({name: "model", "model.pdiparams": "params"}, kind, versions("paddlepaddle"))


def _program(workspace: Workspace) -> tuple[Path, Path]:
    """(program, parameters) in fp32: PIR; the repaired legacy one where that is the source, or where PIR would not run."""
    legacy = workspace.source.kind == "legacy"
    if not legacy and INTERPOLATION in (workspace.pir() / "model.json").read_bytes():
        legacy = workspace.without_legacy() is None
    folder = workspace.legacy() if legacy else workspace.pir()
    return folder / ("clipped.pdmodel" if legacy else "model.json"), folder / "model.pdiparams"


def to_half(program: str, params: str, out: str, progress: Any) -> int:
    """Job: ``out/model.json`` and ``.pdiparams`` whose float32 parameters are stored as float16; returns the bytes of the parameters.

    Each is cast to float32 where it is read. Paddle's PIR constant folding casts them once, when the program is loaded: it computes as fast as fp32.
    (In a legacy program no pass does, and the casts keep its convolutions from being fused: 4 times slower, resnet18.) A parameter with a value
    beyond float16 stays as it is.
    """
    import paddle
    from paddle.base.libpaddle import pir
    from paddle.pir.core import create_parameter

    paddle.enable_static()
    executor, scope = paddle.static.Executor(paddle.CPUPlace()), paddle.static.global_scope()
    graph, inputs, outputs = _loaded(Path(program), Path(params), executor)
    block = graph.global_block()
    with paddle.static.program_guard(graph, paddle.static.Program()):
        for op in list(block.ops):
            if op.name() != "builtin.parameter" or op.result(0).dtype != paddle.float32:
                continue
            name = op.str_attr("parameter_name")
            array = np.array(scope.find_var(name).get_tensor())
            if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                continue
            half = create_parameter("float16", op.result(0).shape, name=f"{name}.half", initializer=paddle.nn.initializer.Constant(0.0))
            scope.var(f"{name}.half").get_tensor().set(array.astype(np.float16), paddle.CPUPlace())
            pir.set_insertion_point_after(op)
            op.result(0).replace_all_uses_with(paddle.cast(half, "float32"))
            block.remove_op(op)
    paddle.static.save_inference_model(f"{out}/model", inputs, outputs, executor, program=graph)
    return Path(out, "model.pdiparams").stat().st_size


def _loaded(program: Path, params: Path, executor: Any) -> tuple[Any, list[Any], list[Any]]:
    """(PIR program, input values, output values), its parameters in the global scope; a legacy program is translated."""
    import paddle
    from paddle.base.libpaddle import pir

    def load() -> Any:
        return paddle.static.load_inference_model(str(program.parent), executor, model_filename=program.name, params_filename=params.name)

    if program.suffix == ".json":
        graph, _, outputs = load()
        return graph, [op.result(0) for op in graph.global_block().ops if op.name() == "pd_op.data"], outputs
    with paddle.pir_utils.OldIrGuard():
        legacy, _, _ = load()
    graph = pir.translate_to_pir(legacy.desc)
    inputs, outputs = [], []
    with paddle.static.program_guard(graph, paddle.static.Program()):
        for op in list(graph.global_block().ops):
            if op.name() == "pd_op.feed":
                pir.set_insertion_point_after(op)
                value = op.result(0)
                inputs.append(paddle.static.data(op.attrs()["name"], value.shape, value.dtype))
                value.replace_all_uses_with(inputs[-1])
            elif op.name() == "pd_op.fetch":
                outputs.append(op.operand_source(0))
            else:
                continue
            graph.global_block().remove_op(op)
    return graph, inputs, outputs
