"""``reshape2`` to a shape that is put together at run time from sides that are known, or copied from the input, becomes one with the shape as its
attribute. paddle2onnx 2.1.0 writes a Concat of scalars for the first form, which no runtime loads.
"""

from __future__ import annotations

from typing import Any

from edge.export.repairs.graph import index_of, makers, readers


def find(program: Any) -> Any:
    """(block, reshape, shape): every side is a constant, or the input's own side at the same place (0 in the attribute)."""
    for block in program.blocks:
        made = makers(block)
        for op in block.ops:
            sides = op.input("ShapeTensor") if op.type == "reshape2" else []
            if sides:
                shape = [_side(made, op.input("X")[0], index, name) for index, name in enumerate(sides)]
                if None not in shape:
                    return block, op, shape
    return None


def rewrite(program: Any, scope: Any, match: Any) -> None:
    block, reshape, shape = match
    sides = reshape.input("ShapeTensor")
    reshape.desc.set_input("ShapeTensor", [])
    reshape._set_attr("shape", shape)
    for name in sides:
        _drop_unread(program, block, name)


def _side(made: dict[str, Any], reshaped: str, index: int, name: str) -> int | None:
    op = made.get(name)
    if op is not None and op.type == "fill_constant" and not op.input("ShapeTensor") and not op.input("ValueTensor"):
        value = op.attr("str_value") or op.attr("value")
        return int(float(value))
    if op is not None and op.type == "slice" and (op.attr("starts"), op.attr("ends"), op.attr("axes")) == ([index], [index + 1], [0]):
        shape = made.get(op.input("Input")[0])
        if shape is not None and shape.type == "shape" and shape.input("Input")[0] == reshaped:
            return 0
    return None


def _drop_unread(program: Any, block: Any, name: str) -> None:
    """Remove what made a variable that nothing reads any more, and what made that."""
    op = makers(block).get(name)
    if op is None or any(readers(program, output) for output in op.output_arg_names):
        return
    inputs = list(op.input_arg_names)
    block._remove_op(index_of(block, op))
    for made in inputs:
        _drop_unread(program, block, made)
