"""Data sets by name. A local path wins, then what `make` fetched, then (said plainly) the small embedded digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] float32, normalised, and labels [N] int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> Split:
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Dataset:
    """A loaded data set. ``note`` is None, or says why this is not the data that was asked for."""

    name: str
    train: Split
    test: Split
    note: str | None = None


@cache
def load_dataset(name: str, folder: Path | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: a key of `DATASETS`.
        folder: where its raw files lie; without it the places named in the loader are tried.

    Raises:
        BadInput: unknown name, or files that are damaged or not there.
    """
    loaders = _loaders()
    if name not in loaders:
        raise BadInput(f"unknown data set {name!r}", hint=f"known data sets: {', '.join(sorted(loaders))}")
    return loaders[name](folder)


def _loaders() -> dict[str, Callable[[Path | None], Dataset]]:
    from edge.datasets import digits, mnist

    return {"mnist": mnist.load, "digits": digits.load}
