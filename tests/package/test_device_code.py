"""What ships to the device: its pictures are those of the desk, its decoder gives back every byte, and it needs nothing but Python 3.8 and numpy."""

from __future__ import annotations

import ast
import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edge.compress.packing import pack_file
from edge.datasets.preprocessing import Preprocessing, preprocess
from edge.models.saved import stored_tensors
from edge.package import regions
from edge.package.run import compare, images
from edge.package.run.bundle import Refused
from edge.package.run.decode import Damaged, unpack_file
from edge.package.run.install import fits
from edge.vocabulary import Format
from tests.conftest import ROOT, Demo

RUN = ROOT / "edge" / "package" / "run"


def test_it_needs_only_the_standard_library_and_numpy_and_parses_as_python_3_8() -> None:
    known = set(sys.stdlib_module_names) | {"numpy", "PIL", "edge_worker"}  # the worker lies beside it
    for file in sorted(RUN.glob("*.py")):
        tree = ast.parse(file.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if not (isinstance(node, ast.ImportFrom) and node.level):
                assert {name.split(".")[0] for name in named} <= known, file
    head = ast.parse((RUN / "__main__.py").read_text())
    assert not any(isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr)) for node in ast.walk(head)), (
        "an old Python must be able to read it"
    )


PIXELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


@given(pixels=PIXELS, mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "P"]), kind=st.sampled_from(["PNG", "PPM"]))
@settings(max_examples=60, deadline=None)
def test_a_picture_reads_as_pillow_reads_it(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray, mode: str, kind: str) -> None:
    picture = Image.fromarray(pixels).convert(mode if kind == "PNG" else "L" if mode in ("L", "LA") else "RGB")
    path = tmp_path_factory.mktemp("picture") / "x"
    picture.save(path, kind)
    assert np.array_equal(images.read_image(str(path)), np.asarray(picture.convert("RGB")))


@given(pixels=PIXELS, filters=st.lists(st.integers(0, 4), min_size=40, max_size=40))
@settings(max_examples=40, deadline=None)
def test_every_filter_of_png_is_undone(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray, filters: list[int]) -> None:
    import struct
    import zlib

    height, width, _ = pixels.shape
    flat, rows = pixels.reshape(height, -1).astype(int), []
    for number, line in enumerate(flat):
        above = flat[number - 1] if number else np.zeros_like(line)
        left, corner = np.r_[0, 0, 0, line[:-3]], np.r_[0, 0, 0, above[:-3]]
        paeth = [min(((abs(u - c), 0, a), (abs(a - c), 1, u), (abs(a + u - 2 * c), 2, c)))[2] for a, u, c in zip(left, above, corner, strict=True)]
        guess = [0 * line, left, above, (left + above) >> 1, np.array(paeth)][filters[number]]
        rows.append(bytes([filters[number]]) + ((line - guess) & 255).astype(np.uint8).tobytes())
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    data = images.SIGNATURE + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    path = tmp_path_factory.mktemp("png") / "x.png"
    path.write_bytes(data)
    assert np.array_equal(images.read_image(str(path)), pixels) and np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


@given(data=st.binary(max_size=200), head=st.sampled_from([images.SIGNATURE, b"P5\n", b"P6 3 4 255\n", b""]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_picture_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "x"
    path.write_bytes(head + data)
    try:
        assert images.read_image(str(path)).dtype == np.uint8
    except Refused as refusal:
        assert str(path) in str(refusal)


@given(
    pixels=PIXELS,
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    order=st.sampled_from(["rgb", "bgr", "grey"]),
    resize=st.sampled_from(["stretch", "crop", "pad"]),
    short=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_preprocessing_is_that_of_the_desk(pixels: np.ndarray, size: tuple[int, int], order: str, resize: str, short: bool) -> None:
    how = Preprocessing(size, (0.4,), (0.2,), order=order, resize=resize, short=max(size) + 3 if short and resize == "crop" else None)  # type: ignore[arg-type]
    found = images.preprocess(pixels, how.__dict__)
    wanted = preprocess(Image.fromarray(pixels), how)[None]
    assert found.shape == wanted.shape and found.dtype == np.float32
    step = how.scale / 0.2  # of one of 256 levels: Pillow 13 may take the other direction first, and round differently
    assert np.abs(found - wanted).max() <= 2.01 * step
    if size[0] == pixels.shape[0] or size[1] == pixels.shape[1]:
        assert np.array_equal(found, wanted) or resize != "stretch"


FLOATS = hnp.arrays(np.float32, st.integers(0, 60), elements=st.sampled_from([0.0, 1.0, -0.5, 3.25, float("nan"), float("inf")]))


@given(parts=st.lists(st.tuples(st.binary(max_size=20), FLOATS), max_size=5), tail=st.binary(max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_packed_file_comes_back_byte_by_byte(parts: list[tuple[bytes, np.ndarray]], tail: bytes) -> None:
    data, found = b"", []
    for gap, tensor in parts:
        data += gap
        found.append((len(data), tensor))
        data += tensor.tobytes()
    data += tail
    assert unpack_file(pack_file(data, found)) == data


@given(data=st.binary(max_size=100), head=st.sampled_from([b"", b"EDGEMF", b"EDGEMF\x08EDGEPK\x00"]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_packed_file_or_one_sentence(data: bytes, head: bytes) -> None:
    try:
        unpack_file(head + data)
    except Damaged as error:
        assert "not a readable packed model" in str(error)


def test_the_tensors_of_model_files_are_found(demo: Demo) -> None:
    for cell, name, format in (("onnx-fp32", "model.onnx", Format.ONNX), ("paddle-inference-fp32", "model.pdiparams", Format.PADDLE_INFERENCE)):
        path = demo.artifacts / f"mnist_student_distilled-{cell}" / name
        found = regions.tensor_regions(path, path.read_bytes(), format)
        assert sum(tensor.nbytes for _, tensor in found) > 0.9 * path.stat().st_size
        packed = pack_file(path.read_bytes(), found)
        assert unpack_file(packed) == path.read_bytes() and len(packed) < 0.95 * path.stat().st_size
    params = demo.artifacts / "mnist_student_distilled-paddle-inference-fp32" / "model.pdiparams"
    assert [each.offset for each in stored_tensors(params)] == sorted(each.offset for each in stored_tensors(params))


def test_a_wheel_fits_or_not() -> None:
    mine = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    import platform

    machine = platform.machine()
    assert fits("a-1-py3-none-any.whl") and fits(f"a-1-{mine}-{mine}-manylinux_2_17_{machine}.manylinux2014_{machine}.whl")
    assert fits(f"a-1-cp38-abi3-manylinux2014_{machine}.whl") and fits(f"a-1-{mine}-{mine}-linux_{machine}.whl")
    assert not fits("a-1-cp36-cp36m-win_amd64.whl") and not fits(f"a-1-{mine}-{mine}-manylinux_2_99_{machine}.whl") and not fits("a.whl")
    assert not fits(f"a-1-{mine}-{mine}-manylinux_2_17_other.whl") and not fits(f"a-1-{mine}-{mine}-musllinux_1_1_{machine}.whl")


def test_figures_of_empty_outputs_are_no_error() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert compare.largest_difference(empty, empty) == compare.relative_difference(empty, empty) == 0.0
