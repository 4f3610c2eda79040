"""The Paddle model that everything is exported from and compared with. Functions here run in a child (`edge.jobs`)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import TensorInfo
from edge.datasets.samples import export_data
from edge.errors import BadInput, ConversionFailed, Unsupported
from edge.export import repairs
from edge.export.repairs.graph import weight_of
from edge.models.saved import stored_tensors
from edge.models.source import ModelSource, build_layer, inputs_of

#: Operators of a program that is still being trained.
TRAINING = frozenset({"sgd", "momentum", "adam", "adamw", "adagrad", "rmsprop", "lamb", "cross_entropy_grad", "softmax_with_cross_entropy"})
#: Samples that the source is run on at a time.
BATCH = 64
#: Where a message of Paddle says what is wrong, behind a traceback or two; and what it adds to it.
_ERROR_LINE = re.compile(r"^\s*(?:\w+\.)*\w*(?:Error|Exception)\b.*", re.MULTILINE)
_ADDITIONS = re.compile(r"\s*(?:\[Hint:.*?\](?=\s|$)|\(at /paddle/\S+\)|\[operator < \w+ > error\])", re.DOTALL)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def save_legacy(source: dict[str, Any], out: str, progress: Any) -> dict[str, Any]:
    """Write the model as a repaired legacy program, ``out/model.pdmodel`` and ``out/model.pdiparams``. Needs FLAGS_enable_pir_api=0.

    It keeps its extra attributes: Paddle Lite needs them (``clip_extra=True`` crashes its opt on x86).

    Returns:
        inputs and outputs (name, shape, dtype), layers (weights of the operators that multiply, in order), repairs, parameter_bytes.

    Raises:
        Unsupported: the source is a PIR program.
        BadInput: a program that is still being trained, or parameters that are NaN.
    """
    import paddle

    origin = ModelSource.from_dict(source)
    if origin.kind == "pir":
        raise Unsupported(
            f"{origin.name} is a PIR program (.json), and Paddle cannot turn one into the legacy program that this format is made from",
            hint="save the model with FLAGS_enable_pir_api=0, or give the layer",
        )
    prefix = f"{out}/model"
    if origin.kind == "legacy":
        program_path, params_path = str(origin.program), str(origin.params)
    else:
        raw = Path(out, "traced")
        _save_layer(origin, f"{raw}/model", clip_extra=False)
        program_path, params_path = f"{raw}/model.pdmodel", f"{raw}/model.pdiparams"
    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    program, feeds, fetches = load_program(origin.name, program_path, params_path, executor)
    scope = paddle.static.global_scope()
    size = _check_parameters(origin.name, [v.name for v in program.list_vars() if v.persistable and v.name not in ("feed", "fetch")], scope)
    repaired = repairs.apply(program, scope)
    inputs = [program.global_block().var(name) for name in feeds]
    paddle.static.save_inference_model(prefix, inputs, fetches, executor, program=program, clip_extra=False)
    # without its extra attributes the program is a third of the size: what Paddle Inference gets
    Path(out, "clipped.pdmodel").write_bytes(
        paddle.static.normalize_program(program, inputs, fetches)._remove_training_info().desc.serialize_to_string()
    )
    shutil.rmtree(Path(out, "traced"), ignore_errors=True)
    _check_written(Path(f"{prefix}.pdmodel"))
    operators = [op for block in program.blocks for op in block.ops]
    layers = [name for op in operators if (name := weight_of(program, op))]
    stated = {info.name: info.ranges for info in origin.inputs or ()}
    described = {"inputs": [{**_described(v), "ranges": stated.get(v.name)} for v in inputs], "outputs": [_described(v) for v in fetches]}
    return {**described, "layers": layers, "repairs": repaired, "parameter_bytes": size}


def save_pir(source: dict[str, Any], out: str, progress: Any) -> None:
    """Write the model as a PIR program, ``out/model.json`` and ``out/model.pdiparams``.

    Raises:
        Unsupported: the source is a legacy program, which Paddle cannot turn into a PIR program.
        BadInput: a layer that does not run.
        ConversionFailed: the layer runs, and Paddle cannot trace it.
    """
    origin = ModelSource.from_dict(source)
    if origin.kind == "legacy":
        raise Unsupported(f"{origin.name} is a legacy program")
    if origin.kind == "pir":
        shutil.copyfile(str(origin.program), f"{out}/model.json")
        shutil.copyfile(str(origin.params), f"{out}/model.pdiparams")
        return
    _save_layer(origin, f"{out}/model")
    _check_written(Path(out, "model.json"))


def describe_pir(source: dict[str, Any], folder: str, progress: Any) -> dict[str, Any]:
    """What `save_pir` has written: inputs, outputs (a PIR program has no names for them) and parameter_bytes; layers are not listed.

    Raises:
        BadInput: Paddle cannot load it, the parameters do not fit, or are NaN.
    """
    import paddle

    origin = ModelSource.from_dict(source)
    program, params = (Path(origin.program or f"{folder}/model.json"), Path(origin.params or f"{folder}/model.pdiparams"))
    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    try:
        loaded, feeds, fetches = paddle.static.load_inference_model(
            str(program.parent), executor, model_filename=program.name, params_filename=params.name
        )
    except Exception as error:
        raise BadInput(f"{program}: Paddle cannot load the program with {params.name}: {said(error)}") from error
    _check_trained(str(program), {op.name().rpartition(".")[2].rstrip("_") for op in loaded.global_block().ops})
    shapes = {op.attrs()["parameter_name"]: tuple(op.results()[0].shape) for op in loaded.global_block().ops if op.name() == "builtin.parameter"}
    _check_belong(str(program), str(params), shapes)
    size = _check_parameters(origin.name, shapes, paddle.static.global_scope())
    data = {op.attrs()["name"]: op.results()[0] for op in loaded.global_block().ops if op.name() == "pd_op.data"}
    stated = {info.name: info.ranges for info in origin.inputs or ()}
    inputs = [{**_tensor(feed, data[feed]), "ranges": stated.get(feed)} for feed in feeds]
    outputs = [_tensor(f"output_{index}", value) for index, value in enumerate(fetches)]
    return {"inputs": inputs, "outputs": outputs, "layers": [], "parameter_bytes": size}


def source_outputs(source: dict[str, Any], inputs: list[str], out: str, progress: Any) -> list[list[int]]:
    """Run the Paddle model itself over the inputs (one .npy an input, [N, ...]) and save each output as ``out/output_I.npy``.

    A layer runs in dynamic mode, a saved program in Paddle Inference without its graph passes.

    Raises:
        BadInput: the model gives NaN or infinity on these inputs, cannot be run on them, or gives an output that is not one row a sample.
    """
    origin = ModelSource.from_dict(source)
    arrays = [np.load(path, allow_pickle=False) for path in inputs]
    run = _checked(origin, _run_layer(origin) if origin.has_layer else _run_program(origin))
    parts: list[list[np.ndarray]] = []
    count = len(arrays[0])
    for start in range(0, count, BATCH):
        parts.append(run([array[start : start + BATCH] for array in arrays]))
        progress(min(count, start + BATCH), count, "source outputs")
    outputs = [np.concatenate([part[index] for part in parts]) for index in range(len(parts[0]))]
    for index, array in enumerate(outputs):
        if not np.isfinite(array).all():
            raise BadInput(f"{origin.name}: output {index} of the Paddle model itself holds NaN or infinity on these inputs")
        np.save(Path(out, f"output_{index}.npy"), array)
    return [list(array.shape) for array in outputs]


def load_program(name: str, program_path: str, params_path: str, executor: Any) -> tuple[Any, list[str], list[Any]]:
    """(program, feed names, fetch variables) of a legacy program, its parameters in the global scope.

    Raises:
        BadInput: damaged, parameters that do not fit, or a program that is still being trained.
    """
    import paddle

    folder, stem = Path(program_path).parent, Path(program_path).name
    try:
        whole = paddle.static.deserialize_program(Path(program_path).read_bytes())
    except Exception as error:
        raise BadInput(f"{program_path}: Paddle cannot read the program: {said(error)}") from error
    _check_trained(program_path, {op.type for block in whole.blocks for op in block.ops})
    shapes = {v.name: tuple(v.shape) for v in whole.list_vars() if paddle.static.io.is_persistable(v)}
    _check_belong(program_path, params_path, shapes)
    try:
        program, feeds, fetches = paddle.static.load_inference_model(
            str(folder), executor, model_filename=stem, params_filename=str(Path(params_path).relative_to(folder))
        )
    except Exception as error:
        raise BadInput(f"{program_path}: Paddle cannot load the program with {Path(params_path).name}: {said(error)}") from error
    if not feeds or not fetches:
        raise BadInput(f"{program_path}: the program has no {'outputs' if feeds else 'inputs'}")
    return program, feeds, fetches


def _save_layer(origin: ModelSource, prefix: str, **options: Any) -> None:
    """Trace the layer with its dynamic dimensions and save the program; FLAGS_enable_pir_api decides its kind."""
    import paddle

    layer = build_layer(origin)
    inputs = inputs_of(origin, layer)
    specs = [paddle.static.InputSpec(list(info.shape), info.dtype, info.name) for info in inputs]
    try:
        static = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
        paddle.jit.save(static, prefix, **options)
    except Exception as error:
        # a layer that does not run at all is refused for that
        _checked(origin, _run_layer(origin))(list(export_data("random", inputs, calibration_count=1, judge_count=1).judge.inputs))
        raise ConversionFailed(f"{origin.name}: Paddle cannot trace the layer into a program: {said(error, origin.search_path)}") from error


def said(error: Exception, folder: str | None = None) -> str:
    """What an error of Paddle says, as part of a sentence: without the traceback, hints and places in Paddle that it puts into its message.

    Args:
        folder: the last place in the files there is named.
    """
    text = str(error)
    lines = list(_ERROR_LINE.finditer(text))
    core = " ".join(_ADDITIONS.sub("", text[lines[-1].start() :] if lines else f"{type(error).__name__}: {text}").split())
    mine = [(file, line) for file, line in _FRAME.findall(text) if folder and file.startswith(f"{folder}/")]
    place = f" ({Path(mine[-1][0]).name}, line {mine[-1][1]})" if mine else ""
    return (core if len(core) <= 300 else f"{core[:300]}...") + place


def _checked(origin: ModelSource, run: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """``run``, where what the model itself cannot do is a bad input."""

    def checked(arrays: list[np.ndarray]) -> list[np.ndarray]:
        shapes = ", ".join(str(list(array.shape)) for array in arrays)
        try:
            outputs = run(arrays)
        except Exception as error:
            raise BadInput(
                f"{origin.name}: the Paddle model itself does not run on inputs of shape {shapes}: {said(error, origin.search_path)}"
            ) from error
        for index, array in enumerate(outputs):
            if array.shape[:1] != arrays[0].shape[:1]:
                raise BadInput(f"{origin.name}: output {index} has the shape {list(array.shape)} for inputs of shape {shapes}: not one row a sample")
        return outputs

    return checked


def _check_trained(program: str, operators: set[str]) -> None:
    found = [*sorted(operators & TRAINING), *sorted(name for name in operators - TRAINING if name.endswith("_grad"))]
    if found:
        raise BadInput(
            f"{program}: is a training program (it holds {', '.join(found[:3])})",
            hint="save the inference part: paddle.static.save_inference_model, or paddle.jit.save of the layer in eval mode",
        )


def _check_belong(program: str, params: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse parameters whose shapes are not those that the program names; sides of 1 do not count."""
    if not shapes:
        return
    stored, needed = stored_tensors(Path(params)), sorted(shapes.items())
    if len(stored) != len(needed):
        raise BadInput(f"{params}: holds {len(stored)} tensors, the program {program} needs {len(needed)}: they do not belong together")
    for (name, shape), (found, *_) in zip(needed, stored, strict=True):
        if [side for side in shape if side != 1] != [side for side in found if side != 1]:
            raise BadInput(f"{params}: holds {list(found)} where the program {program} needs {name} {list(shape)}: they do not belong together")


def _check_written(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        raise ConversionFailed(f"Paddle wrote no {path.name}")


def _check_parameters(name: str, parameters: Iterable[str], scope: Any) -> int:
    """Bytes of all parameters; refuses NaN, and a model without any."""
    size = 0
    for parameter in parameters:
        array = np.asarray(scope.find_var(parameter).get_tensor())
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadInput(f"{name}: the parameter {parameter} holds NaN or infinity")
        size += array.nbytes
    if not size:
        raise BadInput(f"{name}: the model has no parameters", hint="export the layer that holds the trained weights")
    return size


def _run_layer(origin: ModelSource) -> Any:
    import paddle

    layer = build_layer(origin)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        with paddle.no_grad():
            made = layer(*[paddle.to_tensor(array) for array in arrays])
        return [tensor.numpy() for tensor in _flat(made)]

    return run


def _flat(made: Any) -> list[Any]:
    """Tensors of nested outputs, in the order in which a trace lists them."""
    if isinstance(made, dict):
        return [tensor for value in made.values() for tensor in _flat(value)]
    if isinstance(made, (list, tuple)):
        return [tensor for value in made for tensor in _flat(value)]
    return [made]


def _run_program(origin: ModelSource) -> Any:
    predictor = plain_predictor(str(origin.program), str(origin.params))
    handles = [predictor.get_input_handle(name) for name in predictor.get_input_names()]
    results = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        for handle, array in zip(handles, arrays, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        predictor.run()
        return [handle.copy_to_cpu() for handle in results]

    return run


def plain_predictor(program: str, params: str) -> Any:
    from paddle.inference import Config, create_predictor

    config = Config(program, params)
    config.disable_gpu()
    config.disable_glog_info()
    config.disable_mkldnn()
    config.switch_ir_optim(False)
    try:
        return create_predictor(config)
    except Exception as error:
        raise BadInput(f"{program}: Paddle cannot load the program with {Path(params).name}: {said(error)}") from error


def _described(variable: Any) -> dict[str, Any]:
    return _tensor(variable.name, variable)


def _tensor(name: str, variable: Any) -> dict[str, Any]:
    shape = tuple(None if side in (-1, None) else int(side) for side in variable.shape)
    return TensorInfo(name=name, shape=shape, dtype=str(variable.dtype).rpartition(".")[2].lower()).model_dump()
