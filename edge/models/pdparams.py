"""Reads ``.pdparams`` files, which are pickles, without running what they ask for.

Unpickling calls whatever the file names. Here the file is first checked instruction by instruction against the few that a dictionary
of arrays needs, and the names it uses (numpy's among them) lead to stand-ins that only record a dtype, a shape and bytes.
numpy's own ``__setstate__`` is never handed a stranger's state.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BadInput
from edge.files import read_limited

#: A larger weights file is refused unread, in bytes.
MAX_WEIGHTS = 4 << 30
#: Paddle's table of structured names -> parameter names, and of the arrays it cut up because a protocol-2 pickle ends at 4 GiB.
NAME_TABLE = "StructuredToParameterName@@"
SLICE_TABLE = "UnpackBigParamInfor@@"

#: dtype codes of pickled arrays that hold plain numbers. ``u2`` is how Paddle stores bfloat16.
_CODES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
#: What a dictionary of arrays is pickled with in protocols 2 to 4 (BINSTRING by Python 2). No text forms, no INST, OBJ, NEWOBJ, EXT, PERSID.
_INSTRUCTIONS = """
PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINGET LONG_BINGET BINPUT LONG_BINPUT NONE NEWTRUE NEWFALSE
BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8
BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS LIST
EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_ALLOWED_INSTRUCTIONS = frozenset(_INSTRUCTIONS.split())
#: Memo positions beyond this are refused: the unpickler allocates the whole table up to the position a file names.
_MAX_MEMO = 1 << 22
_SAVE_AGAIN = "save it with: paddle.save(layer.state_dict(), 'weights.pdparams')"


def read_pdparams(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a state dict that ``paddle.save`` wrote, by structured name. bfloat16 comes as uint16, as Paddle stores it.

    Raises:
        BadInput: the file is larger than `MAX_WEIGHTS`, cut off, not a pickle, asks to run anything, or is no flat dictionary of arrays.
    """
    data = _read(path)
    _check_instructions(path, data)
    loaded = _load(path, data)
    if not isinstance(loaded, dict):
        raise BadInput(f"{path}: holds one {_kind(loaded)}, not the named weights of a layer", hint=_SAVE_AGAIN)
    loaded.pop(NAME_TABLE, None)
    return {name: _array(path, name, value) for name, value in _joined(path, loaded).items()}


def _read(path: Path) -> bytes:
    data = read_limited(path, MAX_WEIGHTS, "weights file")
    if data[0] != 0x80:
        raise BadInput(f"{path}: not a .pdparams file: it does not begin as paddle.save begins one", hint=_SAVE_AGAIN)
    return data


def _check_instructions(path: Path, data: bytes) -> None:
    """Refuse every instruction that weights do not need, before the first one runs."""
    try:
        for code, argument, _ in pickletools.genops(BytesIO(data)):
            if code.name == "GLOBAL":
                _allowed(path, *str(argument).split(" ", 1))
            elif code.name not in _ALLOWED_INSTRUCTIONS or (code.name == "LONG_BINPUT" and int(argument or 0) > _MAX_MEMO):
                raise BadInput(f"{path}: uses the pickle instruction {code.name} in a way that weights do not: not a plain weights file")
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path}: cut off or damaged: {_short(error)}", hint="copy the file again") from None


def _load(path: Path, data: bytes) -> Any:
    stand_ins = _stand_ins()

    class Plain(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            _allowed(path, module, name)
            return stand_ins[name]

    try:
        return Plain(BytesIO(data), encoding="latin1").load()
    except BadInput:
        raise
    except (Exception, RecursionError, MemoryError) as error:
        raise BadInput(f"{path}: not a plain weights file: {_short(error)}", hint=_SAVE_AGAIN) from None


#: The globals that a state dict may name; what stands in for each is in `_stand_ins`, by the second word.
_GLOBALS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
        ("builtins", "tuple"),
        ("__builtin__", "tuple"),
    }
)


def _allowed(path: Path, module: str, name: str = "") -> None:
    if (module, name) not in _GLOBALS:
        asked = ascii(f"{module}.{name}")[1:-1][:100]  # whatever bytes stand there, the message is one line
        raise BadInput(f"{path}: asks to run {asked} while loading: not a plain weights file", hint=_SAVE_AGAIN)


def _stand_ins() -> dict[str, Callable[..., Any]]:
    """What the allowed globals lead to. Made anew for each file: a pickle can set attributes of what it is given."""

    class DType:
        __slots__ = ("code",)

        def __init__(self, code: str, align: object = False, copy: object = False) -> None:
            if code not in _CODES:
                raise ValueError(f"an array has dtype {code!r}, not plain numbers")
            self.code = code

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            if len(state) < 5 or state[1] not in ("<", "|", "=") or any(part is not None for part in state[2:5]):
                raise ValueError("an array is big-endian or has fields")

    class Array:
        __slots__ = ("value",)

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            _, shape, dtype, fortran, data = state
            if not isinstance(dtype, DType) or not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
                raise ValueError("an array has no plain shape and dtype")
            raw = data.encode("latin1") if isinstance(data, str) else data
            if not isinstance(raw, bytes):
                raise ValueError("an array holds objects, not plain numbers")
            self.value = np.frombuffer(raw, "<" + dtype.code).reshape(shape, order="F" if fortran else "C")

    def reconstruct(kind: object, shape: object, code: object) -> Array:
        return Array()

    def encode(text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"a string asks for the encoding {encoding!r}")
        return text.encode("latin1")

    def named(pair: object) -> tuple[Any, ...]:
        return tuple(pair) if isinstance(pair, (tuple, list)) else (pair,)

    def mapping() -> dict[Any, Any]:
        return {}

    return {"_reconstruct": reconstruct, "ndarray": Array, "dtype": DType, "OrderedDict": mapping, "encode": encode, "tuple": named}


def _joined(path: Path, loaded: dict[Any, Any]) -> dict[Any, Any]:
    """Put arrays together that Paddle cut into slices."""
    table = loaded.pop(SLICE_TABLE, None)
    if table is None:
        return loaded
    try:
        for name, entry in table.items():
            parts = [_array(path, part, loaded.pop(part)) for part in entry["slices"]]
            loaded[name] = np.concatenate(parts).reshape(entry["OriginShape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: its table of sliced arrays is damaged: {_short(error)}", hint="copy the file again") from None
    return loaded


def _array(path: Path, name: object, value: Any) -> NDArray[Any]:
    """The array of an entry: itself, or the second of Paddle's (parameter name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    array = getattr(value, "value", None)
    if isinstance(value, np.ndarray):
        array = value
    if isinstance(name, str) and isinstance(array, np.ndarray):
        return array
    if isinstance(value, dict):
        raise BadInput(f"{path}: {str(name)[:80]!r} is a dictionary of its own: a checkpoint of several parts", hint=_SAVE_AGAIN)
    raise BadInput(f"{path}: {str(name)[:80]!r} is a {_kind(value)}, not an array", hint=_SAVE_AGAIN)


def _kind(value: object) -> str:
    return {"Array": "array", "DType": "dtype"}.get(type(value).__name__, type(value).__name__)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
