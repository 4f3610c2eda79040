"""Post-training quantization to int8, by the toolchain's own quantizers, from one set of calibration samples.

Weights use 7 of their 8 bits. On x86 processors without VNNI the product of an unsigned and a signed byte is summed in pairs
in 16 bits and saturates: with full-range weights a small convolution net lost 2.5 % of its agreement on AVX2, with half the
range 0.3 % (onnxruntime documentation, "Quantize ONNX models", When to use reduce-range). An artifact must not depend on
which x86 it meets. (One net, 360 images; what the lost bit costs on processors with VNNI or on ARM was not measured.)

Functions here run in a child (`edge.jobs`), the Paddle ones with ``FLAGS_enable_pir_api=0``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import ConversionFailed

#: Calibration samples are fed in batches of this size.
BATCH = 32
#: Operators that Paddle's quantizer may touch. Paddle Lite on x86 gets convolutions only: its quantized Linear is broken there
#: (NaN, or a crash). So is a convolution with an odd number of input channels: its int8 kernel for AVX2 reads uninitialised
#: memory, and the outputs differ from one process to the next (seen with 1, 3 and 7 channels, not with 2, 4, 6, 8 and 16).
SCOPES = {"all": ["conv2d", "depthwise_conv2d", "mul", "matmul", "matmul_v2"], "convolutions": ["conv2d", "depthwise_conv2d"]}


def quantize_program(program: str, samples: str, scope: str, out: str, progress: Any) -> dict[str, int]:
    """Static PTQ of the legacy program in folder ``program``, written twice.

    ``out/stored``: weights stored as int8, for Paddle Inference. ``out/lite``: the same program with its extra attributes,
    saved from memory (a saved one that is loaded again crashes Lite's opt on x86).

    Args:
        samples: calibration inputs, .npy [N, ...] float32.
        scope: a key of `SCOPES`.
    """
    import paddle
    from paddle.static.quantization import PostTrainingQuantization

    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    inputs = np.load(samples, allow_pickle=False)
    graph, (name, *_), _ = paddle.static.load_inference_model(f"{program}/model", executor)
    skipped = _odd_filters(graph) if scope == "convolutions" else []
    quantizer = PostTrainingQuantization(
        executor,
        model_dir=program,
        model_filename="model.pdmodel",
        params_filename="model.pdiparams",
        data_loader=lambda: ({name: batch} for batch in batches(inputs)),
        batch_nums=len(inputs) // BATCH,
        algo="abs_max",
        onnx_format=True,
        is_full_quantize=False,
        quantizable_op_type=SCOPES[scope],
        skip_tensor_list=skipped,
    )
    quantizer.quantize()
    _halve_weights(quantizer._program, quantizer._scope)
    quantizer.save_quantized_model(f"{out}/stored", model_filename="model.pdmodel", params_filename="model.pdiparams")
    Path(out, "lite").mkdir(parents=True, exist_ok=True)
    quantized = quantizer._program
    feeds = [quantized.global_block().var(feed) for feed in quantizer._feed_list]
    paddle.static.save_inference_model(f"{out}/lite/model", feeds, quantizer._fetch_list, executor, program=quantized, clip_extra=False)
    written = {part: Path(out, part, "model.pdmodel").stat().st_size for part in ("stored", "lite")}
    if not all(written.values()):
        raise ConversionFailed(f"Paddle's quantizer wrote an empty program: {written}")
    return written


def _halve_weights(graph: Any, scope: Any) -> None:
    """Stored weights q * scale become round(q / 2) * (2 scale)."""
    import paddle

    for op in graph.global_block().ops:
        if op.type == "dequantize_linear" and graph.global_block().var(op.input("X")[0]).persistable:
            weight, scale = (scope.find_var(op.input(name)[0]).get_tensor() for name in ("X", "Scale"))
            quantized = np.asarray(weight)
            weight.set(np.rint(quantized / 2).astype(quantized.dtype), paddle.CPUPlace())
            scale.set(np.asarray(scale) * 2, paddle.CPUPlace())


def _odd_filters(graph: Any) -> list[str]:
    """Names of the convolution weights [out, in, height, width] with an odd number of input channels."""
    block = graph.global_block()
    filters = [op.input("Filter")[0] for op in block.ops if op.type == "conv2d"]
    return [name for name in filters if block.var(name).shape[1] % 2]


def quantize_onnx(model: str, samples: str, out: str, progress: Any) -> int:
    """Static QDQ: unsigned activations, signed weights with a scale per output channel (onnxruntime's quantizer)."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = onnx.load(model, load_external_data=False).graph.input[0].name
    inputs = np.load(samples, allow_pickle=False)

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = ({name: batch} for batch in batches(inputs))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    quantize_static(
        model,
        out,
        Samples(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    return Path(out).stat().st_size


def batches(inputs: np.ndarray) -> Iterator[np.ndarray]:
    """Whole batches of `BATCH` samples; the rest is left out, as every batch must weigh the same in an average."""
    for start in range(0, len(inputs) - BATCH + 1, BATCH):
        yield inputs[start : start + BATCH]
