"""Repairs of a legacy program before it is saved: small passes, each with what it requires and what it ensures."""

from __future__ import annotations

from typing import Any

from edge.errors import ConversionFailed


def fold_bias_reshape(program: Any) -> int:
    """Turn ``conv2d -> elementwise_add(reshape2(bias))`` into ``conv2d -> elementwise_add(bias, axis=1)``.

    Paddle 3 adds a convolution's bias as a reshaped tensor. Neither oneDNN's nor Paddle Lite's fusion passes know that form, so the
    addition stays an operator of its own, and int8 programs quantize the sum before and after it.

    Requires: a legacy program whose reshaped biases are parameters of one dimension, read once.
    Ensures: the same function; no ``reshape2`` of a parameter feeds an addition.

    Returns:
        The number of additions changed.
    """
    changed = 0
    for block in program.blocks:
        makers = {op.output("Out")[0]: op for op in block.ops if op.type == "reshape2" and _is_vector(block, op.input("X")[0])}
        for op in block.ops:
            reshape = makers.get(op.input("Y")[0]) if op.type == "elementwise_add" else None
            if reshape is not None and block.var(op.output("Out")[0]).shape[1] == block.var(reshape.input("X")[0]).shape[0]:
                op._rename_input(op.input("Y")[0], reshape.input("X")[0])
                op._set_attr("axis", 1)
                changed += 1
        _drop_unread(block, makers)
        if any(op.type == "elementwise_add" and op.input("Y")[0] in makers for op in block.ops):
            raise ConversionFailed("a reshaped bias could not be folded into its addition")
    return changed


def _is_vector(block: Any, name: str) -> bool:
    variable = block.vars.get(name)
    return variable is not None and variable.persistable and len(variable.shape) == 1


def _drop_unread(block: Any, makers: dict[str, Any]) -> None:
    read = {name for op in block.ops for name in op.input_arg_names}
    for index in reversed(range(len(block.ops))):
        op = block.ops[index]
        if op.type == "reshape2" and op.output("Out")[0] in makers and op.output("Out")[0] not in read:
            block._remove_op(index)
