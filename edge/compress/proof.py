"""The proof of a compressed model, in a child: from the packed bytes to the error on the test images, with nothing taken from the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.compress.folder import PACKED, decode, load, read_record
from edge.compress.packing import dense_bytes
from edge.compress.train import predict, top1
from edge.datasets import load_dataset
from edge.models import model_entry


def prove(folder: str, progress: Any) -> dict[str, Any]:
    """Bytes of the file and of the dense net, error in % on the test images, and whether the packed weights are the stored ones bit for bit."""
    home = Path(folder)
    record, decoded, stored = read_record(home), decode(home), load(home)
    data = load_dataset(record.data)
    pairs = zip(decoded.state_dict().values(), stored.state_dict().values(), strict=True)
    dense = model_entry(record.model).build().state_dict().values()
    return {
        "packed_bytes": (home / PACKED).stat().st_size,
        "baseline_bytes": dense_bytes([np.asarray(value.numpy()) for value in dense]),
        "error_after": 100.0 - top1(predict(decoded, data.test.images), data.test.labels),
        "same_weights": all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs),
    }
