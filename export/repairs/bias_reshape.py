"""``conv2d -> elementwise_add(reshape2(bias))`` becomes ``conv2d -> elementwise_add(bias, axis=1)``.

Paddle 3 adds a convolution's bias as a reshaped tensor. Neither oneDNN's nor Paddle Lite's fusion passes know that form, so the
addition stays an operator of its own, and int8 programs quantize the sum before and after it.
"""

from __future__ import annotations

from typing import Any

from edge.export.repairs.graph import CONVOLUTIONS, index_of, is_parameter, makers, readers


def find(program: Any) -> Any:
    """(block, addition, reshape) of an NCHW convolution whose bias, a vector, is reshaped."""
    for block in program.blocks:
        made = makers(block)
        for addition in block.ops:
            if addition.type != "elementwise_add":
                continue
            reshape = made.get(addition.input("Y")[0])
            if reshape is None or reshape.type != "reshape2" or not _is_vector(program, reshape.input("X")[0]):
                continue
            convolution = made.get(addition.input("X")[0])
            if convolution is not None and convolution.type in CONVOLUTIONS and convolution.attr("data_format") in ("NCHW", "AnyLayout"):
                return block, addition, reshape
    return None


def rewrite(program: Any, scope: Any, match: Any) -> None:
    block, addition, reshape = match
    shaped = addition.input("Y")[0]
    addition._rename_input(shaped, reshape.input("X")[0])
    addition._set_attr("axis", 1)
    if not readers(program, shaped):
        block._remove_op(index_of(block, reshape))


def _is_vector(program: Any, name: str) -> bool:
    return is_parameter(program, name) and len(program.global_block().vars[name].shape) == 1
