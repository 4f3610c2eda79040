"""The scale attribute of an interpolation becomes a parameter.

Paddle 3 translates the attribute into doubles, and paddle2onnx 2.1.0 reads floats only ("the 0th elementwise MUST be ir::FloatAttribute").
"""

from __future__ import annotations

from typing import Any

import numpy as np

INTERPOLATIONS = ("nearest_interp_v2", "bilinear_interp_v2")


def find(program: Any) -> Any:
    """An interpolation with a scale as its attribute alone."""
    for block in program.blocks:
        for op in block.ops:
            if op.type in INTERPOLATIONS and list(op.attr("scale") or []) and not any(op.input(slot) for slot in ("Scale", "OutSize", "SizeTensor")):
                return op
    return None


def rewrite(program: Any, scope: Any, match: Any) -> None:
    import paddle

    scale = np.array(match.attr("scale"), np.float32)
    name = f"{match.output('Out')[0]}.scale"
    program.global_block().create_var(name=name, shape=scale.shape, dtype="float32", persistable=True, stop_gradient=True)
    scope.var(name).get_tensor().set(scale, paddle.CPUPlace())
    match.desc.set_input("Scale", [name])
    match._set_attr("scale", [])
