"""The proof of a compressed model, in a child: from the packed bytes to the error on the test images, with nothing taken from the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.compress.folder import DENSE, PACKED, bytes_of, decode, load, parameters_of, read_record
from edge.compress.recipe import NO_DATA
from edge.compress.structure import macs_of
from edge.compress.technique import trained
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
    # without a net of its own beside it, a recipe that only trains is its own dense net; a net that was narrowed before it was trained has none
    dense = load(home / DENSE) if (home / DENSE).is_dir() else decoded
    return {
        "packed_bytes": (home / PACKED).stat().st_size,
        "baseline_bytes": bytes_of(untouched),
        "plain_bytes": bytes_of(decoded),
        "parameters_before": sum(int(value.size) for value in trained(untouched).values()),
        "parameters": parameters_of(decoded),
        "macs_before": macs_of(untouched, entry.inputs.values()),
        "macs": macs_of(decoded, entry.inputs.values()),
        "error_before": None if record.error_before is None or record.data == NO_DATA else _error(dense, record.data),
        "error_after": None if record.data == NO_DATA else _error(decoded, record.data),
        "same_weights": all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs),
    }


def _error(net: nn.Layer, data: str) -> float:
    """On the test images, in %."""
    if data not in known_datasets():
        raise BadInput(f"the record names data that are unknown: {data[:100]!r}", hint=f"known: {', '.join(known_datasets())}")
    found = load_dataset(data)
    if found.note:  # other data stand in for them
        raise Unavailable(found.note, hint="run: make data")
    return 100.0 - top1(predict(net, found.test.images), found.test.labels)
