"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 60,000 training and 10,000 test images of 28x28 grey articles of clothing."""

from __future__ import annotations

import os
from pathlib import Path

from edge.datasets import Dataset
from edge.datasets.idx import check_files, read_split
from edge.errors import BadInput

#: Gzipped idx files and their sha256 (Debian package dataset-fashion-mnist).
FILES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
#: Mean and standard deviation of the training pixels scaled to [0, 1].
MEAN, STD = 0.2860, 0.3530
FETCH = "run: python3 scripts/fetch_fashion.py"


def folders() -> list[Path]:
    """Where the files are looked for, first hit wins: $EDGE_FASHION_MNIST, the caches of checkout and working directory, Debian's folder."""
    checkout = Path(__file__).resolve().parents[2]
    named = [Path(os.environ["EDGE_FASHION_MNIST"])] if os.environ.get("EDGE_FASHION_MNIST") else []
    caches = [base / ".cache" / "fashion-mnist" for base in (checkout, Path.cwd())]
    return [*named, *caches, Path("/usr/share/datasets/fashion-mnist")]


def load(folder: Path | None = None) -> Dataset:
    """All 70,000 images. There is no stand-in for them.

    Raises:
        BadInput: no folder holds the pinned files, or ``folder`` (or $EDGE_FASHION_MNIST) was given and does not.
    """
    first = next(iter(FILES))
    if folder is None:
        folder = next((f for f in folders() if (f / first).is_file()), None)
        if os.environ.get("EDGE_FASHION_MNIST") and folder != Path(os.environ["EDGE_FASHION_MNIST"]):
            raise BadInput(f"EDGE_FASHION_MNIST={os.environ['EDGE_FASHION_MNIST']} holds no {first}", hint="unset it, or name the right folder")
    if folder is None:
        raise BadInput("Fashion-MNIST is not on this machine", hint=FETCH)
    check_files(folder, FILES, f"{FETCH} --force")
    return Dataset("fashion_mnist", read_split(folder, "train", MEAN, STD, ".gz"), read_split(folder, "t10k", MEAN, STD, ".gz"))
