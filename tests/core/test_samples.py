"""What an export calibrates with: every source is checked against the model's inputs, and whatever does not fit is one sentence."""

from __future__ import annotations

import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edge.artifact import TensorInfo
from edge.datasets import images, samples
from edge.datasets.preprocessing import preprocess
from edge.datasets.samples import Preprocessing, Samples, export_data, parse_preprocessing
from edge.errors import BadInput

GREY = TensorInfo(name="x", shape=(None, 1, 28, 28), dtype="float32")
COLOUR = TensorInfo(name="x", shape=(None, 3, 8, 12), dtype="float32")
HOW = Preprocessing(size=(8, 12))
on_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def numbered(count: int, *shape: int) -> NDArray[np.float32]:
    """[count, *shape], every value of sample k is k."""
    return np.broadcast_to(np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def paint(path: Path, level: int, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


# hypothesis finds the numbers whose text does not read back
finite = st.floats(-1e6, 1e6, allow_nan=False)
positive = st.floats(1e-6, 1e6, allow_nan=False)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    order = draw(st.sampled_from(["rgb", "bgr", "grey"]))
    lengths = st.sampled_from([1] if order == "grey" else [1, 3])
    size = draw(st.tuples(st.integers(1, 4096), st.integers(1, 4096)))
    resize = draw(st.sampled_from(["stretch", "crop", "pad"]))
    mean, std = (tuple(draw(st.lists(of, min_size=(n := draw(lengths)), max_size=n))) for of in (finite, positive))
    short = draw(st.none() | st.integers(max(size), 8192)) if resize == "crop" else None
    return Preprocessing(size, mean, std, draw(positive), order, resize, short)  # type: ignore[arg-type]


@given(preprocessings())
def test_preprocessing_reads_back_what_it_writes(how: Preprocessing) -> None:
    assert parse_preprocessing(str(how)) == how


@given(st.text(max_size=40) | st.lists(st.sampled_from(["size=", "4x5", "mean=", "0.5", "/", ",", "=", "order=bgr", "x", "inf"])).map("".join))
def test_any_preprocessing_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        how = parse_preprocessing(text)
    except BadInput as error:
        assert error.message.startswith("preprocessing: ") and error.hint
    else:
        assert parse_preprocessing(str(how)) == how


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mean=0.5", "size is missing"),
        ("size=224,zoom=2", "'zoom=2' is not one of size, mean"),
        ("size=224,size=225", "size is given twice"),
        ("size=224x", "size=224x is not understood"),
        ("size=0x9", "each side must be 1 to 4096"),
        ("size=8,order=rbg", "order=rbg: must be one of rgb, bgr, grey"),
        ("size=8,mean=1/2", "must be 1 finite number, or 3"),
        ("size=8,order=grey,mean=1/2/3", "must be 1 finite number"),
        ("size=8,std=0", "greater than 0"),
        ("size=8,scale=1/0", "scale=1/0 is not understood"),
        ("size=8,mean=nan", "finite"),
        ("size=8,short=9", "goes with resize=crop"),
        ("size=8,resize=crop,short=7", "must be 8 to"),
    ],
)
def test_a_malformed_preprocessing_is_named(text: str, problem: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_preprocessing(text)
    assert problem in caught.value.message


def test_preprocessing_text_has_defaults_and_fractions() -> None:
    assert parse_preprocessing("size=4X6, scale=1/128") == Preprocessing((4, 6), scale=1 / 128)
    assert parse_preprocessing("size=7").shape == (3, 7, 7)


def test_channels_and_normalisation() -> None:
    red = Image.new("RGB", (5, 5), (255, 0, 51))
    rgb = preprocess(red, Preprocessing((2, 3), mean=(0.5, 0.25, 0.2), std=(0.5, 0.25, 1.0)))
    np.testing.assert_allclose(rgb[:, 0, 0], [1, -1, 0], atol=1e-6)
    bgr = preprocess(red, Preprocessing((2, 3), scale=1.0, order="bgr"))
    assert rgb.shape == (3, 2, 3) and bgr[:, 1, 2].tolist() == [51, 0, 255]
    assert preprocess(red, Preprocessing((2, 2), scale=1.0, order="grey")).tolist() == [[[82, 82], [82, 82]]]


def test_crop_keeps_the_middle_and_pad_fills_with_zero() -> None:
    wide = Image.new("L", (40, 10), 0)
    wide.paste(200, (15, 0, 25, 10))
    crop = preprocess(wide, Preprocessing((10, 10), scale=1.0, order="grey", resize="crop"))
    assert (crop == 200).all()
    shorter = preprocess(wide, Preprocessing((10, 10), scale=1.0, order="grey", resize="crop", short=20))
    assert (shorter == 200).all()
    assert (preprocess(wide, Preprocessing((10, 10), scale=1.0, order="grey")) < 200).any()
    pad = preprocess(wide, Preprocessing((20, 20), mean=(100.0,), scale=1.0, order="grey", resize="pad"))
    assert (pad[0, 5:] == 0).all() and pad[0, :5].min() == -100 and pad[0, :5].max() == 100


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_an_extremely_long_picture_costs_no_more_than_its_result(resize: Any) -> None:
    assert preprocess(Image.new("RGB", (100_000, 1)), Preprocessing((64, 64), resize=resize)).shape == (3, 64, 64)


def test_a_data_set_calibrates_with_training_images_and_judges_with_test_images() -> None:
    data = export_data("digits", [GREY], calibration_count=20)
    assert (data.name, data.real, len(data.calibration), len(data.judge)) == ("digits", True, 20, 360)
    assert data.description == "20 training images of digits; judged on 360 test images"
    assert data.judge.labels is not None and data.judge.labels.shape == (360,)
    held = export_data("digits:held-out", [GREY], judge_count=1)
    assert (held.name, len(held.judge)) == ("digits:held-out", 1) and "1 held-out training image" in held.description


def test_a_data_set_without_classes_gives_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "UNLABELLED", frozenset({"digits"}))
    data = export_data("digits", [GREY])
    assert data.judge.labels is None and data.calibration.labels is None


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ([COLOUR], "array 'images' has the shape [N, 1, 28, 28], the model's input 'x' needs [N, 3, 8, 12]"),
        ([TensorInfo(name="x", shape=(None, 1, 28, 28), dtype="float16")], "array 'images' is float32, the model's input 'x' needs float16"),
        ([GREY, COLOUR], "feeds one input, the model has 2"),
        ([], "no inputs"),
        ([TensorInfo(name="x", shape=(), dtype="float32")], "shape []"),
        ([TensorInfo(name="x", shape=(None, -1), dtype="float32")], "no empty dimension"),
        ([TensorInfo(name="x", shape=(None, 1), dtype="bfloat16")], "is bfloat16"),
        ([TensorInfo(name="x", shape=(None, 1), dtype="object")], "is object"),
    ],
)
def test_a_model_that_does_not_fit_a_data_set(inputs: list[TensorInfo], problem: str) -> None:
    with pytest.raises(BadInput) as caught:
        export_data("digits", inputs)
    assert problem in caught.value.message


def test_unknown_specs_and_counts() -> None:
    with pytest.raises(BadInput, match="neither a data set, a folder nor a file") as caught:
        export_data("nowhere", [GREY])
    assert "digits" in str(caught.value.hint) and "random" in str(caught.value.hint)
    with pytest.raises(BadInput, match="0 samples were asked for"):
        export_data("digits", [GREY], judge_count=0)
    with pytest.raises(BadInput, match="no folder of pictures and no video"):
        export_data("random", [COLOUR], preprocessing=HOW)


def test_random_is_seeded_disjoint_and_not_real() -> None:
    ids = TensorInfo(name="ids", shape=(None, None), dtype="int64")
    mask = TensorInfo(name="mask", shape=(1, None, 4), dtype="bool")
    pixels = TensorInfo(name="pixels", shape=(None, None, None, 8), dtype="float16")
    data, again = (export_data("random", [ids, mask, pixels]) for _ in range(2))
    assert not data.real and data.name == "random" and (len(data.calibration), len(data.judge)) == (64, 16)
    assert [array.shape for array in data.judge.inputs] == [(16, 16), (16, 16, 4), (16, 3, 224, 8)]
    assert [array.dtype.name for array in data.judge.inputs] == ["int64", "bool", "float16"]
    assert data.calibration.inputs[0].min() >= 0 and 90 < data.calibration.inputs[0].max() < 100
    assert not np.array_equal(data.calibration.inputs[2][:16], data.judge.inputs[2])
    for ours, theirs in zip(data.judge.inputs, again.judge.inputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_random_of_large_inputs_is_fewer_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_BYTES", 10 * 4 * 28 * 28)
    data = export_data("random", [GREY])
    assert (len(data.calibration), len(data.judge)) == (5, 5)
    monkeypatch.undo()
    assert [len(export_data("random", [GREY], judge_count=count).judge) for count in (None, 3)] == [16, 3]
    picture = TensorInfo(name="x", shape=(None, 3, 224, 224), dtype="float32")
    assert len(export_data("random", [picture], calibration_count=2).judge) == 2
    with pytest.raises(BadInput, match="random input: 2 samples take"):
        export_data("random", [TensorInfo(name="x", shape=(None, 10**6, 10**6), dtype="float32")])


@given(
    count=st.integers(0, 9),
    dims=st.lists(st.integers(0, 4), max_size=3),
    dynamic=st.lists(st.booleans(), min_size=3, max_size=3),
    stray=st.sampled_from([None, "rank", "dtype", "dim"]),
)
@on_tmp_path
def test_npz_shapes(tmp_path: Path, count: int, dims: list[int], dynamic: list[bool], stray: str | None) -> None:
    shape = [*dims, 1] if stray == "rank" else [dims[0] + 1, *dims[1:]] if stray == "dim" and dims else dims
    spec = save(tmp_path / "a.npz", x=np.ones((count, *shape), np.float64 if stray == "dtype" else np.float32))
    needed = [None if free else max(1, dim) for dim, free in zip(dims, dynamic, strict=False)]
    fits = stray not in ("rank", "dtype") and all(found > 0 if need is None else found == need for found, need in zip(shape, needed, strict=False))
    inputs = [TensorInfo(name="x", shape=(None, *needed), dtype="float32")]
    if fits and count >= 2:
        data = export_data(spec, inputs)
        assert len(data.calibration) + len(data.judge) == count
        assert data.judge.inputs[0].shape[1:] == tuple(shape)
        return
    with pytest.raises(BadInput) as caught:
        export_data(spec, inputs)
    assert "a.npz" in caught.value.message and "\n" not in caught.value.message


def test_npz_samples_are_split_turn_by_turn_with_their_labels(tmp_path: Path) -> None:
    two = [TensorInfo(name="a", shape=(None, 2), dtype="float32"), TensorInfo(name="b/c", shape=(1, None), dtype="int32")]
    arrays = {"b/c": np.zeros((7, 3), np.int32), "a": numbered(7, 2), "labels": np.arange(7, dtype=np.uint8)}
    data = export_data(save(tmp_path / "calib.npz", **arrays), two)
    assert data.name == "npz:calib.npz" and data.description == "4 samples of calib.npz; judged on 3 other samples"
    assert data.calibration.inputs[0][:, 0].tolist() == [0, 2, 4, 6] and data.judge.inputs[0][:, 0].tolist() == [1, 3, 5]
    assert data.judge.inputs[1].shape == (3, 3) and data.judge.inputs[1].dtype == np.int32
    assert data.judge.labels is not None and data.judge.labels.dtype == np.int64 and data.judge.labels.tolist() == [1, 3, 5]
    fewer = export_data(str(tmp_path / "calib.npz"), two, calibration_count=2, judge_count=1)
    assert fewer.calibration.inputs[0][:, 0].tolist() == [0, 4] and len(fewer.judge) == 1


def test_a_single_array_may_have_any_name_and_byte_order(tmp_path: Path) -> None:
    data = export_data(save(tmp_path / "a.npz", pictures=numbered(2, 1, 28, 28).astype(">f4")), [GREY])
    assert data.judge.inputs[0].dtype == np.float32 and (data.judge.inputs[0] == 1).all() and data.judge.labels is None


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"y": np.zeros((4, 1)), "z": np.zeros((4, 1))}, "has no array for the model's input 'x', it holds 'y', 'z'"),
        ({"labels": np.zeros(4, np.int64)}, "has no array for the model's input 'x', it holds 'labels'"),
        ({}, "it holds nothing"),
        ({"x": numbered(4, 1, 28, 28), "label": np.zeros(4)}, "array 'label' is neither an input of the model nor 'labels'"),
        ({"x": numbered(4, 1, 28, 28).astype(np.float64)}, "array 'x' is float64, the model's input 'x' needs float32"),
        ({"x": numbered(4, 28, 28, 1)}, "array 'x' has the shape [N, 28, 28, 1], the model's input 'x' needs [N, 1, 28, 28]"),
        ({"x": np.where(numbered(4, 1, 28, 28) == 2, np.nan, 0).astype(np.float32)}, "NaN or infinity, first in sample 2"),
        ({"x": np.where(numbered(4, 1, 28, 28) == 1, np.inf, 0).astype(np.float32)}, "NaN or infinity, first in sample 1"),
        ({"x": numbered(4, 1, 28, 28), "labels": np.zeros(3, np.int64)}, "array 'labels' is int64 of shape (3,), needed are 4 integers"),
        ({"x": numbered(4, 1, 28, 28), "labels": np.zeros(4)}, "array 'labels' is float64"),
        ({"x": numbered(4, 1, 28, 28), "labels": np.array([0, 1, -1, 2])}, "-1 to 2, which are not class numbers"),
        ({"x": numbered(1, 1, 28, 28)}, "holds 1 sample, at least 2 are needed"),
        ({"x": np.array([object()] * 4)}, "not a readable npz file: Object arrays cannot be loaded"),
        ({"x": np.array(["a", "b"])}, "array 'x' is str"),
    ],
)
def test_an_npz_that_does_not_fit_is_one_sentence(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput) as caught:
        export_data(save(tmp_path / "a.npz", **arrays), [GREY])
    assert problem in caught.value.message and str(tmp_path / "a.npz") in caught.value.message


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    two = [TensorInfo(name=name, shape=(None, 2), dtype="float32") for name in "ab"]
    with pytest.raises(BadInput, match="'b' holds 3 samples, 'a' holds 4"):
        export_data(save(tmp_path / "a.npz", a=numbered(4, 2), b=numbered(3, 2)), two)


def test_a_pickle_in_an_npz_never_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(BadInput, match="not a readable npz file"):
        export_data(save(tmp_path / "a.npz", x=np.array([Trap(), Trap()], object)), [GREY])
    assert not (tmp_path / "ran").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        # not even an array: unpacking it would fail with another sentence
        archive.writestr("x.npy", b"\0" * (2 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    with pytest.raises(BadInput, match="unpacks to more than 1 MiB"):
        export_data(str(tmp_path / "a.npz"), [GREY])


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    header = str({"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 28)}).ljust(117).encode() + b"\n"
    members = {"lies": b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + b"\0" * 64, "no array": b"hello", "empty": b""}
    for content in members.values():
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(BadInput, match="not a readable npz file"):
            export_data(str(tmp_path / "a.npz"), [GREY])


@given(cut=st.floats(0, 0.999), flip=st.integers(0, 10_000))
@on_tmp_path
def test_a_damaged_npz_never_crashes(tmp_path: Path, cut: float, flip: int) -> None:
    path = tmp_path / "whole.npz"
    save(path, x=numbered(4, 1, 28, 28))
    whole = path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(BadInput, match="not a readable npz file"):
        export_data(str(tmp_path / "cut.npz"), [GREY])
    flipped = bytearray(whole)
    flipped[flip % len(whole)] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    try:
        export_data(str(tmp_path / "flipped.npz"), [GREY])
    except BadInput as error:
        assert "flipped.npz" in error.message


def test_other_files_are_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(4, 1, 28, 28))
    with pytest.raises(BadInput, match="not a zip archive"):
        export_data(str(tmp_path / "a.npy"), [GREY])


def test_class_folders_are_labels_and_every_class_calibrates(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog", "eel")):
        for index in range(4):
            paint(tmp_path / "photos" / name / f"{index}.{('png', 'JPG', 'jpeg', 'bmp')[index]}", 60 * label + index)
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "photos" / ".hidden").mkdir()
    data = export_data(str(tmp_path / "photos"), [COLOUR], preprocessing=Preprocessing((8, 12), scale=1.0), calibration_count=3)
    assert data.name == "images:photos" and data.real
    assert data.description == "3 pictures of photos; judged on 6 other pictures; classes: 0=cat, 1=dog, 2=eel"
    assert data.calibration.labels is not None and data.calibration.labels.tolist() == [0, 1, 2]
    assert data.judge.labels is not None and data.judge.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.judge.inputs[0].shape == (6, 3, 8, 12) and data.judge.inputs[0].dtype == np.float32
    np.testing.assert_allclose(data.judge.inputs[0][:, 0, 0, 0], [1, 3, 61, 63, 121, 123], atol=1)


def test_pictures_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    for index in range(3):
        paint(tmp_path / f"{index}.png", index)
    data = export_data(str(tmp_path), [COLOUR], preprocessing=HOW)
    assert data.calibration.labels is None and (len(data.calibration), len(data.judge)) == (2, 1)


@pytest.mark.parametrize(
    ("files", "how", "problem"),
    [
        ([], HOW, "holds no .bmp, .jpeg, .jpg, .png file"),
        (["a.png"], HOW, "holds 1 sample, at least 2 are needed"),
        (["a.png", "c/a.png"], HOW, "holds pictures (a.png) beside class folders (c)"),
        (["a.png", "b.png"], None, "needs its preprocessing"),
        (["a.png", "b.png"], Preprocessing((12, 8)), "gives float32 [N, 3, 12, 8], the model's input 'x' needs float32 [N, 3, 8, 12]"),
        (["a.png", "b.png"], Preprocessing((8, 12), order="grey"), "gives float32 [N, 1, 8, 12]"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_sentence(tmp_path: Path, files: list[str], how: Preprocessing | None, problem: str) -> None:
    for name in files:
        paint(tmp_path / name, 0)
    with pytest.raises(BadInput) as caught:
        export_data(str(tmp_path), [COLOUR], preprocessing=how)
    assert problem in caught.value.message and caught.value.message.startswith(str(tmp_path))


def test_one_broken_picture_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 0)
    paint(tmp_path / "b.jpg", 0, (400, 400))
    whole = (tmp_path / "b.jpg").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"GIF89a" + whole):
        (tmp_path / "b.jpg").write_bytes(broken)
        with pytest.raises(BadInput, match=r"b\.jpg: not a readable PNG, JPEG or BMP picture"):
            export_data(str(tmp_path), [COLOUR], preprocessing=HOW)


def test_pictures_that_are_too_large_or_too_deep_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match="more than 8 bits a channel"):
        images.read_image(tmp_path / "deep.png")
    paint(tmp_path / "large.png", 0, (100, 100))
    monkeypatch.setattr(images, "MAX_PIXELS", 9_999)
    with pytest.raises(BadInput, match="100 x 100 pixels"):
        images.read_image(tmp_path / "large.png")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="larger than"):
        images.read_image(tmp_path / "large.png")


def test_a_decompression_bomb_is_refused_and_warns_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "bomb.png", 0, (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)
    with warnings.catch_warnings(record=True) as seen, pytest.raises(BadInput, match=r"bomb\.png: not a readable"):
        images.read_image(tmp_path / "bomb.png")
    assert not seen


def test_too_many_pictures_are_refused_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_BYTES", 4 * 3 * 8 * 12 * 3)
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(b"not read")
    with pytest.raises(BadInput, match="4 samples take"):
        export_data(str(tmp_path), [COLOUR], preprocessing=HOW)


def test_a_camera_s_turn_is_followed(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 2))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert images.read_image(tmp_path / "turned.jpg").size == (2, 4)


def test_head_keeps_inputs_and_labels_together() -> None:
    whole = Samples((numbered(5, 2), numbered(5, 1)), np.arange(5))
    head = whole.head(2)
    assert len(whole) == 5 and len(head) == 2
    assert head.labels is not None and head.labels.tolist() == [0, 1] and [a.shape for a in head.inputs] == [(2, 2), (2, 1)]
