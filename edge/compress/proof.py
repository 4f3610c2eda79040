"""The proof of a compressed model, in a child: from the packed bytes to the error on the test images, with nothing taken from the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.compress.folder import PACKED, decode, load, read_record
from edge.compress.packing import dense_bytes
from edge.compress.recipe import NO_DATA
from edge.compress.train import predict, top1
from edge.datasets import load_dataset
from edge.models import model_entry

if TYPE_CHECKING:
    from paddle import nn


def prove(folder: str, progress: Any) -> dict[str, Any]:
    """Bytes of the file and of the dense net, error in % on the test images, and whether the packed weights are the stored ones bit for bit."""
    home = Path(folder)
    record, decoded, stored = read_record(home), decode(home), load(home)
    pairs = zip(decoded.state_dict().values(), stored.state_dict().values(), strict=True)
    dense = model_entry(record.model).build().state_dict().values()
    return {
        "packed_bytes": (home / PACKED).stat().st_size,
        "baseline_bytes": dense_bytes([np.asarray(value.numpy()) for value in dense]),
        "error_after": None if record.data == NO_DATA else _error(decoded, record.data),
        "same_weights": all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs),
    }


def _error(net: nn.Layer, data: str) -> float:
    """On the test images, in %."""
    test = load_dataset(data).test
    return 100.0 - top1(predict(net, test.images), test.labels)
