"""The 1,797 8x8 digits that scikit-learn carries (UCI ML hand-written digits), as 28x28 images: the fallback for MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge.datasets import Dataset, Split
from edge.datasets.mnist import MEAN, STD
from edge.errors import BadInput

#: Every fifth image is in the test set: 360 of 1,797.
TEST_STRIDE = 5


def load(folder: Path | None = None, note: str | None = None) -> Dataset:
    """Every digit enlarged 3x and padded to 28x28, normalised as MNIST is.

    Raises:
        BadInput: a folder was named; this data set has none.
    """
    if folder is not None:
        raise BadInput("the data set 'digits' is embedded and takes no folder")
    from sklearn.datasets import load_digits

    digits = load_digits()
    large = np.kron(digits.images / 16, np.ones((3, 3)))
    padded = np.pad(large, ((0, 0), (2, 2), (2, 2)))[:, None]
    images = ((padded - MEAN) / STD).astype(np.float32)
    labels = digits.target.astype(np.int64)
    test = np.arange(len(labels)) % TEST_STRIDE == 0
    return Dataset("digits", Split(images[~test], labels[~test]), Split(images[test], labels[test]), note)
