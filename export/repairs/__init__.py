"""Repairs of a legacy program before anything is made from it: small rewrites of its graph, one a file.

A repair states what it requires in ``find`` (only what matches is touched) and ensures that the program computes the same function with no
match left; `apply` checks the second, and the parity gate of every artifact the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.errors import ConversionFailed
from edge.export.repairs import batch_norm, bias_reshape, fixed_reshape, flatten, interp_scale

#: A program holds fewer matches than this; more means that a rewrite does not remove what it matched.
MOST = 100_000


@dataclass(frozen=True)
class Repair:
    """A rewrite.

    Attributes:
        find: program -> one match, or None.
        rewrite: changes the program at a match; may change parameters in the scope.
    """

    name: str
    find: Callable[[Any], Any]
    rewrite: Callable[[Any, Any, Any], None]


#: In this order: the bias must be plain before a batch norm is folded over it.
REPAIRS = (
    Repair("bias_reshape", bias_reshape.find, bias_reshape.rewrite),
    Repair("batch_norm", batch_norm.find, batch_norm.rewrite),
    Repair("flatten", flatten.find, flatten.rewrite),
    Repair("fixed_reshape", fixed_reshape.find, fixed_reshape.rewrite),
    Repair("interp_scale", interp_scale.find, interp_scale.rewrite),
)


def apply(program: Any, scope: Any) -> dict[str, int]:
    """Run every repair until it finds nothing; returns how often each did something.

    Raises:
        ConversionFailed: a repair does not come to an end.
    """
    return {repair.name: _run(repair, program, scope) for repair in REPAIRS}


def _run(repair: Repair, program: Any, scope: Any) -> int:
    for count in range(MOST):
        match = repair.find(program)
        if match is None:
            return count
        repair.rewrite(program, scope, match)
    raise ConversionFailed(f"the repair {repair.name} did not come to an end")
