"""Which layers hurt most in int8: each alone is quantized, and the error of the outputs measured. Runs in a child (`edge.jobs`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.export.calibrate import read_ranges
from edge.export.quantize import quantize_onnx

#: Samples of the calibration data that every layer is tried on.
SAMPLES = 32


def rank_layers(model: str, ranges: str, inputs: dict[str, str], signed: bool, full_range: bool, scratch: str, progress: Any) -> list[str]:
    """Weights of all quantizable layers, the one whose quantization alone changes the outputs most first.

    The error is the mean square of the difference over that of the outputs, summed over the outputs.
    """
    import onnxruntime

    layers = list(read_ranges(ranges).layers)
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False)[:SAMPLES] for name, path in inputs.items()}
    count = len(next(iter(arrays.values())))

    def run(path: str) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        rows = [session.run(None, {name: np.ascontiguousarray(a[i : i + 1]) for name, a in arrays.items()}) for i in range(count)]
        return [np.concatenate([row[index] for row in rows]).astype(np.float64) for index in range(len(rows[0]))]

    exact = run(model)
    errors = {}
    for number, layer in enumerate(layers):
        trial = str(Path(scratch, "trial.onnx"))
        quantize_onnx(model, ranges, [other for other in layers if other != layer], signed, full_range, trial, progress)
        errors[layer] = sum(float(np.mean((a - b) ** 2) / max(float(np.mean(a**2)), 1e-30)) for a, b in zip(exact, run(trial), strict=True))
        progress(number + 1, len(layers), "rank layers")
    return sorted(layers, key=lambda layer: -errors[layer])
