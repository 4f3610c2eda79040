"""Looking at a legacy program: who makes and who reads a variable, and the values of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")
#: Operators that multiply and accumulate -> the slot of their weight.
WEIGHT_SLOT = {"conv2d": "Filter", "depthwise_conv2d": "Filter", "conv2d_transpose": "Filter", "mul": "Y", "matmul": "Y", "matmul_v2": "Y", "fc": "W"}


def readers(program: Any, name: str) -> list[Any]:
    """The operators that read a variable."""
    return [op for block in program.blocks for op in block.ops if name in op.input_arg_names]


def makers(block: Any) -> dict[str, Any]:
    """Variable -> the operator of the block that writes it; inputs and parameters have none."""
    return {name: op for op in block.ops for name in op.output_arg_names}


def is_parameter(program: Any, name: str) -> bool:
    variable = program.global_block().vars.get(name)
    return variable is not None and bool(variable.persistable)


def weight_of(program: Any, op: Any) -> str | None:
    """Name of the parameter that a computing operator multiplies with; None where both sides are activations."""
    slot = WEIGHT_SLOT.get(op.type)
    if slot is None or not op.input(slot):
        return None
    name = str(op.input(slot)[0])
    return name if is_parameter(program, name) else None


def index_of(block: Any, op: Any) -> int:
    """Position of an operator; Paddle's wrappers compare by identity of the wrapped description."""
    return next(index for index, other in enumerate(block.ops) if other.desc == op.desc)


def value(scope: Any, name: str) -> np.ndarray:
    return np.array(scope.find_var(name).get_tensor())


def set_value(scope: Any, name: str, array: np.ndarray) -> None:
    import paddle

    scope.find_var(name).get_tensor().set(array, paddle.CPUPlace())
