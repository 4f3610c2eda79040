"""Frames of a video file, decoded by PyAV (FFmpeg): what a camera's model will really see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.datasets.images import MAX_PIXELS
from edge.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".avi", ".mp4", ".mkv", ".mov", ".webm"})
#: A longer video is read up to here.
MAX_FRAMES = 100_000


def count_frames(path: Path) -> int:
    """Frames that can be decoded, at most `MAX_FRAMES`; the file's own word is not taken for it.

    Raises:
        BadInput: no video that can be decoded.
        Unavailable: PyAV is not installed.
    """
    return sum(1 for _ in _decoded(path))


def read_frames(path: Path, indices: Sequence[int]) -> list[Image]:
    """The frames with these indices, in ascending order, as RGB pictures."""
    wanted = {int(index) for index in indices}
    return [frame.to_image() for index, frame in enumerate(_decoded(path)) if index in wanted]


def _decoded(path: Path) -> Iterator[Any]:
    try:
        import av
    except ImportError as error:
        raise Unavailable(f"{path}: reading a video needs PyAV", hint="run: .venv/bin/pip install av") from error
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index == MAX_FRAMES:
                    return
                if frame.width * frame.height > MAX_PIXELS:
                    raise BadInput(f"{path}: {frame.width} x {frame.height} pixels, more than {MAX_PIXELS // 1_000_000} million")
                yield frame
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise BadInput(f"{path}: no video that can be decoded: {error}", hint="convert it, e.g. to H.264 in .mp4") from error
