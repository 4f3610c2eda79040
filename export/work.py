"""The work of one inference, counted from the fp32 ONNX graph: multiplications with an addition, and elements read and written.

It is the work of the graph as it stands, one operator after another. Runtimes fuse operators (a relu moves nothing then) and may multiply less
(Winograd). Functions with a ``progress`` argument run in a child (`edge.jobs`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from edge.artifact import LayerWork, Work
from edge.errors import Unsupported
from edge.export.calibrate import LAYERS

RECURRENT = ("LSTM", "GRU", "RNN")
#: The same elements under another shape, or the shape alone: nothing is moved.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"})
#: They read as many elements as they write, whatever they choose from.
SELECTIONS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
#: A model of more layers is not counted: its manifest would grow beyond `edge.artifact.MAX_MANIFEST`.
MAX_LAYERS = 2000

#: A constant of more elements is a weight and no shape.
SHAPE_ELEMENTS = 1024

Shapes = dict[str, tuple[int, ...]]


def count(model: str, inputs: dict[str, str], progress: Any) -> dict[str, Any]:
    """Job: the work for the first sample, `edge.artifact.Work` as JSON values.

    Weights are constants of float32 with at least one side; a scalar counts nothing, and neither do other constants (shapes, axes).

    Args:
        inputs: input of the graph -> its samples, .npy [N, ...].

    Raises:
        Unsupported: a graph inside an operator (a loop, a branch), whose work the data decide; more than `MAX_LAYERS` layers.
    """
    import onnx

    loaded = onnx.load(model)
    graph = loaded.graph
    if nested := sorted({node.op_type for node in graph.node for attribute in node.attribute if attribute.HasField("g") or attribute.graphs}):
        raise Unsupported(f"the work of a model with {', '.join(nested)} is not counted: the data decide how often it runs")
    constants: Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims}
    nodes = [node for node in graph.node if node.op_type not in VIEWS]
    sample = {name: np.load(path, mmap_mode="r", allow_pickle=False)[:1] for name, path in inputs.items()}
    tensors = {name for node in graph.node for name in (*node.input, *node.output) if name} - constants.keys()
    shapes = constants | (_inferred_shapes(loaded, tensors, sample) or _shapes_that_came(onnx.load(model), sorted(tensors), sample))
    works = [_work(node, shapes, constants, weights) for node in nodes]
    layers = tuple(work for work in works if work.kind in (*LAYERS, *RECURRENT))
    if len(layers) > MAX_LAYERS:
        raise Unsupported(f"the work of a model with more than {MAX_LAYERS} layers is not counted, this one has {len(layers)}")
    return Work(
        macs=sum(work.macs for work in layers),
        weight_elements=sum(work.weight_elements for work in works),
        activation_elements=sum(work.input_elements + work.output_elements for work in works),
        layers=layers,
    ).model_dump(mode="json")


def _work(node: Any, shapes: Shapes, constants: Shapes, weights: set[str]) -> LayerWork:
    """Of any operator; only a layer has multiplications that count."""
    written = sum(prod(shapes[name]) for name in node.output if name)

    def read(wanted: Callable[[str], bool]) -> int:
        sizes = [prod(shapes[name]) for name in node.input if name and wanted(name)]
        return sum(min(size, written) for size in sizes) if node.op_type in SELECTIONS else sum(sizes)

    return LayerWork(
        name=next((name for name in reversed(node.input[:2]) if name in constants), node.name or node.output[0]),
        kind=node.op_type,
        macs=_macs(node, shapes),
        weight_elements=read(lambda name: name in weights),
        input_elements=read(lambda name: name not in constants),
        output_elements=written,
    )


def _macs(node: Any, shapes: Shapes) -> int:
    """Multiplications that each go with an addition. Those of a bias are not counted, as in the papers; 0 where the operator is no layer.

    Conv: weight [M, C / groups, *kernel]. ConvTranspose: weight [C, M / groups, *kernel], each input element with all of its channel's weights,
    also where the result is cropped. Recurrent layers: input [steps, N, C], and the weights of all gates and directions in each step.
    """
    if node.op_type not in (*LAYERS, *RECURRENT):
        return 0
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    if node.op_type in RECURRENT:
        return prod(first[:-1]) * (prod(second) + prod(shapes[node.input[2]]))
    if node.op_type == "ConvTranspose":
        return prod(first) * prod(second[1:])
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(shapes[node.output[0]]) * first[0 if transposed else -1]


def _inferred_shapes(model: Any, tensors: set[str], sample: dict[str, np.ndarray]) -> Shapes | None:
    """Tensor -> its shape for one sample, worked out from the sample's; None where that leaves one open. ``model`` is changed."""
    import onnx

    _set_sides(model, sample)
    graph = model.graph
    # the values of weights decide no shape, and make the graph large; small constants may be shapes
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer if _is_large(tensor)
    )
    kept = [copy.deepcopy(tensor) for tensor in graph.initializer if not _is_large(tensor)]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {
        tensor.name: tuple(side.dim_value for side in tensor.type.tensor_type.shape.dim)
        for tensor in (*inferred.input, *inferred.value_info, *inferred.output)
        if tensor.type.tensor_type.HasField("shape") and all(side.HasField("dim_value") for side in tensor.type.tensor_type.shape.dim)
    }
    return found if tensors <= found.keys() else None


def _is_large(tensor: Any) -> bool:
    return bool(prod(tensor.dims) > SHAPE_ELEMENTS)


def _shapes_that_came(model: Any, tensors: list[str], sample: dict[str, np.ndarray]) -> Shapes:
    """The same from running the graph, which gives the shapes and nothing else: no activation outlives its readers. ``model`` is changed."""
    import onnx
    import onnxruntime

    _set_sides(model, sample)
    model.graph.node.extend(onnx.helper.make_node("Shape", [name], [f"shape of {name}"]) for name in tensors)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(f"shape of {name}", onnx.TensorProto.INT64, None) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run([f"shape of {name}" for name in tensors], {name: np.ascontiguousarray(array) for name, array in sample.items()})
    return {name: tuple(map(int, shape)) for name, shape in zip(tensors, found, strict=True)}


def _set_sides(model: Any, sample: dict[str, np.ndarray]) -> None:
    """The inputs become as large as the sample; what else was known of shapes, with their open sides, is left out."""
    for tensor in model.graph.input:
        for side, size in zip(tensor.type.tensor_type.shape.dim, sample[tensor.name].shape, strict=True):
            side.dim_value = size
    for tensor in model.graph.output:
        tensor.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
