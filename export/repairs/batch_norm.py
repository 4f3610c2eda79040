"""A batch norm behind a convolution goes into the convolution's weights, and leaves an addition of a bias.

Done once, before any export, so that every format holds the same weights and int8 ranges mean the same everywhere
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.export.repairs.graph import index_of, is_parameter, makers, readers, set_value, value


def find(program: Any) -> Any:
    """(block, convolution, addition of its bias or None, norm): each read by the next one only, with parameters of their own."""
    for block in program.blocks:
        made = makers(block)
        for norm in block.ops:
            if norm.type == "batch_norm" and norm.attr("data_layout") in ("NCHW", "AnyLayout"):
                chain = _chain(program, made, norm)
                if chain and _alone(program, chain, norm):
                    return (block, *chain, norm)
    return None


def rewrite(program: Any, scope: Any, match: Any) -> None:
    block, convolution, addition, norm = match
    gamma, beta, mean, variance = (value(scope, norm.input(slot)[0]).astype(np.float64) for slot in ("Scale", "Bias", "Mean", "Variance"))
    factor = gamma / np.sqrt(variance + norm.attr("epsilon"))
    name = convolution.input("Filter")[0]
    weights = value(scope, name)
    set_value(scope, name, (weights * factor[:, None, None, None]).astype(weights.dtype))
    shift = beta - mean * factor
    made, output = norm.input("X")[0], norm.output("Y")[0]
    if addition is None:
        bias = norm.input("Bias")[0]
        at = index_of(block, norm)
        block._remove_op(at)
        block._insert_op(at, type="elementwise_add", inputs={"X": [made], "Y": [bias]}, outputs={"Out": [output]}, attrs={"axis": 1})
    else:
        bias = addition.input("Y")[0]
        shift = shift + value(scope, bias) * factor
        block._remove_op(index_of(block, norm))
        addition._rename_output(made, output)
    set_value(scope, bias, shift.astype(weights.dtype))


def _chain(program: Any, made: dict[str, Any], norm: Any) -> tuple[Any, Any] | None:
    before = made.get(norm.input("X")[0])
    addition = None
    if before is not None and before.type == "elementwise_add" and is_parameter(program, before.input("Y")[0]) and before.attr("axis") == 1:
        addition, before = before, made.get(before.input("X")[0])
    if before is None or before.type not in ("conv2d", "depthwise_conv2d"):
        return None
    return before, addition


def _alone(program: Any, chain: tuple[Any, Any], norm: Any) -> bool:
    """Nothing else reads what would change: the outputs between, the filter, the bias, the norm's own parameters."""
    convolution, addition = chain
    changed = [convolution.output("Output")[0], convolution.input("Filter")[0], norm.input("Bias")[0]]
    if addition is not None:
        changed += [addition.output("Out")[0], addition.input("Y")[0]]
    return all(len(readers(program, name)) == 1 for name in changed)
