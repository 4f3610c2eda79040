"""Repairs of a legacy program before it is saved: small passes, each with what it requires and what it ensures."""

from __future__ import annotations

from typing import Any

CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")


def fold_bias_reshape(program: Any) -> int:
    """Turn ``conv2d -> elementwise_add(reshape2(bias))`` into ``conv2d -> elementwise_add(bias, axis=1)``.

    Paddle 3 adds a convolution's bias as a reshaped tensor. Neither oneDNN's nor Paddle Lite's fusion passes know that form, so the
    addition stays an operator of its own, and int8 programs quantize the sum before and after it.

    Requires: a legacy program.
    Ensures: the same function; the bias of every NCHW convolution is added as the parameter itself. Other additions are not touched.

    Returns:
        The number of additions changed.
    """
    return sum(_fold_block(block) for block in program.blocks)


def _fold_block(block: Any) -> int:
    convolved = {op.output("Output")[0] for op in block.ops if op.type in CONVOLUTIONS and op.attr("data_format") in ("NCHW", "AnyLayout")}
    reshaped = {op.output("Out")[0]: op.input("X")[0] for op in block.ops if op.type == "reshape2" and _is_vector(block, op.input("X")[0])}
    changed = 0
    for op in block.ops:
        if op.type == "elementwise_add" and op.input("X")[0] in convolved and op.input("Y")[0] in reshaped:
            op._rename_input(op.input("Y")[0], reshaped[op.input("Y")[0]])
            op._set_attr("axis", 1)
            changed += 1
    _drop_unread(block, set(reshaped))
    return changed


def _is_vector(block: Any, name: str) -> bool:
    variable = block.vars.get(name)
    return variable is not None and variable.persistable and len(variable.shape) == 1


def _drop_unread(block: Any, outputs: set[str]) -> None:
    """Remove the operators that made ``outputs`` which nothing reads any more."""
    read = {name for op in block.ops for name in op.input_arg_names}
    for index in reversed(range(len(block.ops))):
        op = block.ops[index]
        if op.type == "reshape2" and op.output("Out")[0] in outputs - read:
            block._remove_op(index)
