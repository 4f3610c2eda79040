"""Post-training quantization to int8 from one set of ranges (`edge.export.calibrate`), by the toolchain's own quantizers.

By default no artifact depends on which x86 it meets. On processors without VNNI the products of an unsigned and a signed byte are added in
pairs in 16 bits and saturate (onnxruntime documentation, "Quantize ONNX models", When to use reduce-range). One of the two must give up a bit:

=================  ==============================================================================================================
ONNX               weights use 7 bits (``reduce_range``)
Paddle Lite        weights use 7 bits
Paddle Inference   oneDNN re-quantizes the weights to 8 bits whatever is stored, so unsigned activations use 7; where an activation is
                   signed, oneDNN halves a convolution's weights itself, and a linear layer adds up wrongly: it stays float, with its
                   weight stored as int8
=================  ==============================================================================================================

``full_range`` uses all 8 bits of everything: for processors with VNNI, and for ARM. Functions with a ``progress`` argument run in a child
(`edge.jobs`), the Paddle ones with ``FLAGS_enable_pir_api=0``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.errors import ConversionFailed, Unsupported
from edge.export.calibrate import LAYERS, Ranges, read_ranges
from edge.export.repairs.graph import index_of, is_parameter, makers, readers, set_value, value, weight_of

Runtime = Literal["paddle-inference", "lite-arm", "lite-x86"]
CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
LINEAR = ("mul", "matmul", "matmul_v2")
#: oneDNN carries the sign of an activation through these.
CARRIERS = (
    "quantize_linear",
    "dequantize_linear",
    "pool2d",
    "reshape2",
    "transpose2",
    "flatten_contiguous_range",
    "relu",
    "relu6",
    "split",
    "slice",
    "nearest_interp",
    "nearest_interp_v2",
)
UNSIGNED = ("relu", "relu6")


def quantize_program(
    program: str,
    ranges: str,
    largest: str | None,
    samples: dict[str, str],
    runtime: Runtime,
    float_layers: list[str],
    full_range: bool,
    out: str,
    progress: Any,
) -> dict[str, int]:
    """Static quantization of the legacy program in folder ``program``, written as ``out/model.pdmodel`` and ``.pdiparams``.

    Paddle's own quantizer inserts the operators and stores the weights as int8 per output channel; the scales are then set: those of the layers
    from ``ranges``, those of what lies between them from ``largest``.

    Args:
        largest: activation -> largest magnitude, of `edge.export.calibrate.observe_program`; None where the runtime quantizes the layers only.
        samples: input -> its samples, .npy [N, ...]; the first makes the program run.
        float_layers: weights of the layers that stay float.

    Returns:
        quantized: layers with int8 weights and activations. weight_only: layers with int8 weights that compute in float.
    """
    import paddle

    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    graph, _, _ = paddle.static.load_inference_model(f"{program}/model", executor)
    scope = paddle.static.global_scope()
    found = read_ranges(ranges)
    layers = {weight: op for block in graph.blocks for op in block.ops if (weight := weight_of(graph, op)) and op.type in (*CONVOLUTIONS, *LINEAR)}
    feed = {name: np.ascontiguousarray(np.load(path, mmap_mode="r", allow_pickle=False)[:1]) for name, path in samples.items()}
    between = json.loads(Path(largest).read_text()) if largest else {}
    elements = _elements(executor, graph, layers, feed) if runtime == "lite-x86" else {}
    skipped = {weight for weight, op in layers.items() if _stays_float(graph, op, weight, runtime, found, float_layers, elements)}
    originals = {weight: value(scope, weight) for weight in layers.keys() - skipped}
    if not originals:
        raise Unsupported("no layer of the model has int8 kernels in this runtime")
    quantizer = _inserted(executor, program, feed, sorted(skipped))
    counts = _set_scales(quantizer._program, quantizer._scope, originals, found, between, runtime, full_range)
    Path(out).mkdir(parents=True, exist_ok=True)
    if runtime == "paddle-inference":
        quantizer.save_quantized_model(out, model_filename="model.pdmodel", params_filename="model.pdiparams")
    else:
        # saved from memory with its extra attributes: without them, or loaded and saved again, it crashes Lite's opt on x86
        inputs = [quantizer._program.global_block().var(feed) for feed in quantizer._feed_list]
        paddle.static.save_inference_model(f"{out}/model", inputs, quantizer._fetch_list, executor, program=quantizer._program, clip_extra=False)
    if not Path(out, "model.pdmodel").stat().st_size:
        raise ConversionFailed("Paddle's quantizer wrote an empty program")
    return counts


def quantize_onnx(model: str, ranges: str, float_layers: list[str], signed: bool, full_range: bool, out: str, progress: Any) -> int:
    """Static QDQ by onnxruntime's quantizer: weights signed with a scale per output channel, activations unsigned, or ``signed``.

    Args:
        float_layers: weights of the layers that stay float.

    Returns:
        Size of ``out`` in bytes.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    graph = onnx.load(model)
    found = read_ranges(ranges)
    tensors = {name: (np.float32(low), np.float32(high)) for name, (low, high) in found.tensors.items()}
    excluded = [node.name for node in graph.graph.node if len(node.input) > 1 and node.input[1] in set(float_layers)]
    quantizer = QDQQuantizer(
        graph,
        per_channel=True,
        reduce_range=not full_range,  # signed activations too: onnxruntime makes them unsigned on x86
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, tensors),
        nodes_to_quantize=[],
        nodes_to_exclude=excluded,
        op_types_to_quantize=list({*QDQRegistry, *QLinearOpsRegistry}),
        # a relu that the quantizer folds into a scale is lost when a float layer behind it reads what was not quantized
        extra_options={"ActivationSymmetric": signed, "WeightSymmetric": True, "QDQKeepRemovableActivations": bool(excluded)},
    )
    quantizer.quantize_model()
    _unquantize_inputs(quantizer.model.model.graph, set(excluded))
    quantizer.model.save_model_to_file(out, False)
    return Path(out).stat().st_size


def _unquantize_inputs(graph: Any, names: set[str]) -> None:
    """The nodes named, layers that stay float, read what was not quantized, up to the layers before them. Then what nobody reads goes.

    A layer all of whose readers stay float gives a float result, and onnxruntime computes it in float from its int8 weight.
    """
    made = {output: node for node in graph.node for output in node.output}
    nodes = [node for node in graph.node if node.name in names]
    seen: set[str] = set()
    while nodes:
        node = nodes.pop()
        if node.output[0] in seen:
            continue
        seen.add(node.output[0])
        for index, name in enumerate(node.input):
            decoder = made.get(name)
            encoder = made.get(decoder.input[0]) if decoder is not None and decoder.op_type == "DequantizeLinear" else None
            if encoder is not None and encoder.op_type == "QuantizeLinear":
                node.input[index] = encoder.input[0]
            before = made.get(node.input[index])
            if before is not None and before.op_type not in (*LAYERS, "DequantizeLinear"):
                nodes.append(before)
    _drop_unread_nodes(graph)


def _drop_unread_nodes(graph: Any) -> None:
    kept = {tensor.name for tensor in graph.output}
    while True:
        read = kept | {name for node in graph.node for name in node.input}
        unread = [node for node in graph.node if not any(output in read for output in node.output)]
        if not unread:
            return
        for node in unread:
            graph.node.remove(node)


def _stays_float(graph: Any, op: Any, weight: str, runtime: Runtime, ranges: Ranges, float_layers: list[str], elements: dict[str, int]) -> bool:
    if weight in float_layers or ranges.of_layer(weight) is None:
        return True
    return runtime == "lite-x86" and _lite_x86_computes_wrongly(graph, op, elements)


def _lite_x86_computes_wrongly(graph: Any, op: Any, elements: dict[str, int]) -> bool:
    """What int8 kernels of Paddle Lite 2.13rc0 on x86 get wrong, each seen against the same program in Paddle's executor.

    A linear layer gives NaN or crashes. Of an activation whose size is not a multiple of 32 the last codes stay uninitialised (its size for one
    sample is looked at, so that the rule holds for any batch). A convolution in groups without a bias of its channels reads past a null pointer.
    opt folds hard_swish into the convolution before it, and the int8 kernel leaves it out; of leaky_relu it scales the slope where the result
    is int8.
    """
    if op.type in LINEAR or elements[op.input("Input")[0]] % 32:
        return True
    biased, after = _folded(graph, op)
    if op.attr("groups") > 1 and not biased:
        return True
    if after is not None and after.type == "leaky_relu":
        return any(reader.type in CONVOLUTIONS for reader in readers(graph, after.output("Out")[0]))
    return after is not None and after.type == "hard_swish"


def _folded(graph: Any, op: Any) -> tuple[bool, Any]:
    """Whether opt folds a bias into the convolution, and the operator behind it (None where the result has several readers)."""
    following = readers(graph, op.output("Output")[0])
    biased = len(following) == 1 and following[0].type == "elementwise_add" and _is_bias(graph, following[0], op)
    if biased:
        following = readers(graph, following[0].output("Out")[0])
    return biased, following[0] if len(following) == 1 else None


def _is_bias(graph: Any, addition: Any, op: Any) -> bool:
    name, channels = addition.input("Y")[0], graph.global_block().var(op.input("Filter")[0]).shape[0]
    return addition.attr("axis") == 1 and is_parameter(graph, name) and tuple(graph.global_block().var(name).shape) == (channels,)


def _elements(executor: Any, graph: Any, layers: dict[str, Any], feed: dict[str, np.ndarray]) -> dict[str, int]:
    """Elements of each activation that a convolution reads, for the one sample in ``feed``."""
    names = sorted({op.input("Input")[0] for op in layers.values() if op.type in CONVOLUTIONS})
    probe = graph.clone()
    for op in [op for op in probe.global_block().ops if op.type == "fetch"]:
        probe.global_block()._remove_op(index_of(probe.global_block(), op))
    return {name: array.size for name, array in zip(names, executor.run(probe, feed=feed, fetch_list=names), strict=True)} if names else {}


def _inserted(executor: Any, program: str, feed: dict[str, np.ndarray], skipped: list[str]) -> Any:
    """The quantizer after its work, with scales of its own from one sample: all of them are set anew."""
    from paddle.static.quantization import PostTrainingQuantization

    quantizer = PostTrainingQuantization(
        executor,
        model_dir=program,
        model_filename="model.pdmodel",
        params_filename="model.pdiparams",
        data_loader=lambda: iter([feed]),
        batch_nums=1,
        algo="abs_max",
        onnx_format=True,
        is_full_quantize=False,
        quantizable_op_type=[*CONVOLUTIONS, *LINEAR],
        skip_tensor_list=skipped,
    )
    quantizer.quantize()
    return quantizer


def _set_scales(
    graph: Any,
    scope: Any,
    originals: dict[str, np.ndarray],
    ranges: Ranges,
    between: dict[str, float],
    runtime: Runtime,
    full_range: bool,
) -> dict[str, int]:
    """Put the observed scales where the quantizer has put its own. A scale here is the largest value, that of code 127.

    Paddle Lite needs the layers' inputs quantized and nothing else. oneDNN needs a scale for what lies between the layers too (additions, pools):
    without it fewer layers run in int8, and wrongly (the PP-OCR classifier fell from a cosine of 0.999 to 0.90).
    """
    counts = {"quantized": 0, "weight_only": 0}
    block = graph.global_block()
    one_bit_less = not full_range and runtime == "paddle-inference"
    made = makers(block)
    if runtime == "paddle-inference":
        _set_scales_between(scope, block, between)
    inputs: set[str] = set()
    for weight, original in originals.items():
        decoded = next(op for op in readers(graph, weight) if op.type == "dequantize_linear")
        _store_weight(scope, weight, decoded, original, levels=127 if full_range or runtime == "paddle-inference" else 64)
        low, high = ranges.tensors[ranges.layers[weight]]
        for layer in readers(graph, decoded.output("Y")[0]):
            activation = next(name for name in layer.input_arg_names if name != decoded.output("Y")[0])
            unsigned = _unsigned(made, activation)
            if one_bit_less and layer.type in LINEAR and not unsigned:
                counts["weight_only"] += 1
                continue
            _set_scale(scope, made[activation], max(abs(low), abs(high)) * (2 if one_bit_less and unsigned else 1))
            inputs.add(activation)
            counts["quantized"] += 1
    signed = _signed_linear_inputs(block, made) if one_bit_less else set()
    spared = _read_by_float_layers(graph, block, made) | signed
    for activation in sorted(_quantized_activations(block, made)):
        stays = activation not in spared and (runtime == "paddle-inference" or activation in inputs)
        for reader in readers(graph, activation):
            computes_in_float = activation in signed and reader.type in LINEAR
            if computes_in_float or not (stays or _is_int8_layer(made, reader)):
                # it reads what the quantized activation was made from
                reader._rename_input(activation, made[made[activation].input("X")[0]].input("X")[0])
    _drop_unread(graph, block)
    return counts


def _set_scales_between(scope: Any, block: Any, largest: dict[str, float]) -> None:
    for op in block.ops:
        if op.type == "quantize_linear":
            name = op.input("X")[0]
            if name not in largest:
                raise ConversionFailed(f"Paddle's quantizer quantizes {name}, an activation that the calibration has not seen")
            _set_scale(scope, op, largest[name])


def _set_scale(scope: Any, op: Any, largest: float) -> None:
    scale = op.input("Scale")[0]
    set_value(scope, scale, np.full(value(scope, scale).shape, largest or 1.0, np.float32))


def _quantized_activations(block: Any, made: dict[str, Any]) -> set[str]:
    return {op.output("Y")[0] for op in block.ops if op.type == "dequantize_linear" and op.input("X")[0] in made}


def _signed_linear_inputs(block: Any, made: dict[str, Any]) -> set[str]:
    """Activations that a matrix product reads as signed: of two activations too (attention)."""
    return {name for op in block.ops if op.type in LINEAR for name in op.input_arg_names if not _unsigned(made, name)}


def _is_int8_layer(made: dict[str, Any], op: Any) -> bool:
    """One whose weight is decoded from int8: what it reads stays quantized, whoever else reads it in float."""
    decoders = [made[name] for name in op.input_arg_names if name in made and made[name].type == "dequantize_linear"]
    return op.type in (*CONVOLUTIONS, *LINEAR) and any(decoder.input("X")[0] not in made for decoder in decoders)


def _read_by_float_layers(graph: Any, block: Any, made: dict[str, Any]) -> set[str]:
    """Quantized activations between a layer that stays float and the layers before it: it is to read what was not quantized."""
    found: set[str] = set()
    names = [name for op in block.ops if weight_of(graph, op) for name in op.input_arg_names]
    while names:
        name = names.pop()
        op = made.get(name)
        if op is None or name in found or op.type in (*CONVOLUTIONS, *LINEAR):
            continue
        found.add(name)
        names += op.input_arg_names
    return found


def _store_weight(scope: Any, weight: str, decoded: Any, original: np.ndarray, levels: int) -> None:
    """Codes round(w / largest of its channel * levels), and the scale that decodes them."""
    axis = decoded.attr("quant_axis")
    others = tuple(other for other in range(original.ndim) if other != axis)
    largest = np.abs(original).max(axis=others, keepdims=True)
    largest[largest == 0] = 1.0
    stored = value(scope, weight)
    set_value(scope, weight, np.rint(original / largest * levels).astype(stored.dtype))
    set_value(scope, decoded.input("Scale")[0], (largest.ravel() * 127 / levels).astype(np.float32))


def _unsigned(made: dict[str, Any], name: str) -> bool:
    """Whether oneDNN will treat the activation as unsigned: it comes from a relu, through operators that keep its sign."""
    while name in made:
        op = made[name]
        if op.type in UNSIGNED:
            return True
        if op.type not in CARRIERS:
            return False
        name = op.input("X" if "X" in op.input_names else "Input")[0]
    return False


def _drop_unread(graph: Any, block: Any) -> None:
    """Remove quantize and dequantize operators whose output nothing reads any more."""
    while True:
        unread = [op for op in block.ops if op.type.endswith("quantize_linear") and not readers(graph, op.output("Y")[0])]
        if not unread:
            return
        for op in unread:
            block._remove_op(index_of(block, op))
