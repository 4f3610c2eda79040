"""What later training holds a parameter to: what was pruned stays zero, what shares a value goes on sharing it, what was quantized stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.compress.train import Constraint

if TYPE_CHECKING:
    from paddle import Tensor


#: Code of what does not share its value yet.
FREE = -1
#: Kind of a constraint in a file -> the field that is its array.
FIELDS = {"mask": "keep", "shared": "codes", "fixed": "bits"}


@dataclass(frozen=True)
class Mask:
    """``keep``: of the parameter's shape, false where it stays zero."""

    keep: NDArray[np.bool_]

    def project(self, values: Tensor) -> Tensor:
        return values * self._factor

    def gradient(self, gradient: Tensor) -> Tensor:
        return gradient * self._factor

    @cached_property
    def _factor(self) -> Tensor:
        import paddle

        return paddle.to_tensor(self.keep.astype(np.float32))


@dataclass(frozen=True)
class Shared:
    """``codes``: of the parameter's shape: elements with the same code have the same value; those of code 0 stay zero, those of code `FREE` are free.

    The gradient of a shared value is the sum of its elements' (Han, Mao and Dally 2015, section 3.3); here their mean, since Adam divides by its size
    anyway, and a mean keeps the elements equal.
    """

    codes: NDArray[np.int64]

    def project(self, values: Tensor) -> Tensor:
        return self._mean(values)

    def gradient(self, gradient: Tensor) -> Tensor:
        return self._mean(gradient)

    def _mean(self, values: Tensor) -> Tensor:
        import paddle

        places, codes, free = self._tensors
        if not len(codes):
            return values * free if free is not None else paddle.zeros_like(values)
        means = paddle.geometric.segment_mean(paddle.gather(values.reshape([-1]), places), codes)
        shared = paddle.zeros([values.size]).scatter(places, paddle.gather(means, codes)).reshape(values.shape)
        return shared if free is None else shared + values * free

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Where shared values stand and their codes, by code, since few of a pruned weight's are left; and 1 where a value is free."""
        import paddle

        flat = self.codes.reshape(-1)
        places = np.argsort(flat, kind="stable")[np.count_nonzero(flat <= 0) :]
        free = self.codes == FREE
        return paddle.to_tensor(places), paddle.to_tensor(flat[places]), paddle.to_tensor(free.astype(np.float32)) if free.any() else None


@dataclass(frozen=True)
class Fixed:
    """``bits``: of the parameter's shape, the 32 bits of each value, which stays: training would leave the few values that it was rounded to."""

    bits: NDArray[np.int64]

    @staticmethod
    def at(values: NDArray[np.float32]) -> Fixed:
        return Fixed(np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.int64))

    def project(self, values: Tensor) -> Tensor:
        return self._values

    def gradient(self, gradient: Tensor) -> Tensor:
        import paddle

        return paddle.zeros_like(gradient)

    @cached_property
    def _values(self) -> Tensor:
        import paddle

        return paddle.to_tensor(self.bits.astype(np.uint32).view(np.float32))


def as_arrays(constraints: dict[str, Constraint]) -> dict[str, NDArray[Any]]:
    """For a file: ``KIND:NAME`` -> the array, in one byte an element where that holds it."""
    arrays = {}
    for name, constraint in constraints.items():
        kind = type(constraint).__name__.lower()
        values = getattr(constraint, FIELDS[kind])
        arrays[f"{kind}:{name}"] = values.astype(np.uint8 if values.min(initial=0) >= 0 and values.max(initial=0) <= 255 else np.int64)
    return arrays


def from_arrays(arrays: dict[str, NDArray[Any]]) -> dict[str, Constraint]:
    """What `as_arrays` has written."""
    makers: dict[str, Callable[[NDArray[Any]], Constraint]] = {
        "mask": lambda keep: Mask(keep.astype(bool)),
        "shared": lambda codes: Shared(codes.astype(np.int64)),
        "fixed": lambda bits: Fixed(bits.astype(np.int64)),
    }
    found = {}
    for key, array in arrays.items():
        kind, _, name = key.partition(":")
        found[name] = makers[kind](array)
    return found
