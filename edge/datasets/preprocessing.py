"""From a picture to a model's input: size, channel order and normalisation, written as ``size=224x224,mean=0.5,std=0.5,order=bgr``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edge.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Order = Literal["rgb", "bgr", "grey"]
Resize = Literal["stretch", "crop", "pad"]
#: No side of a model's input may be longer, in pixels.
MAX_SIDE = 4096
EXAMPLE = "size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225,order=rgb,resize=crop"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a float32 array [C, H, W]: resized, channels in order, then ``(pixel * scale - mean) / std``.

    Attributes:
        size: height and width in pixels.
        mean, std: one number, or one a channel in the order of ``order``.
        scale: of the pixels 0 to 255, before the mean is taken off.
        order: of the channels; ``grey`` is one channel.
        resize: ``stretch`` changes the aspect; ``crop`` cuts the middle; ``pad`` fits the image into the upper left corner, the rest is
            0 after normalisation.
        short: with ``crop`` only: what the image's short side is scaled to before the cut, in pixels; None just covers ``size``.

    Raises:
        BadInput: a value that makes no sense.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    order: Order = "rgb"
    resize: Resize = "stretch"
    short: int | None = None

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_SIDE for side in self.size):
            raise _bad(f"size={self.size[0]}x{self.size[1]}: each side must be 1 to {MAX_SIDE}")
        for name, allowed in (("order", get_args(Order)), ("resize", get_args(Resize))):
            if getattr(self, name) not in allowed:
                raise _bad(f"{name}={getattr(self, name)}: must be one of {', '.join(allowed)}")
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if len(numbers) not in (1, self.channels) or not all(map(math.isfinite, numbers)):
                raise _bad(f"{name}={_slashed(numbers)}: must be 1 finite number" + (f", or {self.channels}" if self.channels > 1 else ""))
        if min(self.std) <= 0 or not (math.isfinite(self.scale) and self.scale > 0):
            raise _bad("std and scale must be greater than 0")
        if self.short is not None and (self.resize != "crop" or not max(self.size) <= self.short <= 2 * MAX_SIDE):
            raise _bad(f"short={self.short}: goes with resize=crop, and must be {max(self.size)} to {2 * MAX_SIDE}")

    @property
    def channels(self) -> int:
        return 1 if self.order == "grey" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array that comes out: channels, height, width."""
        return (self.channels, *self.size)

    def __str__(self) -> str:
        """The text that `parse_preprocessing` reads back to an equal value."""
        fields = {
            "size": f"{self.size[0]}x{self.size[1]}",
            "mean": _slashed(self.mean),
            "std": _slashed(self.std),
            "scale": repr(self.scale),
            "order": self.order,
            "resize": self.resize,
            **({} if self.short is None else {"short": str(self.short)}),
        }
        return ",".join(f"{key}={value}" for key, value in fields.items())


def parse_preprocessing(text: str) -> Preprocessing:
    """Read ``key=value`` pairs parted by commas; ``size`` (HxW, or one number for a square) is needed, the others have defaults.

    Raises:
        BadInput: an unknown, double or malformed key, or a value out of range.
    """
    readers: dict[str, Any] = {
        "size": _size,
        "mean": _numbers,
        "std": _numbers,
        "scale": _fraction,
        "order": str,
        "resize": str,
        "short": int,
    }
    fields: dict[str, Any] = {}
    for pair in text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if key not in readers or not equals:
            raise _bad(f"{pair.strip()!r} is not one of {', '.join(readers)} with a value")
        if key in fields:
            raise _bad(f"{key} is given twice")
        try:
            fields[key] = readers[key](value)
        except (ValueError, ZeroDivisionError):
            raise _bad(f"{key}={value} is not understood") from None
    if "size" not in fields:
        raise _bad("size is missing")
    return Preprocessing(**fields)


def _bad(problem: str) -> BadInput:
    return BadInput(f"preprocessing: {problem}", hint=f"for example: {EXAMPLE}")


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    return int(height), int(width if cross else height)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("/"))


def _fraction(text: str) -> float:
    """A number, or a fraction such as 1/255."""
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


def _slashed(numbers: tuple[float, ...]) -> str:
    return "/".join(map(repr, numbers))


def preprocess(image: Image, how: Preprocessing) -> NDArray[np.float32]:
    """An image as a model's input, [C, H, W].

    Resampling is bilinear with Pillow's antialiasing, which OpenCV's bilinear lacks: a model trained with the latter sees slightly
    smoother pictures here when they are shrunk.
    """
    from PIL.Image import Resampling

    picture = image.convert("L" if how.order == "grey" else "RGB")
    height, width = how.size
    if how.resize == "pad":
        ratio = min(height / picture.height, width / picture.width)
        inner = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        fitted = normalised(picture.resize(inner, Resampling.BILINEAR), how)
        canvas = np.zeros(how.shape, np.float32)
        canvas[:, : fitted.shape[1], : fitted.shape[2]] = fitted
        return canvas
    # resampling only the box that is kept: an extremely long picture is never enlarged as a whole
    box = _middle(picture, how) if how.resize == "crop" else None
    return normalised(picture.resize((width, height), Resampling.BILINEAR, box=box), how)


def normalised(picture: Image, how: Preprocessing) -> NDArray[np.float32]:
    """An RGB or grey image of any size as [C, H, W], with the channel order and normalisation alone."""
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1)
    if how.order == "bgr":
        pixels = pixels[..., ::-1]
    values = (pixels * np.float32(how.scale) - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def _middle(picture: Image, how: Preprocessing) -> tuple[float, float, float, float]:
    """The box (left, upper, right, lower) of the picture that ``crop`` keeps, in the picture's own pixels."""
    height, width = how.size
    cover = max(height / picture.height, width / picture.width)
    ratio = cover if how.short is None else how.short / min(picture.size)
    kept_width, kept_height = min(width / ratio, picture.width), min(height / ratio, picture.height)
    left, upper = (picture.width - kept_width) / 2, (picture.height - kept_height) / 2
    return left, upper, left + kept_width, upper + kept_height
