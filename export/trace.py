"""Where the layers of a program end, and what comes out of them: of a legacy program, a PIR program and an ONNX graph alike.

A layer is an operator that multiplies with a parameter, and has that parameter's name, which every converter keeps. It ends behind what
converters fold into it: sums and products with constants (the bias), and a batch norm. Functions with a ``progress`` argument run in a child
(`edge.jobs`): what they read may come from a stranger.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import BadInput
from edge.export.repairs.graph import WEIGHT_SLOT

MULTIPLIES = frozenset({*WEIGHT_SLOT, "Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Folded into the layer before them where every other operand is a constant.
FOLDED = frozenset(
    {"elementwise_add", "elementwise_mul", "scale", "batch_norm", "add", "multiply", "batch_norm_", "Add", "Mul", "BatchNormalization"}
)
QUANTIZE, DEQUANTIZE = ("quantize_linear", "QuantizeLinear"), ("dequantize_linear", "DequantizeLinear")
#: The same values in another type.
CARRIERS = frozenset({*QUANTIZE, *DEQUANTIZE, "cast", "Cast"})
#: Activations that a quantizer of ONNX graphs replaces by the bounds of the range behind them.
CLIPS = {"relu": "relu", "Relu": "relu", "relu6": "relu6", "Clip": "relu6"}
#: What onnxruntime puts before the name of a weight that it has folded a batch norm into, and its quantizer behind one.
_RENAMED = re.compile(r"^(?:Conv(?:Bn|BN|Mul)Fusion_(?:W_)?)*(.*?)(?:_quantized)?$")
#: Slots of a legacy operator in the order that `Op` promises.
_FIRST_SLOTS = ("Input", "X", "Filter", "Y", "W")
_OUTPUT_SLOTS = ("Output", "Out", "Y")


@dataclass(frozen=True)
class Op:
    """An operator: the activation first among its inputs, then the weight; the result first among its outputs."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """``parameters``: tensor -> name. ``outputs``: tensors that the program gives."""

    ops: tuple[Op, ...]
    parameters: dict[str, str]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """A layer of a graph.

    Attributes:
        name: of its weight; ``#2`` follows where the same weight is used a second time.
        end: tensor behind bias and batch norm.
        activation: ``relu`` or ``relu6`` where nothing else reads ``end``.
        decoded: tensor behind the pair that quantizes ``end`` and decodes it again, where there is one.
    """

    name: str
    kind: str
    end: str
    activation: str | None = None
    decoded: str | None = None

    @property
    def weight(self) -> str:
        return self.name.partition("#")[0]


def layers_of(graph: Graph) -> list[Layer]:
    """The layers in program order."""
    constants, seen = _constants(graph), Counter[str]()
    readers: dict[str, list[Op]] = defaultdict(list)
    for op in (*graph.ops, *(Op("fetch", (name,), ()) for name in graph.outputs)):
        for name in set(op.inputs):
            readers[name].append(op)

    def only_reader(name: str) -> Op | None:
        return readers[name][0] if len(readers[name]) == 1 else None

    layers = []
    for op in graph.ops:
        weight = constants.get(op.inputs[1]) if op.kind in MULTIPLIES and len(op.inputs) > 1 else None
        if weight and op.inputs[0] not in constants:
            seen[weight] += 1
            name = weight if seen[weight] == 1 else f"{weight}#{seen[weight]}"
            end = _end(op.outputs[0], only_reader, constants)
            layers.append(Layer(name, op.kind, end, _activation(end, only_reader), _decoded(end, only_reader)))
    return layers


def program_layers(program: str, params: str, inputs: dict[str, str], out: str, progress: Any) -> list[dict[str, Any]]:
    """Job: run a Paddle program over the samples in Paddle Inference without its graph passes, every layer's end and the outputs fetched.

    Args:
        inputs: input -> its samples, .npy [N, ...].

    Returns:
        The layers, `Layer`; ``out`` holds ``layer_I.npy`` and ``output_I.npy``, each [N, ...].
    """
    from edge.export.source import plain_predictor

    graph = read_program(Path(program))
    layers = layers_of(graph)
    wanted = [*(layer.end for layer in layers), *graph.outputs]
    tensors = list(dict.fromkeys(wanted))
    whole = Path(out, f"traced{Path(program).suffix}")
    whole.write_bytes(cut(Path(program), tensors))
    predictor = plain_predictor(str(whole), params)
    handles = dict(zip(tensors, [predictor.get_output_handle(name) for name in predictor.get_output_names()], strict=True))

    def run(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        for name, array in feed.items():
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return [handles[tensor].copy_to_cpu() for tensor in wanted]

    _run_and_save(run, inputs, [*(f"layer_{i}" for i in range(len(layers))), *(f"output_{i}" for i in range(len(graph.outputs)))], out, progress)
    return [asdict(layer) for layer in layers]


def onnx_layers(model: str, inputs: dict[str, str], out: str, progress: Any) -> list[dict[str, Any]]:
    """Job: run an ONNX graph in onnxruntime with its usual optimizations and every layer's end made an output.

    A quantized layer is looked at behind the pair that quantizes its result, so that the int8 kernel still gives it. Other outputs in the
    middle keep onnxruntime from fusing a layer with the operator behind it.

    Returns:
        The layers, `Layer`; ``out`` holds ``layer_I.npy``, [N, ...], float32.
    """
    import onnx
    import onnxruntime

    loaded = onnx.load(model, load_external_data=False)
    layers = layers_of(_onnx_graph(loaded.graph))
    tensors = [layer.decoded or layer.end for layer in layers]
    given = {tensor.name for tensor in loaded.graph.output}
    loaded.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in given)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    traced = str(Path(out, "traced.onnx"))
    onnx.save(loaded, traced)
    session = onnxruntime.InferenceSession(traced, options, providers=["CPUExecutionProvider"])
    half = {tensor.name for tensor in session.get_inputs() if tensor.type == "tensor(float16)"}

    def run(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        arrays: list[np.ndarray] = session.run(tensors, {name: a.astype(np.float16) if name in half else a for name, a in feed.items()})
        return [array.astype(np.float32) for array in arrays]

    if layers:
        _run_and_save(run, inputs, [f"layer_{i}" for i in range(len(layers))], out, progress)
    return [asdict(layer) for layer in layers]


def cut_layers(program: str, out: str, progress: Any) -> list[dict[str, Any]]:
    """Job: for every layer a program that ends there, ``out/cut_I.json`` or ``.pdmodel``. It keeps all parameters, so their file fits every cut.

    Returns:
        The layers, `Layer`.
    """
    layers = layers_of(read_program(Path(program)))
    for index, layer in enumerate(layers):
        Path(out, f"cut_{index}{Path(program).suffix}").write_bytes(cut(Path(program), [layer.end]))
    return [asdict(layer) for layer in layers]


def read_program(path: Path) -> Graph:
    """The graph of a legacy or PIR program; of a legacy one its first block.

    Raises:
        BadInput: it is neither.
    """
    try:
        return _pir_graph(_pir_ops(_pir(path))) if path.suffix == ".json" else _legacy_graph(_legacy(path))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def cut(path: Path, tensors: Sequence[str]) -> bytes:
    """The program with what makes ``tensors`` and no more; they are its outputs, in this order, each once. Inputs and parameters stay.

    Raises:
        BadInput: it is no program, or has no output to begin with.
    """
    try:
        return _cut_pir(_pir(path), tensors) if path.suffix == ".json" else _cut_legacy(_legacy(path), tensors)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, StopIteration) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path}: not a Paddle program: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _constants(graph: Graph) -> dict[str, str]:
    """Tensor that no input of the program reaches -> the parameter that it comes from first, empty where there is none."""
    found = {tensor: _RENAMED.sub(r"\1", name) for tensor, name in graph.parameters.items()}
    for op in graph.ops:
        if op.kind not in ("feed", "data") and all(name in found for name in op.inputs):
            found.update(dict.fromkeys(op.outputs, found[op.inputs[0]] if op.inputs else ""))
    return found


def _end(tensor: str, only_reader: Callable[[str], Op | None], constants: dict[str, str]) -> str:
    end = tensor
    while op := only_reader(tensor):
        folded = op.kind in FOLDED and all(name == tensor or name in constants for name in op.inputs)
        if not folded and op.kind not in CARRIERS:
            break
        tensor = op.outputs[0]
        end = tensor if folded else end
    return end


def _activation(tensor: str, only_reader: Callable[[str], Op | None]) -> str | None:
    op = only_reader(tensor)
    while op and op.kind in CARRIERS:
        op = only_reader(op.outputs[0])
    return CLIPS.get(op.kind) if op else None


def _decoded(tensor: str, only_reader: Callable[[str], Op | None]) -> str | None:
    coded = only_reader(tensor)
    decoded = only_reader(coded.outputs[0]) if coded and coded.kind in QUANTIZE else None
    return decoded.outputs[0] if decoded and decoded.kind in DEQUANTIZE else None


def _run_and_save(
    run: Callable[[dict[str, np.ndarray]], list[np.ndarray]], inputs: dict[str, str], names: list[str], out: str, progress: Any
) -> None:
    """One sample at a time: a program may have a fixed batch of one."""
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in inputs.items()}
    count, rows = len(next(iter(arrays.values()))), []
    for index in range(count):
        rows.append([np.atleast_1d(array) for array in run({name: np.ascontiguousarray(a[index : index + 1]) for name, a in arrays.items()})])
        progress(index + 1, count, "trace layers")
    for position, name in enumerate(names):
        np.save(Path(out, f"{name}.npy"), np.concatenate([row[position] for row in rows]))


def _onnx_graph(graph: Any) -> Graph:
    ops = tuple(Op(node.op_type, tuple(filter(None, node.input)), tuple(node.output)) for node in graph.node)
    return Graph(ops, {tensor.name: tensor.name for tensor in graph.initializer}, tuple(tensor.name for tensor in graph.output))


def _legacy(path: Path) -> Any:
    from paddle.base.proto import framework_pb2

    try:
        return framework_pb2.ProgramDesc.FromString(path.read_bytes())
    except Exception as error:  # protobuf's own, of no builtin class
        raise ValueError(str(error)) from error


def _legacy_graph(program: Any) -> Graph:
    block = program.blocks[0]
    ops = [Op(op.type, _arguments(op.inputs, _FIRST_SLOTS), _arguments(op.outputs, _OUTPUT_SLOTS)) for op in block.ops]
    kept = {var.name: var.name for var in block.vars if var.persistable and var.name not in ("feed", "fetch")}
    return Graph(tuple(op for op in ops if op.kind != "fetch"), kept, tuple(op.inputs[0] for op in ops if op.kind == "fetch"))


def _arguments(slots: Iterable[Any], first: tuple[str, ...]) -> tuple[str, ...]:
    ordered = sorted(slots, key=lambda slot: first.index(slot.parameter) if slot.parameter in first else len(first))
    return tuple(name for slot in ordered for name in slot.arguments)


def _cut_legacy(program: Any, tensors: Sequence[str]) -> bytes:
    block = program.blocks[0]
    fetch = next(op for op in block.ops if op.type == "fetch")
    needed, kept = set(tensors), []
    for op in reversed(block.ops):
        if op.type == "feed" or (op.type != "fetch" and needed.intersection(_arguments(op.outputs, ()))):
            needed.update(_arguments(op.inputs, ()))
            kept.append(copy.deepcopy(op))
    for column, tensor in enumerate(tensors):
        last = copy.deepcopy(fetch)
        last.inputs[0].arguments[:] = [tensor]
        next(attribute for attribute in last.attrs if attribute.name == "col").i = column
        kept.insert(0, last)
    del block.ops[:]
    block.ops.extend(reversed(kept))
    cut_off: bytes = program.SerializeToString()
    return cut_off


def _pir(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _pir_ops(program: Any) -> list[dict[str, Any]]:
    ops: list[dict[str, Any]] = program["program"]["regions"][0]["blocks"][0]["ops"]
    return ops


def _pir_graph(raw: list[dict[str, Any]]) -> Graph:
    """Tensors are named by their number. A parameter is an operator ``p`` whose last attribute is its name."""
    ops = [Op(op["#"].partition(".")[2] or op["#"], tuple(_pir_reads(op)), tuple(_pir_writes(op))) for op in raw]
    kept = {op.outputs[0]: str(described["A"][-1]) for op, described in zip(ops, raw, strict=True) if op.kind == "p"}
    inner = tuple(op for op in ops if op.kind not in ("p", "fetch"))
    return Graph(inner, kept, tuple(op.inputs[0] for op in ops if op.kind == "fetch"))


def _pir_reads(op: Any) -> list[str]:
    """Also what the blocks inside an operator read."""
    own = [str(tensor["%"]) for tensor in op.get("I", []) if tensor["%"] > 0]
    inner = [name for region in op.get("regions", []) for block in region["blocks"] for nested in block["ops"] for name in _pir_reads(nested)]
    return own + inner


def _pir_writes(op: Any) -> list[str]:
    written = op.get("O", [])
    return [str(tensor["%"]) for tensor in (written if isinstance(written, list) else [written])]


def _cut_pir(program: Any, tensors: Sequence[str]) -> bytes:
    ops = _pir_ops(program)
    fetch = next(op for op in ops if op["#"].endswith(".fetch"))
    types = {str(tensor["%"]): tensor["TT"] for op in ops for tensor in (op["O"] if isinstance(op.get("O"), list) else [])}
    needed: set[str] = set(tensors)
    kept: list[dict[str, Any]] = []
    for op in reversed(ops):
        if op["#"] in ("p", "1.data") or (not op["#"].endswith(".fetch") and needed.intersection(_pir_writes(op))):
            needed.update(_pir_reads(op))
            kept.insert(0, op)
    free = 1 + max(int(name) for op in ops for name in _pir_writes(op))
    for column, tensor in enumerate(tensors):
        last = copy.deepcopy(fetch)
        last["I"] = [{"%": int(tensor)}]
        last["O"] = [{"%": free + column, "TT": types[tensor]}]
        for attribute in last["A"]:
            attribute["AT"]["D"] = {"name": f"fetch_name_{column}", "col": column}.get(attribute["N"], attribute["AT"]["D"])
        kept.append(last)
    ops[:] = kept
    return json.dumps(program, separators=(",", ":")).encode()
