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

    def held_out(self) -> Dataset:
        """The training images alone, the last sixth of them as the test set: choices are made here, and the real test set is used once."""
        kept = len(self.train) - len(self.train) // HELD_OUT
        return Dataset(f"{self.name}:held-out", self.train.head(kept), Split(self.train.images[kept:], self.train.labels[kept:]), self.note)


@cache
def load_dataset(name: str, folder: Path | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of the known data sets; ``NAME:held-out`` takes the last sixth of its training images for the test set, to choose by.
        folder: where its raw files lie; without it the places named in the loader are tried.

    Raises:
        BadInput: unknown name, or files that are damaged or not there.
    """
    loaders = _loaders()
    base, separator, split = name.partition(":")
    if base not in loaders or (separator and split != "held-out"):
        raise BadInput(f"unknown data set {name!r}", hint=f"known data sets: {', '.join(sorted(loaders))}; NAME:held-out to choose by")
    data = loaders[base](folder)
    return data.held_out() if separator else data


#: One training image in so many is held out: 10,000 of MNIST's 60,000.
HELD_OUT = 6

#: Data sets without classes. A `Split` needs labels, so theirs are all zero: no accuracy may be computed from them.
UNLABELLED = frozenset({"text_pages"})


def _loaders() -> dict[str, Callable[[Path | None], Dataset]]:
    from edge.datasets import digits, fashion_mnist, mnist, ppocr

    return {
        "mnist": mnist.load,
        "fashion_mnist": fashion_mnist.load,
        "digits": digits.load,
        "text_directions": ppocr.load_directions,
        "text_pages": ppocr.load_pages,
    }


def known_datasets() -> tuple[str, ...]:
    """The names that `load_dataset` takes, sorted; each also as ``NAME:held-out``."""
    return tuple(sorted(_loaders()))
