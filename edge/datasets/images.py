"""A user's folder of pictures: which files it holds, their labels where it has class folders, and each picture read with care."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
#: A larger picture is refused, in bytes and in pixels.
MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
#: Pillow's modes of 8 bits a channel; deeper ones would be cut off silently.
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class ImageFolder:
    """Paths in order, their labels [N], and the class folders' names: label k is ``classes[k]``. No class folders: None and empty."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]


def image_folder(folder: Path) -> ImageFolder:
    """The pictures of a folder sorted by name; or, where it has subfolders with pictures, theirs, one class a subfolder.

    Classes are numbered by the subfolders' names sorted as text ("10" comes before "2"). Other files, and names that start with a dot,
    are passed over.

    Raises:
        BadInput: cannot be read, no picture, or pictures both beside and in subfolders.
    """
    try:
        direct = _pictures(folder)
        subfolders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        inner = [_pictures(subfolder) for subfolder in subfolders]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read: {error.strerror}") from error
    files = [path for paths in inner for path in paths]
    if not direct and not files:
        raise BadInput(f"{folder}: holds no {', '.join(sorted(SUFFIXES))} file", hint="name a folder of pictures, or of class folders with pictures")
    if not files:
        return ImageFolder(tuple(direct), None, ())
    if direct:
        raise BadInput(f"{folder}: holds pictures ({direct[0].name}) beside class folders ({files[0].parent.name})", hint="move one kind away")
    labels = np.repeat(np.arange(len(inner), dtype=np.int64), [len(paths) for paths in inner])
    return ImageFolder(tuple(files), labels, tuple(subfolder.name for subfolder in subfolders))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file())


def read_image(path: Path) -> Image:
    """A PNG, JPEG or BMP picture as RGB, turned as its EXIF data say; transparency is dropped.

    Raises:
        BadInput: unreadable, damaged, too large, or with more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # some camera files carry odd metadata: the picture itself is what counts
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=("PNG", "JPEG", "BMP")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadInput(f"{path}: {picture.width} x {picture.height} pixels, more than {MAX_PIXELS // 1_000_000} million")
                if picture.mode not in MODES:
                    raise BadInput(f"{path}: has more than 8 bits a channel (mode {picture.mode})", hint="save it with 8 bits a channel")
                return ImageOps.exif_transpose(picture).convert("RGB")
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path}: not a readable PNG, JPEG or BMP picture: {error}", hint="mend it or take it out of the folder") from error
