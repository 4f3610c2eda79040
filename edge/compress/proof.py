"""The proof of a compressed model, in a child: from the packed bytes to the error on the test images, with nothing taken from the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.compress.folder import DENSE, PACKED, Compressed, bytes_of, decode, load, parameters_of, read_record, trained_of
from edge.compress.recipe import NO_DATA
from edge.compress.structure import macs_of
from edge.compress.train import predict, top1
from edge.datasets import known_datasets, load_dataset
from edge.errors import BadInput, Unavailable
from edge.models import model_entry

if TYPE_CHECKING:
    from paddle import nn


def prove(folder: str, progress: Any) -> dict[str, Any]:
    """Bytes, parameters, multiplications and error in % on the test images, of the packed and of the dense net, and whether the packed weights are
    the stored ones bit for bit.

    Raises:
        BadInput: a damaged folder, or a record of data that are unknown. Unavailable: the data are not on this machine.
    """
    home = Path(folder)
    record, decoded, stored = read_record(home), decode(home), load(home)
    pairs = zip(decoded.state_dict().values(), stored.state_dict().values(), strict=True)
    entry = model_entry(record.model)
    untouched = entry.build()
    after = _error(decoded, record)
    return {
        "packed_bytes": (home / PACKED).stat().st_size,
        "baseline_bytes": bytes_of(untouched),
        "plain_bytes": bytes_of(decoded),
        "parameters_before": trained_of(untouched),
        "parameters": parameters_of(decoded),
        "macs_before": macs_of(untouched, entry.inputs.values()),
        "macs": macs_of(decoded, entry.inputs.values()),
        "error_before": _error_before(home, record, after),
        "error_after": after,
        "same_weights": all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs),
    }


def _error_before(home: Path, record: Compressed, after: float | None) -> float | None:
    """Of the dense net; one that was narrowed before it was trained has none, and a recipe that only trains is its own."""
    if record.error_before is None:
        return None
    return _error(load(home / DENSE), record) if (home / DENSE).is_dir() else after


def _error(net: nn.Layer, record: Compressed) -> float | None:
    """On the test images, in %; None of random weights."""
    if record.data == NO_DATA:
        return None
    if record.data not in known_datasets():
        raise BadInput(f"the record names data that are unknown: {record.data[:100]!r}", hint=f"known: {', '.join(known_datasets())}")
    found = load_dataset(record.data)
    if found.note:  # other data stand in for them
        raise Unavailable(found.note, hint="run: make data")
    return 100.0 - top1(predict(net, found.test.images), found.test.labels)
