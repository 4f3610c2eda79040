"""``flatten_contiguous_range(1, -1)`` becomes ``reshape2([0, -1])``: the same shape.

oneDNN's int8 passes carry scales and signs through a reshape and not through a flatten; behind a flatten an unsigned activation is quantized
as a signed one, which its x86 kernels for linear layers cannot add up exactly without VNNI.
"""

from __future__ import annotations

from typing import Any

from edge.export.repairs.graph import index_of


def find(program: Any) -> Any:
    """(block, flatten) that keeps the first axis alone."""
    for block in program.blocks:
        for op in block.ops:
            if op.type == "flatten_contiguous_range" and op.attr("start_axis") == 1 and _last(block, op):
                return block, op
    return None


def rewrite(program: Any, scope: Any, match: Any) -> None:
    block, op = match
    inputs, outputs = {"X": op.input("X")}, {"Out": op.output("Out"), "XShape": op.output("XShape")}
    at = index_of(block, op)
    block._remove_op(at)
    block._insert_op(at, type="reshape2", inputs=inputs, outputs=outputs, attrs={"shape": [0, -1]})


def _last(block: Any, op: Any) -> bool:
    stop = op.attr("stop_axis")
    variable = block.vars.get(op.input("X")[0])
    return stop == -1 or (variable is not None and stop == len(variable.shape) - 1)
