"""The Paddle model that everything is exported from and compared with. Functions here run in a child (`edge.jobs`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import TensorInfo
from edge.errors import BadInput, ConversionFailed, Unsupported
from edge.export import repairs
from edge.export.repairs.graph import weight_of
from edge.models.source import ModelSource, build_layer, inputs_of

#: Operators of a program that is still being trained.
TRAINING = frozenset({"sgd", "momentum", "adam", "adamw", "adagrad", "rmsprop", "lamb", "cross_entropy_grad", "softmax_with_cross_entropy"})
#: Samples that the source is run on at a time.
BATCH = 64


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
    size = _check_parameters(origin.name, program, scope)
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
    described = {"inputs": [_described(v) for v in inputs], "outputs": [_described(v) for v in fetches]}
    return {**described, "layers": layers, "repairs": repaired, "parameter_bytes": size}


def save_pir(source: dict[str, Any], out: str, progress: Any) -> dict[str, Any]:
    """Write the model as a PIR program, ``out/model.json`` and ``out/model.pdiparams``.

    Raises:
        Unsupported: the source is a legacy program, which Paddle cannot turn into a PIR program.
    """
    origin = ModelSource.from_dict(source)
    if origin.kind == "legacy":
        raise Unsupported(f"{origin.name} is a legacy program")
    if origin.kind == "pir":
        shutil.copyfile(str(origin.program), f"{out}/model.json")
        shutil.copyfile(str(origin.params), f"{out}/model.pdiparams")
        return _described_pir(f"{out}/model.json", f"{out}/model.pdiparams")
    _save_layer(origin, f"{out}/model")
    _check_written(Path(out, "model.json"))
    return {}


def source_outputs(source: dict[str, Any], inputs: list[str], out: str, progress: Any) -> list[list[int]]:
    """Run the Paddle model itself over the inputs (one .npy an input, [N, ...]) and save each output as ``out/output_I.npy``.

    A layer runs in dynamic mode, a saved program in Paddle Inference without its graph passes.

    Raises:
        BadInput: the model gives NaN or infinity on these inputs, or cannot be run on them.
    """
    origin = ModelSource.from_dict(source)
    arrays = [np.load(path, allow_pickle=False) for path in inputs]
    run = _run_layer(origin) if origin.kind in ("zoo", "vision", "factory") else _run_program(origin)
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
        program, feeds, fetches = paddle.static.load_inference_model(
            str(folder), executor, model_filename=stem, params_filename=str(Path(params_path).relative_to(folder))
        )
    except Exception as error:
        text = " ".join(str(error).split())[-300:]
        raise BadInput(f"{program_path}: Paddle cannot load the program with {Path(params_path).name}: {text}") from error
    trained = sorted({op.type for block in program.blocks for op in block.ops if op.type in TRAINING or op.type.endswith("_grad")})
    if trained:
        raise BadInput(
            f"{program_path}: is a training program (it holds {', '.join(trained[:3])})",
            hint="save the inference part: paddle.static.save_inference_model, or paddle.jit.save of the layer in eval mode",
        )
    if not feeds or not fetches:
        raise BadInput(f"{program_path}: the program has no {'outputs' if feeds else 'inputs'}")
    return program, feeds, fetches


def _save_layer(origin: ModelSource, prefix: str, **options: Any) -> None:
    """Trace the layer with its dynamic dimensions and save the program; FLAGS_enable_pir_api decides its kind."""
    import paddle

    layer = build_layer(origin)
    specs = [paddle.static.InputSpec(list(info.shape), info.dtype, info.name) for info in inputs_of(origin, layer)]
    try:
        static = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
        paddle.jit.save(static, prefix, **options)
    except EdgeTraceErrors as error:
        text = " ".join(str(error).split())[-300:]
        raise ConversionFailed(f"{origin.name}: Paddle cannot trace the layer into a program: {type(error).__name__}: {text}") from error


#: What a trace through the user's forward can raise.
EdgeTraceErrors = (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, AssertionError, IndexError, KeyError)


def _check_written(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        raise ConversionFailed(f"Paddle wrote no {path.name}")


def _check_parameters(name: str, program: Any, scope: Any) -> int:
    """Bytes of all parameters; refuses NaN."""
    size = 0
    for variable in program.list_vars():
        if variable.persistable and variable.name not in ("feed", "fetch"):
            array = np.asarray(scope.find_var(variable.name).get_tensor())
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BadInput(f"{name}: the parameter {variable.name} holds NaN or infinity")
            size += array.nbytes
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
        text = " ".join(str(error).split())[-300:]
        raise BadInput(f"{program}: Paddle cannot load the program with {Path(params).name}: {text}") from error


def _described(variable: Any) -> dict[str, Any]:
    return _tensor(variable.name, variable)


def _tensor(name: str, variable: Any) -> dict[str, Any]:
    shape = tuple(None if side in (-1, None) else int(side) for side in variable.shape)
    return TensorInfo(name=name, shape=shape, dtype=str(variable.dtype).rpartition(".")[2].lower()).model_dump()


def _described_pir(program: str, params: str) -> dict[str, Any]:
    """Inputs, outputs (a PIR program has no names for them) and parameter_bytes; layers are not listed.

    Raises:
        BadInput: Paddle cannot load it.
    """
    import paddle

    paddle.enable_static()
    path = Path(program)
    try:
        loaded, feeds, fetches = paddle.static.load_inference_model(
            str(path.parent), paddle.static.Executor(paddle.CPUPlace()), model_filename=path.name, params_filename=Path(params).name
        )
    except Exception as error:
        text = " ".join(str(error).split())[-300:]
        raise BadInput(f"{program}: Paddle cannot load the program with {Path(params).name}: {text}") from error
    data = {op.attrs()["name"]: op.results()[0] for op in loaded.global_block().ops if op.name() == "pd_op.data"}
    inputs = [_tensor(name, data[name]) for name in feeds]
    outputs = [_tensor(f"output_{index}", value) for index, value in enumerate(fetches)]
    return {"inputs": inputs, "outputs": outputs, "layers": [], "parameter_bytes": Path(params).stat().st_size}
