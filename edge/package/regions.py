"""Where in a model file its tensors of four bytes an element stand, for `edge.compress.packing.pack_file`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import BadInput
from edge.models.saved import stored_tensors
from edge.vocabulary import Format

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Smaller tensors stay where they are: their own head would cost more.
LEAST_BYTES = 64
Region = tuple[int, "NDArray[np.float32]"]


def tensor_regions(path: Path, data: bytes, format: Format) -> list[Region]:
    """(offset, tensor) in the order of the file; none of a format whose files say nothing of it (Paddle Lite), or of a program."""
    if format is Format.ONNX:
        return _of_onnx(path, data)
    return _of_params(path, data) if path.suffix == ".pdiparams" else []


def _of_params(path: Path, data: bytes) -> list[Region]:
    whole = [each for each in stored_tensors(path) if each.nbytes == 4 * int(np.prod(each.shape)) and each.nbytes >= LEAST_BYTES]
    return [(each.offset, np.frombuffer(data, np.float32, each.nbytes // 4, each.offset).reshape(each.shape)) for each in whole]


def _of_onnx(path: Path, data: bytes) -> list[Region]:
    """The initializers' raw data, found by their bytes: protobuf does not tell where a field stood."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise BadInput(f"{path}: not an ONNX file: {error}", hint="export it again") from error
    found, end = [], 0
    for tensor in model.graph.initializer:
        whole = tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.raw_data) == 4 * math.prod(tensor.dims)
        if not whole or len(tensor.raw_data) < LEAST_BYTES:
            continue
        at = data.find(tensor.raw_data, end)
        if at >= 0:
            end = at + len(tensor.raw_data)
            found.append((at, np.frombuffer(tensor.raw_data, np.float32).reshape(tuple(tensor.dims))))
    return found
