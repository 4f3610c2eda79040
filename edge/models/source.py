"""What the user calls MODEL: where its layer or program comes from, and how it is built.

`resolve_model` reads the command line's text in the parent and imports neither Paddle nor the user's code. The `ModelSource` it returns
travels as JSON to child jobs, which call `build_layer`. A factory is taken from that text only: nothing read from a file can name one.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge.artifact import MANIFEST, TensorInfo, load_artifact
from edge.compress.folder import RECORD, WEIGHTS, build, check_files, read_record
from edge.errors import BadArtifact, BadInput
from edge.models import ZOO, model_entry
from edge.models.legacy import prepare_legacy_trace
from edge.models.saved import SavedProgram, find_program, is_foreign
from edge.models.weights import WEIGHT_SUFFIXES, load_weights
from edge.vocabulary import Format, Precision

if TYPE_CHECKING:
    from paddle import nn

Kind = Literal["zoo", "vision", "factory", "compressed", "pir", "legacy"]

#: dtypes that an input may have.
DTYPES = ("float32", "int32", "int64", "bool")
#: An input of more elements (dynamic sides taken as 1) is a slip of the keyboard.
MAX_ELEMENTS = 1 << 28
MAX_RANK = 8

VISION_PREFIX = "paddle.vision:"
_VISION_NAMES = """
LeNet alexnet densenet121 densenet161 densenet169 densenet201 densenet264 googlenet inception_v3 mobilenet_v1 mobilenet_v2
mobilenet_v3_large mobilenet_v3_small resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext50_64x4d
resnext101_32x4d resnext101_64x4d resnext152_32x4d resnext152_64x4d shufflenet_v2_swish shufflenet_v2_x0_25
shufflenet_v2_x0_33 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
squeezenet1_1 vgg11 vgg13 vgg16 vgg19 wide_resnet50_2 wide_resnet101_2
"""
#: The factories of paddle.vision.models in paddlepaddle 3.3.1. LeNet has a class only.
VISION = tuple(_VISION_NAMES.split())
_VISION_SHAPES: dict[str, tuple[int | None, ...]] = {"LeNet": (None, 1, 28, 28), "inception_v3": (None, 3, 299, 299)}

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_INPUT_NAME = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_INPUT_HINT = "write NAME:SHAPE:DTYPE, e.g. image:?x3x224x224:float32"
_ACCEPTED = (
    "a zoo name, paddle.vision:NAME, PACKAGE.MODULE:FACTORY, or the path of a saved model (PREFIX, .json, .pdmodel) "
    "of a paddle-inference fp32 artifact, or of a compressed model"
)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        kind: ``zoo``, ``vision``, ``factory`` and ``compressed`` are layers, built by `build_layer`; ``pir`` and ``legacy`` are saved programs.
        name: zoo name, vision architecture, ``package.module:factory``, or a name taken from the path or the artifact.
        inputs: what the layer is called with, in order. None for a saved program, which carries its own, and for a factory whose
            ``input_spec`` states them: see `inputs_of`.
        weights: path of the weights of a layer. program, params: paths of a saved program. folder: of a compressed model.
        search_path: folder that a factory's module is imported from: where the user typed the command.
        seed: of the initial weights when none are given.
    """

    kind: Kind
    name: str
    inputs: tuple[TensorInfo, ...] | None = None
    weights: str | None = None
    program: str | None = None
    params: str | None = None
    folder: str | None = None
    search_path: str | None = None
    seed: int = 0

    @property
    def label(self) -> str:
        """A name for artifacts: ``[A-Za-z0-9][A-Za-z0-9._-]*``."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name, flags=re.ASCII).strip("._-") or "model"

    @property
    def has_layer(self) -> bool:
        """Whether `build_layer` builds it; else it is a saved program."""
        return self.kind not in ("pir", "legacy")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for a child job."""
        inputs = None if self.inputs is None else [info.model_dump() for info in self.inputs]
        return {**asdict(self), "inputs": inputs}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelSource:
        inputs = raw["inputs"]
        return cls(**{**raw, "inputs": None if inputs is None else tuple(TensorInfo.model_validate(info) for info in inputs)})


def resolve_model(text: str, *, weights: Path | None = None, inputs: Sequence[TensorInfo] | None = None, seed: int | None = None) -> ModelSource:
    """Find the model that the command line's MODEL means.

    A zoo name or a factory comes before a file of the same name; write ``./NAME`` for the file.

    Args:
        text: MODEL: ``paddle.vision:NAME``, ``package.module:factory``, a zoo name, or a path.
        weights: a safetensors or ``.pdparams`` file for a layer.
        inputs: what the layer is called with; for zoo and vision models the default is known.
        seed: of the initial weights when none are given (default 0).

    Raises:
        BadInput: nothing that can be exported has this name, or the options do not go with it.
    """
    text = text.strip()
    given = _checked_inputs(inputs)
    options: dict[str, Any] = {"weights": _weights_path(weights), "seed": _checked_seed(seed)}
    if text.startswith((VISION_PREFIX, "paddle.vision.models:")):
        return _vision(text.partition(":")[2], given, options)
    if _FACTORY.fullmatch(text):
        return _factory(text, given, options)
    if text in ZOO:
        default = tuple(TensorInfo(name=name, shape=shape, dtype=dtype) for name, (shape, dtype) in ZOO[text].inputs.items())
        return ModelSource("zoo", text, _same_kind(text, default, given), **options)
    found = _saved(text)
    if found is None:
        raise _unknown(text)
    for option, value in (("--weights", weights), ("--input", inputs)):
        if value is not None:
            raise BadInput(f"{text}: {option} does not go with a saved model, which carries its own", hint=f"leave {option} out")
    return found


def parse_input(text: str) -> TensorInfo:
    """An input as written on the command line: ``image:?x3x224x224:float32``.

    A side is a number, ``?`` (dynamic) or a range such as ``32..640``: dynamic, and compared at both ends. The dtype is float32 when left out.

    Raises:
        BadInput: the text is not of that form, or names a size or dtype that no model here takes.
    """
    name, *rest = text.split(":")
    if not 1 <= len(rest) <= 2:
        raise BadInput(f"input {text!r}: not of the form NAME:SHAPE:DTYPE", hint=_INPUT_HINT)
    if not _INPUT_NAME.fullmatch(name):
        raise BadInput(f"input {text!r}: {name!r} is not a name", hint=_INPUT_HINT)
    ranges = tuple(_side(text, side) for side in rest[0].split("x"))
    shape = tuple(limits[0] if limits and limits[0] == limits[1] else None for limits in ranges)
    stated = tuple(limits if side is None else None for side, limits in zip(shape, ranges, strict=True))
    info = TensorInfo(name=name, shape=shape, dtype=rest[1] if len(rest) == 2 else "float32", ranges=stated if any(stated) else None)
    _check_info(info)
    return info


def build_layer(source: ModelSource) -> nn.Layer:
    """The layer in evaluation mode with its weights: from ``source.weights``, else initial ones drawn with ``source.seed``.

    Runs the user's code for a factory: call it in a child job. Under FLAGS_enable_pir_api=0 the layer is made ready to be traced.

    Raises:
        BadInput: the factory cannot be imported, raises or returns no layer; the weights do not fit; a saved program has no layer.
    """
    import paddle

    paddle.seed(source.seed)
    if source.kind == "zoo":
        layer = ZOO[source.name].build()
    elif source.kind == "vision":
        layer = _vision_layer(source.name)
    elif source.kind == "factory":
        layer = _factory_layer(source)
    elif source.kind == "compressed":
        layer = build(read_record(Path(str(source.folder))))
    else:
        raise BadInput(f"{source.name}: a saved program has no layer to build")
    if source.weights is not None:
        load_weights(layer, Path(source.weights))
    layer.eval()
    prepare_legacy_trace(layer)
    return layer


def inputs_of(source: ModelSource, layer: nn.Layer) -> tuple[TensorInfo, ...]:
    """What ``layer`` is called with: ``source.inputs``, else the ``input_spec`` of the layer or of its factory.

    Raises:
        BadInput: neither is there, or the ``input_spec`` is no list of ``paddle.static.InputSpec``.
    """
    if source.inputs is not None:
        return source.inputs
    spec = getattr(layer, "input_spec", None)
    if spec is None and source.kind == "factory":
        spec = getattr(_imported(source), "input_spec", None)
    if spec is None:
        raise BadInput(
            f"{source.name}: nothing says what the model is called with",
            hint="add --input image:?x3x224x224:float32, or give the layer an input_spec (a list of paddle.static.InputSpec)",
        )
    return _from_spec(source.name, spec)


def _side(text: str, side: str) -> tuple[int, int] | None:
    """(lowest, highest), None where any will do."""
    if side == "?":
        return None
    low, dots, high = side.partition("..")
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 and int(part) > 0 for part in ((low, high) if dots else (low,))):
        raise BadInput(f"input {text!r}: {side!r} is not a side: a number from 1, '?' or LOW..HIGH", hint=_INPUT_HINT)
    if dots and int(low) > int(high):
        raise BadInput(f"input {text!r}: the range {side!r} is empty", hint=_INPUT_HINT)
    return int(low), int(high if dots else low)


def _check_info(info: TensorInfo) -> None:
    if info.dtype not in DTYPES:
        raise BadInput(f"input {info.name}: dtype {info.dtype!r} is none of {', '.join(DTYPES)}", hint=_INPUT_HINT)
    elements = 1
    for side, limits in zip(info.shape, info.ranges or (None,) * len(info.shape), strict=True):
        elements *= side or (limits[1] if limits else 1)
    if not 1 <= len(info.shape) <= MAX_RANK or elements > MAX_ELEMENTS:
        raise BadInput(
            f"input {info.name}: a tensor of {len(info.shape)} dimensions and {elements} elements is beyond what is exported", hint=_INPUT_HINT
        )


def _checked_inputs(inputs: Sequence[TensorInfo] | None) -> tuple[TensorInfo, ...] | None:
    if inputs is None:
        return None
    names = [info.name for info in inputs]
    if not names:
        raise BadInput("no input is given", hint=_INPUT_HINT)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"input {twice[0]} is given twice")
    return tuple(inputs)


def _checked_seed(seed: int | None) -> int:
    if seed is not None and not 0 <= seed < 1 << 32:
        raise BadInput(f"seed {seed}: not between 0 and 4294967295")
    return seed or 0


def _weights_path(weights: Path | None) -> str | None:
    if weights is None:
        return None
    if not weights.is_file():
        raise BadInput(f"{weights}: no such weights file")
    if weights.suffix not in WEIGHT_SUFFIXES:
        raise BadInput(
            f"{weights}: weights are read from {' and '.join(WEIGHT_SUFFIXES)} files",
            hint="save them with: paddle.save(layer.state_dict(), 'weights.pdparams')",
        )
    return str(weights.absolute())


def _same_kind(name: str, default: tuple[TensorInfo, ...], given: tuple[TensorInfo, ...] | None) -> tuple[TensorInfo, ...]:
    """The inputs given, where they are as many as the default ones, of the same dtypes and ranks."""
    if given is None:
        return default
    if [(info.dtype, len(info.shape)) for info in given] != [(info.dtype, len(info.shape)) for info in default]:
        raise BadInput(f"{name}: takes {', '.join(map(_written, default))}, not {', '.join(map(_written, given))}")
    return given


def _written(info: TensorInfo) -> str:
    return f"{info.name}:{'x'.join('?' if side is None else str(side) for side in info.shape)}:{info.dtype}"


def _vision(name: str, given: tuple[TensorInfo, ...] | None, options: dict[str, Any]) -> ModelSource:
    name = "LeNet" if name == "lenet" else name
    if name not in VISION:
        raise BadInput(f"paddle.vision has no model {name!r}", hint=_close(name, VISION) or f"it has: {', '.join(VISION)}")
    default = (TensorInfo(name="image", shape=_VISION_SHAPES.get(name, (None, 3, 224, 224)), dtype="float32"),)
    return ModelSource("vision", name, _same_kind(f"{VISION_PREFIX}{name}", default, given), **options)


def _factory(text: str, given: tuple[TensorInfo, ...] | None, options: dict[str, Any]) -> ModelSource:
    here = str(Path.cwd())
    top = text.partition(":")[0].partition(".")[0]
    if not _can_be_imported(top, here):
        raise BadInput(f"{text}: no module {top!r} in {here} or in the Python environment", hint="run the command in the folder that holds it")
    return ModelSource("factory", text, given, search_path=here, **options)


def _can_be_imported(top: str, folder: str) -> bool:
    """A module of this name can be found; nothing is imported."""
    try:
        return PathFinder.find_spec(top, [folder]) is not None or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _saved(text: str) -> ModelSource | None:
    """The artifact or saved program at a path, or None when nothing lies there."""
    path = Path(text)
    try:
        if not text or "\0" in text:
            return None
        if path.name == MANIFEST and path.is_file():
            path = path.parent
        if path.is_dir() and (path / MANIFEST).is_file():
            return _artifact(path)
        if path.is_dir() and (path / RECORD).is_file():
            return _compressed(path)
        if seeds := sorted(path.glob(f"seed-*/{RECORD}")):
            raise BadInput(f"{text[:80]}: holds a model for each seed of a recipe", hint=f"take one: {seeds[0].parent}")
        found = find_program(path)
    except OSError as error:
        raise BadInput(f"{text[:80]}: cannot be read: {error.strerror}") from error
    return None if found is None else _program_source(found, found.stem)


def _compressed(folder: Path) -> ModelSource:
    record = read_record(folder)
    check_files(folder, record)
    inputs = tuple(TensorInfo(name=name, shape=shape, dtype=dtype) for name, (shape, dtype) in model_entry(record.model).inputs.items())
    name = folder.resolve().name
    label = f"{record.model}-{name}" if name.startswith("seed-") else name
    return ModelSource("compressed", label, inputs, weights=str(folder.absolute() / WEIGHTS), folder=str(folder.absolute()))


def _artifact(folder: Path) -> ModelSource:
    artifact = load_artifact(folder)
    manifest = artifact.manifest
    if (manifest.format, manifest.precision) != (Format.PADDLE_INFERENCE, Precision.FP32):
        raise BadInput(
            f"{folder}: the {manifest.format.value} {manifest.precision.value} artifact is no source; a paddle-inference fp32 artifact is",
            hint=f"give {manifest.model}-paddle-inference-fp32, or the model that it was made from",
        )
    program = artifact.path("model")
    found = None if program is None else find_program(program)
    if found is None or found.params != artifact.path("params"):
        raise BadArtifact(f"{folder}: the manifest lists no program with its parameters", hint="export it again with: edge export")
    return _program_source(found, manifest.model)


def _program_source(found: SavedProgram, name: str) -> ModelSource:
    return ModelSource(found.kind, name, program=str(found.program.absolute()), params=str(found.params.absolute()))


def _unknown(text: str) -> BadInput:
    path = Path(text)
    if text and (path.suffix in (".json", ".pdmodel", ".pdiparams") or is_foreign(path) or "/" in text):
        return BadInput(f"{text[:200]}: no such file, folder or prefix", hint="check the path; MODEL is " + _ACCEPTED)
    close = _close(text, [*ZOO, *(VISION_PREFIX + name for name in VISION)])
    return BadInput(f"unknown model {text[:200]!r}", hint=f"{close + '; ' if close else ''}MODEL is {_ACCEPTED}; zoo: {', '.join(sorted(ZOO))}")


def _close(name: str, known: Sequence[str]) -> str | None:
    """``did you mean ...?``: names that look like this one, with or without their prefix, whatever the case."""
    by_short = {full.rpartition(":")[2].lower().replace("_", ""): full for full in known}
    found = difflib.get_close_matches(name[:100].rpartition(":")[2].lower().replace("_", ""), by_short, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_short[short] for short in found)}?" if found else None


def _vision_layer(name: str) -> nn.Layer:
    from paddle.vision import models

    return models.LeNet() if name == "LeNet" else getattr(models, name)(pretrained=False)


def _factory_layer(source: ModelSource) -> nn.Layer:
    from paddle import nn

    factory = _imported(source)
    layer = factory if isinstance(factory, nn.Layer) else _run(source, f"{source.name}()", factory)
    if not isinstance(layer, nn.Layer):
        raise BadInput(f"{source.name}() returned {type(layer).__name__}, not a paddle.nn.Layer")
    return layer


def _imported(source: ModelSource) -> Any:
    """The factory, imported from the folder where the command was typed."""
    module_name, _, attribute = source.name.partition(":")
    if source.search_path is not None and source.search_path not in sys.path:
        sys.path.insert(0, source.search_path)
    module = _run(source, f"importing {module_name}", lambda: importlib.import_module(module_name))
    factory = getattr(module, attribute, None)
    if factory is None:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise BadInput(f"{source.name}: the module has no {attribute!r}", hint=_close(attribute, public))
    if not callable(factory):
        raise BadInput(f"{source.name}: {attribute} is of type {type(factory).__name__}, not a function that makes a layer")
    return factory


def _run(source: ModelSource, what: str, call: Callable[[], Any]) -> Any:
    """Run the user's code; what it raises becomes one sentence that names the line in the user's folder."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        mine = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(f"{source.search_path}/")]
        place = f" ({Path(mine[-1].filename).name}, line {mine[-1].lineno})" if mine else ""
        text = " ".join(str(error).split())[:300]
        raise BadInput(f"{what} raised {type(error).__name__}{': ' + text if text else ''}{place}") from error


def _from_spec(name: str, spec: Any) -> tuple[TensorInfo, ...]:
    from paddle.static import InputSpec

    specs = [spec] if isinstance(spec, InputSpec) else spec
    if not isinstance(specs, (list, tuple)) or not specs or not all(isinstance(one, InputSpec) for one in specs):
        raise BadInput(f"{name}: its input_spec is no list of paddle.static.InputSpec")
    infos = tuple(_info(index, one) for index, one in enumerate(specs))
    for info in infos:
        _check_info(info)
    checked = _checked_inputs(infos)
    return checked if checked is not None else ()


def _info(index: int, spec: Any) -> TensorInfo:
    from paddle.base.data_feeder import convert_dtype

    shape = tuple(None if side in (None, -1) else int(side) for side in spec.shape)
    return TensorInfo(name=spec.name or f"input_{index}", shape=shape, dtype=convert_dtype(spec.dtype))
