"""A metric of the user's own, ``module:function``: a detector is judged as a detector."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import BadInput, CheckFailed


@dataclass(frozen=True)
class Metric:
    """``function(outputs, inputs, labels) -> float``: lists of arrays [N, ...], labels [N] or None. ``name`` is what the user typed."""

    name: str
    function: Callable[..., Any]


def load_metric(name: str) -> Metric:
    """Import the function from the folder where the command was typed, or from the environment. This runs the user's code.

    Raises:
        BadInput: it cannot be imported or is no function.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise BadInput(f"metric {name!r}: not of the form MODULE:FUNCTION")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise BadInput(f"metric {name!r}: {_said(error)}") from error
    if not callable(function):
        raise BadInput(f"metric {name!r}: {attribute} is no function")
    return Metric(name, function)


def score(metric: Metric, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], labels: np.ndarray | None) -> float:
    """The metric's value.

    Raises:
        CheckFailed: the function fails, or returns no finite number.
    """
    try:
        value = float(metric.function(list(outputs), list(inputs), labels))
    except Exception as error:
        raise CheckFailed(f"metric {metric.name!r} failed: {_said(error)}") from error
    if not np.isfinite(value):
        raise CheckFailed(f"metric {metric.name!r} returned {value}")
    return value


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
