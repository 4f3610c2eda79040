"""Data sets in four idx files, as MNIST and its successors come (format: yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge.datasets import Split
from edge.errors import BadInput
from edge.files import sha256_of

#: The largest idx file accepted, in bytes unpacked (MNIST's is 47 MB).
MAX_BYTES = 64 << 20


def check_files(folder: Path, files: Mapping[str, str], hint: str) -> None:
    """Every file must be there with its sha256.

    Raises:
        BadInput: one is not.
    """
    for name, digest in files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise BadInput(f"{folder / name} is missing or not the pinned file", hint=hint)


def read_split(folder: Path, stem: str, mean: float, std: float, suffix: str = "") -> Split:
    """Images [N, 1, H, W], normalised, and labels of ``STEM-images-idx3-ubyteSUFFIX`` and its companion."""
    pixels = read_idx(folder / f"{stem}-images-idx3-ubyte{suffix}")
    labels = read_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}")
    images = (pixels[:, None].astype(np.float32) / 255 - mean) / std
    return Split(images.astype(np.float32), labels.astype(np.int64))


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, plain or gzipped (format: yann.lecun.com/exdb/mnist).

    Raises:
        BadInput: wrong magic, or a length that does not match the header.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise BadInput(f"{path}: not an idx file of unsigned bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    offset = 4 + 4 * len(shape)
    expected = 1
    for side in shape:
        expected *= side
    if expected != len(data) - offset:
        raise BadInput(f"{path}: header says {expected} bytes, the file has {len(data) - offset}")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)
