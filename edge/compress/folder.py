"""A compressed model on disk: the record with what was done, the weights that `edge export` takes, and the packed file that counts.

compressed.json      the model, its surgery, the data, each step's record, sizes and errors
model.safetensors    what the packed file decodes to
packed.bin           see `edge.compress.packing`
recipe.toml          as it was run
dense/               record and weights of the dense net that it is compared with, where it is another one
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edge.compress.changes import Changes
from edge.compress.packing import pack, unpack
from edge.compress.steps import rebuild
from edge.compress.technique import trained
from edge.errors import BadInput
from edge.files import read_limited, sha256_of, write_atomic
from edge.models import model_entry
from edge.models.weights import load_weights, save_weights
from edge.vocabulary import Frozen

if TYPE_CHECKING:
    from paddle import nn

RECORD, WEIGHTS, PACKED, RECIPE, DENSE = "compressed.json", "model.safetensors", "packed.bin", "recipe.toml", "dense"
MAX_RECORD, MAX_PACKED = 64 << 20, 1 << 30
AGAIN = "make it again with: edge compress RECIPE --out DIR"


class StepRecord(Frozen):
    """What a step did: its settings, its own record, seconds, and top-1 on the held-out images after it, in %; None without data.

    ``changes``: against the dense net, on the held-out images; None for the step that made it.
    """

    step: dict[str, Any]
    record: dict[str, Any]
    seconds: float
    held_out: float | None
    changes: Changes | None = None


class Compressed(Frozen):
    """``compressed.json``. Errors are shares of the test images in %, None without data; sizes are in bytes; ``ratio`` is dense over packed.

    ``plain_bytes``: of what is left as float32. ``packed_bytes``: None of a dense net, which is not packed. ``parameters_before``: trained ones of
    the dense net. ``parameters``: those left that are not zero. ``macs_before``, ``macs``: multiplications that a runtime executes for one sample,
    those with a zero among them.
    ``fingerprint``: see `edge.compress.recipe.fingerprint`. ``changes``: against the dense net, on the test images. ``sha256``: of the files beside
    the record, by name.
    """

    schema_version: Literal[1] = 1
    model: str
    data: str
    seed: int
    fingerprint: str = Field("", max_length=64)
    surgery: tuple[tuple[str, dict[str, Any]], ...] = Field((), max_length=10_000)
    steps: tuple[StepRecord, ...]
    baseline_bytes: int = Field(gt=0)
    plain_bytes: int = Field(gt=0)
    packed_bytes: int | None = Field(gt=0)
    error_before: float | None
    error_after: float | None
    parameters_before: int
    parameters: int
    macs_before: int
    macs: int
    seconds: float
    changes: Changes | None = None
    sha256: dict[str, str] = Field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.baseline_bytes / (self.packed_bytes or self.plain_bytes)


def packed_state(layer: nn.Layer) -> bytes:
    """Everything that the layer needs to run, in the order of its state."""
    return pack([np.asarray(value.numpy(), np.float32) for value in layer.state_dict().values()])


def bytes_of(layer: nn.Layer) -> int:
    """Of its state as float32."""
    return 4 * sum(int(value.size) for value in layer.state_dict().values())


def trained_of(layer: nn.Layer) -> int:
    """Trained parameters, those that are zero among them."""
    return sum(int(value.size) for value in trained(layer).values())


def parameters_of(layer: nn.Layer) -> int:
    """Trained ones that are not zero."""
    return sum(int(np.count_nonzero(value.numpy())) for value in trained(layer).values())


def write_folder(folder: Path, layer: nn.Layer, packed: bytes | None, record: Compressed) -> Compressed:
    """The record last, and an older one goes first: a folder without one is none. Returns it with the digests of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    save_weights(layer, folder / WEIGHTS)
    if packed is not None:
        write_atomic(folder / PACKED, packed)
    record = record.model_copy(update={"sha256": {name: sha256_of(folder / name) for name in _files(record)}})
    write_atomic(folder / RECORD, json.dumps(record.model_dump(mode="json"), indent=1))
    return record


def _files(record: Compressed) -> tuple[str, ...]:
    return (WEIGHTS, PACKED) if record.packed_bytes else (WEIGHTS,)


def check_files(folder: Path, record: Compressed) -> None:
    """The files beside a record are those that it was written with.

    Raises:
        BadInput: one is missing, or another.
    """
    for name in _files(record):
        _check_file(folder / name, record)


def _check_file(path: Path, record: Compressed) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: is not there", hint=AGAIN)
    if record.sha256.get(path.name, digest := sha256_of(path)) != digest:
        raise BadInput(f"{path}: damaged, or changed since {RECORD} was written", hint=AGAIN)


def read_record(folder: Path) -> Compressed:
    """The record of a compressed model.

    Raises:
        BadInput: no such folder, or one that is damaged.
    """
    try:
        return Compressed.model_validate(json.loads(read_limited(folder / RECORD, MAX_RECORD, "record of a compressed model")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{folder / RECORD}: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint=AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{folder / RECORD}: not readable JSON: {error}", hint=AGAIN) from error


def build(record: Compressed) -> nn.Layer:
    """The layer with its structure as the surgery left it, and initial weights."""
    return rebuild(model_entry(record.model).build(), [(name, dict(details)) for name, details in record.surgery])


def load(folder: Path) -> nn.Layer:
    """The layer with the weights that `edge export` takes.

    Raises:
        BadInput: the record or the weights are damaged.
    """
    record = read_record(folder)
    _check_file(folder / WEIGHTS, record)
    layer = build(record)
    load_weights(layer, folder / WEIGHTS)
    return layer


def decode(folder: Path) -> nn.Layer:
    """The layer with the weights of the packed file.

    Raises:
        BadInput: the record or the packed file is damaged, or does not fit the model.
    """
    record = read_record(folder)
    if record.packed_bytes is None and not (folder / PACKED).is_file():
        raise BadInput(f"{folder}: a dense net, nothing of it is packed", hint="name the folder of the compressed one")
    _check_file(folder / PACKED, record)
    layer = build(record)
    try:
        tensors = unpack(read_limited(folder / PACKED, MAX_PACKED, "packed model"))
    except BadInput as error:
        raise BadInput(f"{folder / PACKED}: {error.message}", hint=error.hint or AGAIN) from None
    state: dict[str, Any] = layer.state_dict()
    shapes = [list(value.shape) for value in state.values()]
    if [list(tensor.shape) for tensor in tensors] != shapes:
        raise BadInput(f"{folder / PACKED}: holds other tensors than the model of {RECORD}")
    layer.set_state_dict({name: np.asarray(tensor) for name, tensor in zip(state, tensors, strict=True)})
    return layer
