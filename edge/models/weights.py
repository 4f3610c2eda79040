"""Weights in safetensors: no code runs when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import BadInput
from edge.files import write_atomic

if TYPE_CHECKING:
    from paddle import nn


def save_weights(layer: nn.Layer, path: Path) -> None:
    from safetensors.numpy import save

    write_atomic(path, save({name: np.ascontiguousarray(value.numpy()) for name, value in layer.state_dict().items()}))


def load_weights(layer: nn.Layer, path: Path) -> None:
    """Fill ``layer`` from a safetensors file; every parameter must be there with its shape, and be finite.

    Raises:
        BadInput: the file is not safetensors, or does not fit the layer, or holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such weights file") from None
    except (SafetensorError, OSError, KeyError) as error:
        raise BadInput(f"{path}: not a readable safetensors file: {error}") from error
    wanted = layer.state_dict()
    if wrong := sorted(wanted.keys() ^ arrays.keys()):
        raise BadInput(f"{path}: the weights do not fit the model: {', '.join(wrong[:4])} on one side only")
    for name, value in wanted.items():
        if list(arrays[name].shape) != list(value.shape):
            raise BadInput(f"{path}: {name} has shape {list(arrays[name].shape)}, the model needs {list(value.shape)}")
        if not np.isfinite(arrays[name]).all():
            raise BadInput(f"{path}: {name} holds NaN or infinity")
    layer.set_state_dict(arrays)
