"""What an export calibrates with and is judged on: from a data set, a folder of pictures, an npz file, or made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import TensorInfo
from edge.datasets import UNLABELLED, Split, known_datasets, load_dataset
from edge.datasets.images import image_folder, read_image
from edge.datasets.preprocessing import EXAMPLE, Preprocessing, parse_preprocessing, preprocess
from edge.datasets.video import SUFFIXES as VIDEOS
from edge.datasets.video import count_frames, read_frames
from edge.errors import BadInput
from edge.files import read_npz

__all__ = ["ExportData", "Preprocessing", "Samples", "export_data", "parse_preprocessing"]

RANDOM = "random"
#: The array of an npz file that holds the classes.
LABELS = "labels"
#: Samples that take more are refused, in bytes unpacked.
MAX_BYTES = 2 << 30
#: Random data: at most so many samples calibrate; integers are drawn from 0 up to below ``RANDOM_HIGH``.
RANDOM_CALIBRATION, RANDOM_HIGH = 64, 100
#: Random data: as many samples judge by default as fit so many bytes, within these bounds. They show whether two programs compute the same,
#: not how well, and every runtime must compute them all.
RANDOM_JUDGE_BYTES, RANDOM_JUDGE = 1 << 20, (2, 16)
RANDOM_SEED = 20_20
#: Frames of a video that judge by default.
VIDEO_JUDGE = 512
#: Random data: what a dynamic dimension becomes. Channels, height and width of a 4-D float input; any other is a sequence's length.
DYNAMIC_IMAGE, DYNAMIC_SEQUENCE = (3, 224, 224), 16


@dataclass(frozen=True)
class Samples:
    """One array for each model input, in the model's order, each [N, ...], and the classes [N] where they are known."""

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def head(self, count: int) -> Samples:
        return self.pick(slice(count))

    def pick(self, which: slice | NDArray[np.int64]) -> Samples:
        return Samples(tuple(array[which] for array in self.inputs), None if self.labels is None else self.labels[which])


@dataclass(frozen=True)
class ExportData:
    """Calibration samples and the samples that judge; no sample is in both.

    Attributes:
        name: goes into the manifest: ``mnist``, ``random``, ``npz:calib.npz``, ``images:photos``.
        real: False for random input, from which no accuracy and no int8 quality can be told.
        description: one line for a person, e.g. ``512 training images of mnist; judged on 10,000 test images``.
    """

    name: str
    calibration: Samples
    judge: Samples
    real: bool
    description: str


def export_data(
    spec: str,
    inputs: Sequence[TensorInfo],
    *,
    preprocessing: Preprocessing | None = None,
    calibration_count: int = 512,
    judge_count: int | None = None,
) -> ExportData:
    """The samples that ``spec`` names, checked against the model's inputs.

    Args:
        spec: the name of a data set (it wins over a path of that name: write ``./mnist`` for that); a folder of pictures; a video; an ``.npz``
            file with an array for each input, named as the input (any name where there is one), and optional ``labels``; or ``random``.
        inputs: the model's, with the batch as their first dimension.
        preprocessing: for a folder of pictures or a video, and only for these.
        calibration_count: at most so many calibrate; of random input at most 64.
        judge_count: at most so many judge; None is all, of random input 2 to 16, by their size.

    A data set calibrates with its training images and is judged on its test images. A folder's or file's samples are split: the 1st, 3rd,
    5th, ... calibrate, the others judge; of too many, evenly spread ones are taken.

    Raises:
        BadInput: unknown, unreadable or too large data, or data that do not fit the model.
    """
    counts = (calibration_count, judge_count)
    if calibration_count < 1 or (judge_count is not None and judge_count < 1):
        raise BadInput(f"{min(c for c in counts if c is not None)} samples were asked for, at least 1 must calibrate and 1 judge")
    for info in inputs:
        _check_input(info)
    if not inputs:
        raise BadInput("the model has no inputs")
    path = spec != RANDOM and spec.partition(":")[0] not in known_datasets()
    folder, video = path and Path(spec).is_dir(), path and Path(spec).suffix.lower() in VIDEOS and Path(spec).is_file()
    if preprocessing is not None and not (folder or video):
        raise BadInput(f"preprocessing was given, but {spec!r} is no folder of pictures and no video", hint="leave it out")
    if spec == RANDOM:
        return _random(inputs, *counts)
    if spec.partition(":")[0] in known_datasets():
        return _from_dataset(spec, inputs, *counts)
    if folder:
        return _from_folder(Path(spec), inputs, preprocessing, *counts)
    if video:
        return _from_video(Path(spec), inputs, preprocessing, *counts)
    if Path(spec).is_file():
        return _from_npz(Path(spec), inputs, *counts)
    raise BadInput(
        f"{spec!r} is neither a data set, a folder nor a file",
        hint=f"data sets: {', '.join(known_datasets())}; or {RANDOM}, a folder, a video, an .npz file",
    )


def _from_dataset(name: str, inputs: Sequence[TensorInfo], calibration_count: int, judge_count: int | None) -> ExportData:
    data = load_dataset(name)
    info = _only_input(inputs, f"data set {name}")
    parts = []
    for split, count in ((data.train, calibration_count), (data.test, judge_count)):
        taken = split if count is None else split.head(count)
        parts.append(_samples(f"data set {name}", taken, info, labelled=name.partition(":")[0] not in UNLABELLED))
    kind = "held-out training" if ":" in data.name else "test"
    note = f" ({data.note})" if data.note else ""
    text = f"{_count(parts[0], 'training image')} of {data.name}; judged on {_count(parts[1], f'{kind} image')}{note}"
    return ExportData(data.name, parts[0], parts[1], True, text)


def _samples(source: str, split: Split, info: TensorInfo, labelled: bool) -> Samples:
    return Samples((_fitting(source, "images", split.images, info),), split.labels if labelled else None)


def _from_npz(path: Path, inputs: Sequence[TensorInfo], calibration_count: int, judge_count: int | None) -> ExportData:
    arrays = read_npz(path, MAX_BYTES)
    named = _input_arrays(path, arrays, inputs)
    fitted = tuple(_fitting(str(path), name, arrays[name], info) for name, info in zip(named, inputs, strict=True))
    for name, array in zip(named, fitted, strict=True):
        if len(array) != len(fitted[0]):
            raise BadInput(f"{path}: array {name!r} holds {len(array)} samples, {named[0]!r} holds {len(fitted[0])}")
    has_labels = LABELS in arrays and LABELS not in named
    labels = _labels(path, arrays[LABELS], len(fitted[0])) if has_labels else None
    name = f"npz:{path.name}"
    calibrates, judges = _halves(str(path), len(fitted[0]), calibration_count, judge_count)
    whole = Samples(fitted, labels)
    return _split_data(name, whole.pick(calibrates), whole.pick(judges), "sample")


def _input_arrays(path: Path, arrays: dict[str, NDArray[Any]], inputs: Sequence[TensorInfo]) -> list[str]:
    """For each model input the name of its array."""
    wanted = [info.name for info in inputs]
    others = [name for name in arrays if name not in (*wanted, LABELS)]
    if len(wanted) == 1 and wanted[0] not in arrays and len(others) == 1:
        return others
    missing = [name for name in wanted if name not in arrays]
    held = ", ".join(map(repr, arrays)) or "nothing"
    if missing:
        raise BadInput(
            f"{path}: has no array for the model's input {missing[0]!r}, it holds {held}",
            hint=f"np.savez({path.name!r}, **{{{missing[0]!r}: array}})",
        )
    if others:
        raise BadInput(f"{path}: array {others[0]!r} is neither an input of the model nor {LABELS!r}", hint=f"the inputs are: {', '.join(wanted)}")
    return wanted


def _labels(path: Path, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise BadInput(f"{path}: array {LABELS!r} is {labels.dtype.name} of shape {labels.shape}, needed are {count} integers")
    if count and (int(labels.min()) < 0 or int(labels.max()) > np.iinfo(np.int32).max):
        raise BadInput(f"{path}: array {LABELS!r} holds {labels.min()} to {labels.max()}, which are not class numbers")
    return labels.astype(np.int64)


def _from_folder(
    folder: Path, inputs: Sequence[TensorInfo], how: Preprocessing | None, calibration_count: int, judge_count: int | None
) -> ExportData:
    how = _fitting_preprocessing(f"{folder}: a folder of pictures", inputs, how)
    found = image_folder(folder)
    chosen = _halves(str(folder), len(found.files), calibration_count, judge_count)
    refuse_too_large(str(folder), sum(map(len, chosen)), 4 * math.prod(how.shape))
    parts = []
    for indices in chosen:
        images = np.stack([preprocess(read_image(found.files[index]), how) for index in indices])
        parts.append(Samples((images,), None if found.labels is None else found.labels[indices]))
    classes = f"; classes: {', '.join(f'{k}={name}' for k, name in enumerate(found.classes[:3]))}" if found.classes else ""
    more = f" to {len(found.classes) - 1}={found.classes[-1]}" if len(found.classes) > 3 else ""
    data = _split_data(f"images:{folder.resolve().name}", parts[0], parts[1], "picture")
    return ExportData(data.name, data.calibration, data.judge, data.real, data.description + classes + more)


def _from_video(path: Path, inputs: Sequence[TensorInfo], how: Preprocessing | None, calibration_count: int, judge_count: int | None) -> ExportData:
    how = _fitting_preprocessing(f"{path}: a video", inputs, how)
    chosen = _halves(str(path), count_frames(path), calibration_count, judge_count or VIDEO_JUDGE)
    refuse_too_large(str(path), sum(map(len, chosen)), 4 * math.prod(how.shape))
    frames = [np.stack([preprocess(frame, how) for frame in read_frames(path, indices.tolist())]) for indices in chosen]
    return _split_data(f"video:{path.name}", Samples((frames[0],), None), Samples((frames[1],), None), "frame")


def _fitting_preprocessing(source: str, inputs: Sequence[TensorInfo], how: Preprocessing | None) -> Preprocessing:
    """What turns a picture into the model's only input."""
    info = _only_input(inputs, source)
    if how is None:
        raise BadInput(f"{source} needs its preprocessing", hint=f"for example: {EXAMPLE}")
    if not _fits((0, *how.shape), info) or info.dtype != "float32":
        given, needed = (f"float32 {_shape((None, *how.shape))}", f"{info.dtype} {_needed(info)}")
        raise BadInput(f"{source}: the preprocessing gives {given}, the model's input {info.name!r} needs {needed}", hint="change its size or order")
    return how


def _split_data(name: str, calibration: Samples, judge: Samples, noun: str) -> ExportData:
    text = f"{_count(calibration, noun)} of {name.partition(':')[2]}; judged on {_count(judge, f'other {noun}')}"
    return ExportData(name, calibration, judge, True, text)


def _random(inputs: Sequence[TensorInfo], calibration_count: int, judge_count: int | None) -> ExportData:
    """Seeded noise: floats standard normal, integers 0 to 99, booleans even. Fewer samples where 2 GiB would not hold them."""
    shapes = [tuple(_filled(info, axis) for axis in range(1, len(info.shape))) for info in inputs]
    each = sum(np.dtype(info.dtype).itemsize * math.prod(shape) for info, shape in zip(inputs, shapes, strict=True))
    refuse_too_large(f"{RANDOM} input", 2, each)
    fitting = MAX_BYTES // 2 // max(each, 1)
    judging = judge_count or int(np.clip(RANDOM_JUDGE_BYTES // max(each, 1), *RANDOM_JUDGE))
    counts = [min(calibration_count, RANDOM_CALIBRATION, fitting), min(judging, fitting)]
    rng = np.random.default_rng(RANDOM_SEED)
    calibration, judge = (
        Samples(tuple(_noise(rng, (count, *shape), np.dtype(info.dtype)) for info, shape in zip(inputs, shapes, strict=True)), None)
        for count in counts
    )
    text = f"{_count(calibration, 'random sample')}; judged on {_count(judge, 'other random sample')}: says nothing about accuracy on real data"
    return ExportData(RANDOM, calibration, judge, False, text)


def _filled(info: TensorInfo, axis: int) -> int:
    dim, limits = info.shape[axis], info.ranges[axis] if info.ranges else None
    if dim is not None:
        return dim
    if limits:
        return limits[1]
    return DYNAMIC_IMAGE[axis - 1] if len(info.shape) == 4 and np.dtype(info.dtype).kind == "f" else DYNAMIC_SEQUENCE


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return rng.standard_normal(shape, np.float32).astype(dtype, copy=False)
    return rng.integers(0, 2 if dtype.kind == "b" else RANDOM_HIGH, shape).astype(dtype)


def _halves(source: str, count: int, calibration_count: int, judge_count: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices that calibrate and those that judge."""
    if count < 2:
        raise BadInput(f"{source}: holds {count} sample{'' if count == 1 else 's'}, at least 2 are needed: one calibrates, one judges")
    indices = np.arange(count, dtype=np.int64)
    return _spread(indices[0::2], calibration_count), _spread(indices[1::2], judge_count)


def _spread(indices: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """At most ``count`` of them, evenly spread: class folders follow each other, so the first ones would be of one class."""
    if count is None or count >= len(indices):
        return indices
    return indices[np.arange(count) * len(indices) // count]


def _check_input(info: TensorInfo) -> None:
    try:
        feedable = np.dtype(info.dtype).kind in "fiub"
    except (TypeError, ValueError, SyntaxError):
        feedable = False
    if not feedable:
        raise BadInput(f"the model's input {info.name!r} is {info.dtype}: only floating point, integer and boolean inputs of numpy can be fed")
    if not info.shape or any(dim is not None and dim < 1 for dim in info.shape):
        raise BadInput(f"the model's input {info.name!r} has the shape {_needed(info)}: a batch and no empty dimension are needed")


def _only_input(inputs: Sequence[TensorInfo], source: str) -> TensorInfo:
    if len(inputs) != 1:
        names = ", ".join(info.name for info in inputs)
        raise BadInput(f"{source} feeds one input, the model has {len(inputs)} ({names})", hint=f"give an .npz file with these arrays, or {RANDOM}")
    return inputs[0]


def _fitting(source: str, name: str, array: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    """The array in this machine's byte order, or the sentence that says what does not fit."""
    needed = np.dtype(info.dtype)
    if array.dtype.newbyteorder("=") != needed:
        raise BadInput(
            f"{source}: array {name!r} is {array.dtype.name}, the model's input {info.name!r} needs {needed.name}",
            hint=f'convert it: array.astype("{needed.name}")',
        )
    if not _fits(array.shape, info):
        raise BadInput(f"{source}: array {name!r} has the shape {_shape(array.shape)}, the model's input {info.name!r} needs {_needed(info)}")
    if needed.kind == "f" and not np.isfinite(array).all():
        where = next(index for index, sample in enumerate(array) if not np.isfinite(sample).all())
        raise BadInput(f"{source}: array {name!r} holds NaN or infinity, first in sample {where}")
    return array.astype(needed, copy=False)


def _fits(shape: tuple[int, ...], info: TensorInfo) -> bool:
    """Whether all but the batch are the same, or within the stated range; another dynamic dimension takes any length but 0."""
    if len(shape) != len(info.shape):
        return False
    limits = [(side, side) if side else stated or (1, math.inf) for side, stated in zip(info.shape, info.ranges or (None,) * len(shape), strict=True)]
    return all(low <= found <= high for found, (low, high) in zip(shape[1:], limits[1:], strict=True))


def refuse_too_large(source: str, count: int, each: int) -> None:
    if count * each > MAX_BYTES:
        raise BadInput(
            f"{source}: {count:,} samples take {count * each / (1 << 30):.1f} GiB, more than {MAX_BYTES >> 30} GiB",
            hint="take fewer or smaller samples",
        )


def _shape(shape: Sequence[object]) -> str:
    """[N, 3, 224, 224]: the batch is N."""
    return f"[{', '.join('N' if axis == 0 else str(side) for axis, side in enumerate(shape))}]"


def _needed(info: TensorInfo) -> str:
    """[N, 3, 32..640, ?]: a range where one is stated, ? where any length will do."""
    stated = info.ranges or (None,) * len(info.shape)
    unknown = [f"{limits[0]}..{limits[1]}" if limits else "?" for limits in stated]
    return _shape([words if side is None else side for side, words in zip(info.shape, unknown, strict=True)])


def _count(samples: Samples, noun: str) -> str:
    return f"{len(samples):,} {noun}{'' if len(samples) == 1 else 's'}"
