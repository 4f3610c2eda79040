"""Weights files: what Paddle writes is read back exactly, and nothing a file asks for is run."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.errors import BadInput
from edge.models.pdparams import SLICE_TABLE, read_pdparams
from edge.models.weights import load_weights, read_weights, save_weights


def linear(dtype: str = "float32") -> Any:
    import paddle

    layer = paddle.nn.Linear(3, 2)
    layer.to(dtype=dtype)
    return layer


def same_numbers(a: Any, b: Any) -> bool:
    return all(np.array_equal(value.numpy(), b.state_dict()[name].numpy()) for name, value in a.state_dict().items())


def dumped(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pdparams"


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read_back(path: Path, protocol: int) -> None:
    import paddle

    net, other = (paddle.nn.Sequential(paddle.nn.Conv2D(1, 4, 3), paddle.nn.BatchNorm2D(4)) for _ in range(2))
    paddle.save(net.state_dict(), str(path), protocol=protocol)
    load_weights(other, path)
    assert same_numbers(net, other)
    assert np.array_equal(net[1]._variance.numpy(), other[1]._variance.numpy())


def test_tensors_one_by_one_are_read_back(path: Path) -> None:
    """In a plain dictionary Paddle pickles a tensor as (name, array)."""
    import paddle

    net, other = linear(), linear()
    tensors = OrderedDict(net.state_dict())
    paddle.save({"first": 1, **tensors}, str(path))
    with pytest.raises(BadInput, match="'first' is a int, not an array"):
        load_weights(other, path)
    dumped(path, OrderedDict((name, ("linear_0.w_0", value.numpy())) for name, value in tensors.items()))
    load_weights(other, path)
    assert same_numbers(net, other)


def test_safetensors_are_read_back_under_either_name(tmp_path: Path) -> None:
    import paddle

    net, other, third = linear(), linear(), linear()
    save_weights(net, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    paddle.save(net.state_dict(), str(tmp_path / "w.pdparams"), safetensors=True)
    load_weights(third, tmp_path / "w.pdparams")
    assert same_numbers(net, other) and same_numbers(net, third)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_widened_exactly(path: Path, half: str) -> None:
    import paddle

    narrow, wide = linear(half), linear()
    paddle.save(narrow.state_dict(), str(path))
    load_weights(wide, path)
    assert wide.weight.dtype == paddle.float32
    assert np.array_equal(narrow.weight.astype("float32").numpy(), wide.weight.numpy())


def test_arrays_cut_up_for_protocol_2_are_joined(path: Path) -> None:
    whole = np.arange(6, dtype=np.float32).reshape(3, 2)
    flat = whole.flatten()
    table = {"weight": {"OriginShape": (3, 2), "slices": ["weight@@.0", "weight@@.1"]}}
    dumped(path, {"weight@@.0": flat[:4], "weight@@.1": flat[4:], SLICE_TABLE: table}, 2)
    assert np.array_equal(read_pdparams(path)["weight"], whole)
    dumped(path, {"weight@@.0": flat[:4], SLICE_TABLE: table}, 2)
    with pytest.raises(BadInput, match="table of sliced arrays is damaged"):
        read_pdparams(path)


def test_columns_first_arrays_are_read_as_they_are(path: Path) -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    assert np.array_equal(read_pdparams(dumped(path, {"weight": array}))["weight"], array)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.order = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.order


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"posix\.system"),
        (subprocess.check_output, r"(subprocess|commands)\.check_output"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (getattr, "getattr"),
    ],
)
def test_no_call_is_made(path: Path, protocol: int, function: Callable[..., object], name: str) -> None:
    mark = path.with_name("ran")
    dumped(path, {"weight": Call(function, f"touch {mark}")}, protocol)
    with pytest.raises(BadInput, match=rf"asks to run .*{name} while loading: not a plain weights file"):
        read_weights(path)
    assert not mark.exists()


def global_call(module: str, name: str, argument: bytes) -> bytes:
    """A protocol-2 pickle that calls ``module.name(argument)``; the argument is written as an instruction."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + argument + b"\x85R."


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02cos\nsystem\n(U\x04trueiposix\nsystem\n.", id="inst"),
        pytest.param(b"\x80\x02(cos\nsystem\nU\x04trueo.", id="obj"),
        pytest.param(b"\x80\x02cos\nsystem\n)\x81.", id="newobj"),
        pytest.param(b"\x80\x02\x82\x01.", id="ext1"),
        pytest.param(b"\x80\x02U\x01xQ.", id="persid"),
        pytest.param(b"\x80\x02}r\xff\xff\xff\x7f.", id="memo of 16 GiB"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b".", id="bytes of a pebibyte"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"}.", id="frame of a pebibyte"),
        pytest.param(global_call("numpy", "ndarray", b"J\xff\xff\xff\x7f"), id="ndarray called"),
        pytest.param(global_call("numpy", "dtype", b"U\x01O"), id="object dtype"),
        pytest.param(global_call("_codecs", "encode", b"U\x04spam"), id="encode without a codec"),
        pytest.param(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.", id="another codec"),
        pytest.param(b"\x80\x04\x8c\x0anumpy.core\x8c\x13multiarray.getlimits\x93.", id="dotted name"),
        pytest.param(b"\x80\x02" + b"\x85" * 100, id="empty stack"),
        pytest.param(b"\x80\x02" + b"]" + b"\x85" * 200_000 + b".", id="deep"),
    ],
)
def test_hand_written_pickles_are_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(BadInput):
        read_pdparams(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([None, "x"], dtype=object), "dtype 'O8', not plain numbers"),
        (np.array(["a"]), "not plain numbers"),
        (np.zeros(2, ">f4"), "big-endian"),
        (np.zeros(2, [("a", "<f4")]), "not plain numbers"),
        ({"weight": np.zeros(2)}, "a checkpoint of several parts"),
        (3, "is a int, not an array"),
    ],
)
def test_only_arrays_of_plain_numbers_are_read(path: Path, value: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_pdparams(dumped(path, {"weight": value}))


@pytest.mark.parametrize("value", [np.zeros(2), ("name", np.zeros(2)), [1], None, "text"])
def test_a_file_without_names_is_refused(path: Path, value: object) -> None:
    with pytest.raises(BadInput, match="not the named weights of a layer"):
        read_pdparams(dumped(path, value))


STATE = pickle.dumps({"weight": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}, 4)


@given(st.integers(0, len(STATE) - 1))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "w.pdparams"
    path.write_bytes(STATE[:length])
    with pytest.raises(BadInput, match=r"cut off or damaged|is empty|does not begin"):
        read_pdparams(path)


@given(st.integers(2, len(STATE) - 1), st.integers(0, 255))
@example(STATE.index(b"numpy"), ord("\n"))
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_gives_arrays_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, position: int, byte: int) -> None:
    path = tmp_path_factory.mktemp("changed") / "w.pdparams"
    path.write_bytes(STATE[:position] + bytes([byte]) + STATE[position + 1 :])
    try:
        assert all(isinstance(array, np.ndarray) and not array.dtype.hasobject for array in read_pdparams(path).values())
    except BadInput as error:
        assert "\n" not in error.message


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "w.pdparams"
    path.write_bytes(data)
    with pytest.raises(BadInput):
        read_weights(path)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("none.pdparams", "none.safetensors"):
        with pytest.raises(BadInput, match="no such weights file"):
            read_weights(tmp_path / name)
    monkeypatch.setattr("edge.models.pdparams.MAX_WEIGHTS", 100)
    for name in ("w.pdparams", "w.safetensors"):
        (tmp_path / name).write_bytes(STATE)
        with pytest.raises(BadInput, match="larger than"):
            read_weights(tmp_path / name)


W, B = np.ones((3, 2), np.float32), np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weight": W}, "the file lacks bias$"),
        ({"weight": W, "bias": B, "scale": B}, "the file has scale, which the model does not know"),
        ({"weight": W, "b": B}, "the file lacks bias and has b, which"),
        ({"net.weight": W, "net.bias": B}, "every name begins with 'net.', which the model's do not"),
        ({"0.conv": W, "0.norm": B, "1.conv": W}, "weights of another model: none of its 3 names is among the model's 2"),
        ({}, "no weights at all"),
        ({"weight": W.T, "bias": B}, r"weight has shape \[2, 3\], the model needs \[3, 2\]"),
        ({"weight": W.astype(np.float64), "bias": B}, "weight has dtype float64, the model needs float32"),
        ({"weight": W.astype(np.int64), "bias": B}, "weight has dtype int64, the model needs float32"),
        ({"weight": W * np.nan, "bias": B}, "weight holds NaN or infinity"),
        ({"weight": W, "bias": (B + np.inf).astype(np.float16)}, "bias holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, suffix: str, arrays: dict[str, Any], message: str) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / f"w{suffix}"
    if suffix == ".pdparams":
        dumped(path, arrays)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    layer = linear()
    before = layer.weight.numpy().copy()
    with pytest.raises(BadInput, match=message) as caught:
        load_weights(layer, path)
    assert str(path) in caught.value.message
    assert np.array_equal(layer.weight.numpy(), before)


def test_a_missing_prefix_is_named(path: Path) -> None:
    import paddle

    with pytest.raises(BadInput, match=r"the model's names begin with '0\.', those in the file do not"):
        load_weights(paddle.nn.Sequential(linear()), dumped(path, {"weight": W, "bias": B}))
