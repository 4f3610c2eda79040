"""Weights from safetensors and ``.pdparams``: no code runs when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import BadInput
from edge.files import write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import nn

#: Endings of the files that `load_weights` reads.
WEIGHT_SUFFIXES = (".safetensors", ".pdparams")

#: safetensors dtype -> numpy's. BF16 is kept as its 16 bits, as in Paddle's own files; `_fitted` widens it.
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def save_weights(layer: nn.Layer, path: Path) -> None:
    from safetensors.numpy import save

    write_atomic(path, save({name: np.ascontiguousarray(value.numpy()) for name, value in layer.state_dict().items()}))


def load_weights(layer: nn.Layer, path: Path) -> None:
    """Fill ``layer`` from a safetensors or ``.pdparams`` file.

    Every parameter and buffer must be there with its shape and dtype, and be finite. float16 and bfloat16 are widened to float32.

    Raises:
        BadInput: the file cannot be read as weights, or does not fit the layer, or holds NaN or infinity.
    """
    arrays = read_weights(path)
    wanted = layer.state_dict()
    _check_names(path, set(wanted), set(arrays))
    fitted = {name: _fitted(path, name, arrays[name], list(value.shape), _dtype_name(value)) for name, value in wanted.items()}
    layer.set_state_dict(fitted)


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a weights file by name; bfloat16 as uint16.

    Raises:
        BadInput: no such file, too large, damaged, or it asks to run something.
    """
    from edge.models.pdparams import read_pdparams

    if path.suffix == ".pdparams" and not _begins_as_safetensors(path):
        return read_pdparams(path)
    return _read_safetensors(path)


def _begins_as_safetensors(path: Path) -> bool:
    """``paddle.save(..., safetensors=True)`` keeps the name .pdparams. A pickle has no brace after its first eight bytes."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError, deserialize

    from edge.models.pdparams import MAX_WEIGHTS

    try:
        if path.stat().st_size > MAX_WEIGHTS:
            raise BadInput(f"{path}: larger than the {MAX_WEIGHTS >> 30} GiB that a weights file may have")
        entries: list[tuple[str, Any]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        return {name: np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"]) for name, entry in entries}
    except FileNotFoundError:
        raise BadInput(f"{path}: no such weights file") from None
    except KeyError as error:
        raise BadInput(f"{path}: holds an array of dtype {error.args[0]}, which is not read") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable safetensors file: {error}") from error


def _check_names(path: Path, wanted: set[str], found: set[str]) -> None:
    missing, unexpected = wanted - found, found - wanted
    if not missing and not unexpected:
        return
    if not found:
        raise BadInput(f"{path}: holds no weights at all")
    if wanted.isdisjoint(found):
        if prefix := _extra_prefix(wanted, found):
            raise BadInput(f"{path}: every name begins with {prefix!r}, which the model's do not", hint="save the state_dict of the inner layer")
        if prefix := _extra_prefix(found, wanted):
            raise BadInput(
                f"{path}: the model's names begin with {prefix!r}, those in the file do not", hint="save the state_dict of the outer layer"
            )
        raise BadInput(
            f"{path}: weights of another model: none of its {len(found)} names is among the model's {len(wanted)} "
            f"(file: {_some(found)}; model: {_some(wanted)})"
        )
    parts = [f"lacks {_some(missing)}"] if missing else []
    parts += [f"has {_some(unexpected)}, which the model does not know"] if unexpected else []
    raise BadInput(f"{path}: the weights do not fit the model: the file {' and '.join(parts)}")


def _extra_prefix(short: set[str], long: set[str]) -> str | None:
    """What ``long``'s names have before those of ``short``, where it is the same for all of them."""
    shortest = min(long, key=len, default="")
    for name in short:
        if shortest.endswith(f".{name}"):
            prefix = shortest.removesuffix(name)
            if long == {prefix + other for other in short}:
                return prefix
    return None


def _some(names: set[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in sorted(names)[:most]) + rest


def _fitted(path: Path, name: str, array: NDArray[Any], shape: list[int], dtype: str) -> NDArray[Any]:
    """The array as the parameter needs it."""
    if list(array.shape) != shape:
        raise BadInput(f"{path}: {name} has shape {list(array.shape)}, the model needs {shape}")
    if dtype == "float32":
        array = _widened(array)
    # Paddle shows a bfloat16 parameter as uint16; a layer of that type takes its bits as they are.
    if array.dtype.name != dtype and not (dtype == "bfloat16" and array.dtype.name == "uint16"):
        raise BadInput(f"{path}: {name} has dtype {array.dtype.name}, the model needs {dtype}", hint="cast it before saving")
    if not np.isfinite(_widened(array)).all():
        raise BadInput(f"{path}: {name} holds NaN or infinity")
    return array


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    """float16 and bfloat16 (16 bits in uint16) as float32, exactly; others as they are."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _dtype_name(value: Any) -> str:
    return str(value.dtype).rpartition(".")[2]
