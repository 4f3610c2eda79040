"""One calibration for all formats: the range of every activation, observed once on the fp32 ONNX graph.

paddle2onnx keeps the names of weights and renames activations, so a range travels to the Paddle formats by the weight of the operator that it
feeds (`Ranges.of_layer`). Functions with a ``progress`` argument run in a child (`edge.jobs`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edge.errors import ConversionFailed
from edge.vocabulary import Frozen

Method = Literal["minmax", "percentile", "entropy", "mse"]
#: Share of the values that the percentile method keeps, in % (onnxruntime's default).
PERCENTILE = 99.999
BINS = 2048
#: Samples that `observe_program` looks at.
LARGEST_SAMPLES = 64
#: Operators with a weight that int8 kernels exist for.
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Ranges(Frozen):
    """Observed ranges.

    Attributes:
        tensors: activation of the ONNX graph -> (lowest, highest).
        layers: weight -> the activation that its operator reads.
    """

    method: Method
    samples: int = Field(ge=1)
    tensors: dict[str, tuple[float, float]]
    layers: dict[str, str]

    def of_layer(self, weight: str) -> tuple[float, float] | None:
        """Range of what the operator with this weight reads; None where the calibration has not seen it."""
        name = self.layers.get(weight)
        return None if name is None else self.tensors.get(name)


def read_ranges(path: str | Path) -> Ranges:
    return Ranges.model_validate_json(Path(path).read_bytes())


def observe(model: str, inputs: dict[str, str], method: Method, out: str, progress: Any) -> int:
    """Run the calibration samples through the graph and write `Ranges` to ``out``; returns the number of tensors.

    minmax: the extremes. percentile: what holds 99.999 % of the values. entropy: least Kullback-Leibler divergence between the histogram and its
    quantized form (Migacz 2017, "8-bit Inference with TensorRT"). These are onnxruntime's calibrators. mse: see `least_squares_range`.

    Args:
        inputs: input of the graph -> its samples, .npy [N, ...].
    """
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in inputs.items()}
    calibrator = _calibrator(model, method, str(Path(out).with_suffix(".augmented.onnx")))
    count, batch = len(next(iter(arrays.values()))), _batch_size(list(arrays.values()))
    for start in range(0, count, batch):
        calibrator.collect_data(_Reader({name: np.ascontiguousarray(a[start : start + batch]) for name, a in arrays.items()}))
        progress(min(count, start + batch), count, f"calibrate ({method})")
    if method == "mse":
        histograms = calibrator.collector.get_histogram_dict()
        tensors = {name: least_squares_range(*values[:4]) for name, values in histograms.items()}
    else:
        tensors = {name: _bounds(data) for name, data in calibrator.compute_data().items()}
    ranges = Ranges(method=method, samples=count, tensors=tensors, layers=_layers(graph))
    Path(out).write_text(ranges.model_dump_json())
    return len(tensors)


def observe_program(program: str, samples: dict[str, str], out: str, progress: Any) -> int:
    """Largest magnitude of each activation that an operator of the legacy program reads, as JSON to ``out``; returns their number.

    For what only Paddle's program names: oneDNN needs a scale for what lies between the layers too. The maxima are taken inside the program,
    so that no activation outlives its readers. Needs FLAGS_enable_pir_api=0.

    Args:
        program: folder of ``model.pdmodel`` and its parameters.
        samples: input -> its samples, .npy [N, ...].
    """
    import paddle

    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    graph, feeds, _ = paddle.static.load_inference_model(f"{program}/model", executor)
    block = graph.global_block()
    read = {name for op in block.ops for name in op.input_arg_names}
    made = {name for op in block.ops if op.type not in ("feed", "fetch") for name in op.output_arg_names} | set(feeds)
    names = sorted(name for name in read & made if block.vars[name].dtype == paddle.float32 and not block.vars[name].persistable)
    maxima = [_append_maximum(block, block.vars[name]) for name in names]
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False)[:LARGEST_SAMPLES] for name, path in samples.items()}
    count, batch = len(next(iter(arrays.values()))), _batch_size(list(arrays.values()))
    largest = np.zeros(len(names))
    for start in range(0, count, batch):
        feed = {name: np.ascontiguousarray(a[start : start + batch]) for name, a in arrays.items()}
        largest = np.maximum(largest, [float(found) for found in executor.run(graph, feed=feed, fetch_list=maxima)])
        progress(min(count, start + batch), count, "calibrate (program)")
    Path(out).write_text(json.dumps(dict(zip(names, largest, strict=True))))
    return len(names)


def _append_maximum(block: Any, variable: Any) -> Any:
    """A variable with the largest magnitude of another. (In a loaded legacy program Paddle's Python API appends no operator.)"""
    magnitude = block.create_var(name=f"{variable.name}.magnitude", dtype=variable.dtype, shape=variable.shape)
    largest = block.create_var(name=f"{variable.name}.largest", dtype=variable.dtype, shape=[])
    block.append_op(type="abs", inputs={"X": [variable]}, outputs={"Out": [magnitude]})
    block.append_op(type="reduce_max", inputs={"X": [magnitude]}, outputs={"Out": [largest]}, attrs={"reduce_all": True, "dim": [0]})
    return largest


def least_squares_range(
    histogram: np.ndarray, edges: np.ndarray, lowest: float, highest: float, levels: int = 256, candidates: int = 100
) -> tuple[float, float]:
    """The range, among ``candidates`` shrunken ones, that loses least in the mean of squares when quantized to ``levels`` uniform steps.

    Within the range the error is that of rounding, step squared / 12; beyond it the distance to the bound
    (Shin, Hwang, Sung 2016; the histogram form is that of Banner et al. 2019, "Post training 4-bit quantization", section 2).

    Args:
        histogram: [bins] counts. edges: [bins + 1]. lowest, highest: the extremes that were seen.
    """
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(float(lowest), 0.0), max(float(highest), 0.0)
    best, kept = np.inf, (low, high)
    for share in np.linspace(1.0, 0.1, candidates):
        a, b = low * share, high * share
        step = max(b - a, 1e-12) / (levels - 1)
        beyond = np.clip(a - centres, 0, None) + np.clip(centres - b, 0, None)
        error = float(np.sum(histogram * np.where(beyond > 0, beyond**2, step**2 / 12)))
        if error < best:
            best, kept = error, (a, b)
    return kept


def _calibrator(model: str, method: Method, augmented: str) -> Any:
    from onnxruntime.quantization import calibrate
    from onnxruntime.quantization.calibrate import CalibrationMethod

    kinds = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    # the entropy calibrator's histograms are of the values themselves, the percentile one's of their magnitudes
    kind = kinds.get(method, CalibrationMethod.Entropy)
    settings: dict[str, dict[str, Any]] = {"percentile": {"num_bins": BINS, "percentile": PERCENTILE}, "mse": {"num_bins": BINS}}
    return calibrate.create_calibrator(
        Path(model), None, augmented_model_path=augmented, calibrate_method=kind, extra_options=settings.get(method, {})
    )


class _Reader:
    """One batch: the histogram calibrators keep every activation of what they read in one go."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.feeds = iter([feed])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _batch_size(arrays: list[np.ndarray]) -> int:
    """As many samples as fit 4 MiB of input, 1 to 64: all activations of a batch are in memory at once."""
    each = sum(array[:1].nbytes for array in arrays)
    return int(np.clip((4 << 20) // max(each, 1), 1, 64))


def _bounds(data: Any) -> tuple[float, float]:
    low, high = (float(np.ravel(bound)[0]) for bound in data.range_value)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ConversionFailed("calibration met NaN or infinity in an activation")
    return low, high


def _layers(graph: Any) -> dict[str, str]:
    weights = {tensor.name for tensor in graph.initializer}
    return {node.input[1]: node.input[0] for node in graph.node if node.op_type in LAYERS and node.input[1] in weights}


def ranges_of_layers(ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Weight -> range of the activation it multiplies: what a manifest records."""
    return {weight: found for weight in ranges.layers if (found := ranges.of_layer(weight))}
