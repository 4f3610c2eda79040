"""The same samples at other sizes: for a model whose sides are stated as ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import TensorInfo
from edge.datasets.samples import Samples, refuse_too_large

#: Samples that are compared at each end of the ranges.
SAMPLES = 4


def at_the_ends(inputs: Sequence[TensorInfo], samples: Samples) -> list[Samples]:
    """The first samples with every ranged side at its smallest, and at its largest; without ranges none.

    Sides are stretched by repeating or dropping the nearest elements, so pictures stay pictures and tokens stay tokens.

    Raises:
        BadInput: the largest ones take too much memory.
    """
    found = []
    for end in (0, 1):
        shapes = [_shape(info, array, end) for info, array in zip(inputs, samples.inputs, strict=True)]
        if all(shape == array.shape[1:] for shape, array in zip(shapes, samples.inputs, strict=True)):
            continue
        count = min(SAMPLES, len(samples))
        refuse_too_large("the largest of the stated sizes", count, sum(4 * math.prod(shape) for shape in shapes))
        arrays = tuple(stretched(array[:count], shape) for array, shape in zip(samples.inputs, shapes, strict=True))
        found.append(Samples(arrays, None))
    return found


def _shape(info: TensorInfo, array: NDArray[Any], end: int) -> tuple[int, ...]:
    ranges = info.ranges or (None,) * array.ndim
    return tuple(side if limits is None else limits[end] for side, limits in zip(array.shape[1:], ranges[1:], strict=True))


def stretched(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The samples [N, ...] as [N, *shape], by repeating or dropping the nearest elements."""
    for axis, side in enumerate(shape, start=1):
        array = np.take(array, np.arange(side) * array.shape[axis] // side, axis=axis)
    return array
