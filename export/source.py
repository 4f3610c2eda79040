"""The Paddle model that everything is exported from and compared with. Functions here run in a child (`edge.jobs`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.compress.train import predict
from edge.errors import ConversionFailed
from edge.export.repair import fold_bias_reshape
from edge.models import model_entry
from edge.models.weights import load_weights

if TYPE_CHECKING:
    from paddle import nn

#: Operators that multiply and accumulate: what "n of m nodes run in int8" counts. Legacy program names.
COMPUTE_OPS = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "matmul_v2", "mul", "matmul", "fc")


def build_source(model: str, weights: str) -> nn.Layer:
    layer = model_entry(model).build()
    load_weights(layer, Path(weights))
    layer.eval()
    return layer


def save_program(model: str, weights: str, out: str, progress: Any) -> dict[str, Any]:
    """Trace the model with a dynamic batch and save it as ``out/model.{json|pdmodel}`` and ``out/model.pdiparams``.

    Which kind is written follows FLAGS_enable_pir_api, which Paddle reads when it is imported: PIR by default, legacy with 0.
    The legacy program keeps its extra attributes: Paddle Lite needs them (``clip_extra=True`` crashes its opt on x86).

    Returns:
        kind (``pir`` or ``legacy``), compute_ops (count, legacy only), inputs and outputs (name, shape, dtype).
    """
    import paddle

    legacy = not paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]
    layer = build_source(model, weights)
    specs = [paddle.static.InputSpec(list(shape), dtype, name) for name, (shape, dtype) in model_entry(model).inputs.items()]
    static = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
    if legacy:
        fold_bias_reshape(static.forward.concrete_program.main_program)
    options = {"clip_extra": False} if legacy else {}
    paddle.jit.save(static, f"{out}/model", **options)
    path = Path(out, "model.pdmodel" if legacy else "model.json")
    if not path.is_file() or path.stat().st_size == 0:
        raise ConversionFailed(f"paddle.jit.save wrote no {path.name}")
    described: dict[str, Any] = {"kind": "legacy" if legacy else "pir", "inputs": _described(specs)}
    if legacy:
        operators = [op.type for block in static.forward.concrete_program.main_program.blocks for op in block.ops]
        described["compute_ops"] = sum(op in COMPUTE_OPS for op in operators)
    return described


def source_outputs(model: str, weights: str, images: str, out: str, progress: Any) -> list[int]:
    """Run the Paddle model over ``images`` (.npy [N, C, H, W]) and save its logits as ``out`` (.npy [N, classes])."""
    logits = predict(build_source(model, weights), np.load(images, allow_pickle=False))
    if not np.isfinite(logits).all():
        raise ConversionFailed(f"{model}: the Paddle model itself gives NaN or infinity on these inputs")
    np.save(out, logits)
    return list(logits.shape)


def _described(specs: list[Any]) -> list[dict[str, Any]]:
    return [
        {"name": s.name, "shape": [None if d in (-1, None) else int(d) for d in s.shape], "dtype": str(s.dtype).rpartition(".")[2]} for s in specs
    ]
