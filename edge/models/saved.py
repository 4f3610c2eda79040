"""Finds a saved inference model by folder, prefix or file, and checks cheaply that it is one. Imports no Paddle."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from edge.errors import BadInput
from edge.files import read_limited

#: A larger program is refused, in bytes. Programs hold no weights: resnet152's takes 3 MB.
MAX_PROGRAM = 256 << 20
#: Names that say nothing about the model: it is then named after its folder.
_NAMELESS = frozenset({"inference", "model", "__model__"})
_PIR_HEAD = re.compile(rb'\s*\{\s*"base_code"\s*:\s*\{[^{}]*"magic"\s*:\s*"pir"')
#: Top-level fields of a ProgramDesc: blocks, version, op_version_map. All are length-delimited.
_PROGRAM_FIELDS = frozenset({0x0A, 0x22, 0x2A})

#: Bytes of an element by the number that Paddle gives its type: bool, int16 to int64, float16 to float64, uint8, int8, bfloat16, complex, float8.
_ELEMENT = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2, 23: 8, 24: 16, 32: 1, 33: 1}
#: The description of a tensor in a parameters file is a few bytes.
_MAX_DESCRIPTION = 4096
_AGAIN = "copy it again, or save the model again"
_SAVE = "save one with: paddle.jit.save(layer, 'PREFIX', input_spec=[...])"
#: Files that people try, and what to do instead. {path} is the file.
_FOREIGN = {
    ".pdparams": ("holds weights, not a model", "name the model too: edge export MODEL --weights {path}"),
    ".safetensors": ("holds weights, not a model", "name the model too: edge export MODEL --weights {path}"),
    ".pdopt": ("holds an optimizer's state, not a model", _SAVE),
    ".onnx": ("is an ONNX model; exports start from a Paddle model", "give the Paddle model that it was made from"),
    ".nb": ("is a Paddle Lite model; exports start from a Paddle model", "give the Paddle model that it was made from"),
    ".pt": ("is a PyTorch file; exports start from a Paddle model", "write the network in Paddle and give PACKAGE.MODULE:FACTORY"),
    ".pth": ("is a PyTorch file; exports start from a Paddle model", "write the network in Paddle and give PACKAGE.MODULE:FACTORY"),
    ".tflite": ("is a TensorFlow Lite model; exports start from a Paddle model", "give a Paddle model"),
    ".pb": ("is a TensorFlow graph; exports start from a Paddle model", "give a Paddle model"),
    ".h5": ("is a Keras file; exports start from a Paddle model", "give a Paddle model"),
    ".py": ("is Python source", "name its factory: edge export {stem}:FACTORY, from the folder it lies in"),
}


@dataclass(frozen=True)
class SavedProgram:
    """A program and its parameters; ``stem`` is a name for the model."""

    kind: Literal["pir", "legacy"]
    program: Path
    params: Path
    stem: str


def find_program(path: Path) -> SavedProgram | None:
    """The saved model that ``path`` means: its folder, its prefix, or one of its files. None when nothing lies there.

    Raises:
        BadInput: something lies there that is no saved model, or several do, or a part is missing, empty or damaged.
    """
    if path.is_dir():
        return _only_one(path)
    if path.is_file():
        return _from_file(path)
    found = [Path(f"{path}{suffix}") for suffix in (".json", ".pdmodel") if Path(f"{path}{suffix}").is_file()]
    if len(found) == 2:
        raise BadInput(f"{path}: both {found[0].name} and {found[1].name} are there", hint=f"name the file: edge export {found[0]}")
    if found:
        return _from_file(found[0])
    if Path(f"{path}.pdiparams").is_file():
        raise BadInput(f"{path}.pdiparams: its program is missing: neither {path.name}.json nor {path.name}.pdmodel is there", hint=_SAVE)
    return None


def is_foreign(path: Path) -> bool:
    """The name ends as a file that can be no MODEL."""
    return path.suffix.lower() in _FOREIGN


def _only_one(folder: Path) -> SavedProgram:
    found = sorted(entry for entry in folder.iterdir() if entry.is_file() and _looks_like_program(entry))
    if not found:
        raise BadInput(f"{folder}: holds neither an artifact's manifest.json nor a saved model (NAME.json or NAME.pdmodel)", hint=_SAVE)
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found[:4]) + (", ..." if len(found) > 4 else "")
        raise BadInput(f"{folder}: holds {len(found)} saved models: {names}", hint=f"name one: edge export {found[0]}")
    return _from_file(found[0])


def _looks_like_program(path: Path) -> bool:
    if path.suffix == ".json":
        return _PIR_HEAD.match(_head(path)) is not None
    return path.suffix == ".pdmodel" or path.name == "__model__"


def _from_file(path: Path) -> SavedProgram:
    if reason := _FOREIGN.get(path.suffix.lower()):
        raise BadInput(f"{path}: {reason[0]}", hint=reason[1].format(path=path, stem=path.stem))
    if path.suffix == ".pdiparams":
        found = find_program(path.with_suffix(""))
        if found is None:
            raise BadInput(f"{path}: not found")
        return found
    if path.suffix == ".json":
        _check_pir(path)
        return SavedProgram("pir", path, _params(path, path.with_suffix(".pdiparams")), _stem(path))
    if path.suffix == ".pdmodel" or path.name == "__model__":
        _check_legacy(path)
        return SavedProgram("legacy", path, _params(path, _legacy_params(path)), _stem(path))
    raise BadInput(f"{path}: not a saved Paddle model: those end in .json, .pdmodel or .pdiparams", hint=_SAVE)


def _legacy_params(program: Path) -> Path:
    return program.with_name("__params__") if program.name == "__model__" else program.with_suffix(".pdiparams")


def _stem(program: Path) -> str:
    return program.absolute().parent.name if program.stem in _NAMELESS else program.stem


def _params(program: Path, params: Path) -> Path:
    """The parameters' file, present and plausible."""
    if not params.is_file():
        raise BadInput(f"{program}: its parameters are missing: {params} is not there", hint="copy that file beside the program")
    stored_tensors(params)
    return params


class StoredTensor(NamedTuple):
    """Shape and size of a tensor in a parameters file, and where its values begin."""

    shape: tuple[int, ...]
    nbytes: int
    offset: int


def stored_tensors(params: Path) -> list[StoredTensor]:
    """The tensors in a parameters file, in its order, which is that of their names. Their values are not read.

    Paddle itself reads a file that is cut off, or is another model's, without a word.

    Raises:
        BadInput: not Paddle's parameters, cut off, or cannot be read.
    """
    try:
        with params.open("rb") as file:
            return list(_tensors(params, file, params.stat().st_size))
    except OSError as error:
        raise BadInput(f"{params}: cannot be read: {error.strerror}") from error


def _tensors(params: Path, file: BinaryIO, size: int) -> Iterator[StoredTensor]:
    """Each tensor: version, levels of detail, version, length of its description, description (a protobuf message), values."""
    if not size:
        raise BadInput(f"{params}: the file is empty", hint=_AGAIN)
    while (start := file.tell()) < size:
        if file.read(4) != b"\0\0\0\0":  # the version, 0 since Paddle 0.x
            where = "it does not begin as paddle.jit.save begins them" if start == 0 else f"no tensor begins at byte {start}"
            raise BadInput(f"{params}: not Paddle parameters: {where}", hint=_AGAIN)
        for _ in range(min(_number(file, 8), 16)):
            file.seek(_number(file, 8), 1)
        version, length = _number(file, 4), _number(file, 4)
        description = file.read(min(length, _MAX_DESCRIPTION))
        element, shape = _described(description) if version == 0 and len(description) == length else (0, ())
        tensor = StoredTensor(shape, element * math.prod(shape), file.tell())
        file.seek(tensor.nbytes, 1)
        if file.tell() > size or len(description) < length:
            raise BadInput(f"{params}: the parameters are cut off", hint=_AGAIN)
        if not element:
            raise BadInput(f"{params}: not Paddle parameters: no tensor begins at byte {start}", hint=_AGAIN)
        yield tensor


def _number(file: BinaryIO, length: int) -> int:
    """A little-endian number, at most 2^40: no file is longer."""
    return min(int.from_bytes(file.read(length), "little"), 1 << 40)


def _described(message: bytes) -> tuple[int, tuple[int, ...]]:
    """(bytes of an element, shape) of a TensorDesc: field 1 is the type, field 2 a side, one by one or packed. (0, ()) where it is none."""
    kind, shape, position = -1, [], 0
    while position < len(message):
        tag = message[position]
        value, position = _varint(message, position + 1)
        if tag == 0x08:
            kind = value
        elif tag == 0x10:
            shape.append(value)
        elif tag == 0x12:
            end = position + value
            while position < min(end, len(message)):
                side, position = _varint(message, position)
                shape.append(side)
        else:
            return 0, ()
    return (_ELEMENT.get(kind, 0), tuple(shape)) if position == len(message) else (0, ())


def _check_pir(path: Path) -> None:
    data = read_limited(path, MAX_PROGRAM, "program")
    if not _PIR_HEAD.match(data[:4096]):
        raise BadInput(f'{path}: not a Paddle program: a PIR program begins with {{"base_code":{{"magic":"pir"', hint=_SAVE)
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "cut off" if not isinstance(error, json.JSONDecodeError) or error.pos >= len(error.doc.rstrip()) else f"damaged: {error}"
        raise BadInput(f"{path}: the program is {what}", hint=_AGAIN) from error


def _check_legacy(path: Path) -> None:
    """Walk the top-level fields of the protobuf message: they must be a program's, and end where the file does."""
    data, position, blocks = read_limited(path, MAX_PROGRAM, "program"), 0, 0
    while position < len(data):
        tag = data[position]
        if tag not in _PROGRAM_FIELDS:
            raise BadInput(f"{path}: not a Paddle program: it is no ProgramDesc message", hint=_SAVE)
        blocks += tag == 0x0A
        length, position = _varint(data, position + 1)
        position += length
    if position != len(data) or not blocks:
        raise BadInput(f"{path}: the program is cut off", hint=_AGAIN)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A protobuf length and the position after it; a length that does not end gives one beyond the file."""
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return len(data) + 1, position


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
