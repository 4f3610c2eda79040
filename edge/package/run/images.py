"""From a picture to a model's input, as the desk does it (`edge.datasets.preprocessing`), with numpy alone.

PNG of 8 bits (W3C Portable Network Graphics, second edition) and PNM are read here; Pillow reads the others where it is installed.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Dict, List, Tuple

import numpy as np

from .bundle import Refused

#: A larger picture is refused, in bytes and in pixels; and one with a longer side, whose weights alone would take all memory.
MAX_BYTES, MAX_PIXELS, MAX_SIDE = 64 << 20, 64_000_000, 16_384
SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Lines that are resized at a time.
BAND = 256
#: Bits behind the point of a weight of Pillow's.
FRACTION = 22
#: Colour type -> samples a pixel: grey, RGB, palette, grey with alpha, RGB with alpha.
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def read_image(path: str) -> Any:
    """uint8 [H, W, 3]; transparency is dropped.

    Raises:
        Refused: it cannot be read, or only Pillow could.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Refused("%s is larger than %d MiB" % (path, MAX_BYTES >> 20))
        if data.startswith(SIGNATURE):
            return _png(data)
        if data[:2] in (b"P5", b"P6"):
            return _pnm(data)
    except OSError as error:
        raise Refused("%s cannot be read: %s" % (path, error.strerror)) from None
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        raise Refused("%s is not a readable picture: %s" % (path, error), "send PNG of 8 bits without interlacing, or PNM") from None
    return _by_pillow(path)


def _by_pillow(path: str) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise Refused("%s is neither PNG nor PNM, and Pillow is not installed here" % path, "python3 -m pip install pillow, or send PNG") from None
    try:
        with Image.open(path) as picture:
            if picture.format not in ("JPEG", "BMP"):
                raise ValueError("it is %s" % picture.format)
            check_size(picture.width, picture.height)
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:  # whatever Pillow raises for a damaged file
        raise Refused("%s is not a readable picture: %s" % (path, error)) from None


def _png(data: bytes) -> Any:
    at, packed, palette, header = len(SIGNATURE), [], b"", b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] != zlib.crc32(kind + body):
            raise ValueError("a checksum in it is wrong")
        header, palette = (body if kind == b"IHDR" else header), (body if kind == b"PLTE" else palette)
        packed += [body] if kind == b"IDAT" else []
        at += 12 + size
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or interlaced or colour not in SAMPLES:
        raise ValueError("it has %d bits a sample, or is interlaced" % depth)
    check_size(width, height)
    stride = width * SAMPLES[colour]
    decoder = zlib.decompressobj()
    raw = decoder.decompress(b"".join(packed), height * (stride + 1) + 1)
    if len(raw) != height * (stride + 1):
        raise ValueError("it holds another number of pixels than it says")
    pixels = _unfiltered(np.frombuffer(raw, np.uint8).reshape(height, stride + 1), SAMPLES[colour]).reshape(height, width, -1)
    if colour == 3:
        return np.frombuffer(palette, np.uint8).reshape(-1, 3)[pixels[..., 0]]
    return _rgb(pixels[..., :3] if colour in (2, 6) else pixels[..., :1])


def _unfiltered(lines: Any, step: int) -> Any:
    """Each line is stored as a difference from the pixels to the left (``step`` bytes away) and above (section 9 of the standard)."""
    found = np.zeros((lines.shape[0] + 1, lines.shape[1] - 1), np.uint8)
    for number, line in enumerate(lines):
        kind, coded, above = int(line[0]), line[1:], found[number]
        if kind == 0:
            found[number + 1] = coded
        elif kind == 1:
            found[number + 1] = np.cumsum(coded.reshape(-1, step), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            found[number + 1] = coded + above
        elif kind in (3, 4):
            found[number + 1] = _from_neighbours(kind, coded.tolist(), above.tolist(), step)
        else:
            raise ValueError("a line in it has the unknown filter %d" % kind)
    return found[1:]


def _from_neighbours(kind: int, coded: Any, above: Any, step: int) -> Any:
    """Average, and Paeth: each byte needs the one before it, so there is nothing to do at once."""
    out = [0] * step + coded
    upper = [0] * step + above
    for at in range(step, len(out)):
        left, up, corner = out[at - step], upper[at], upper[at - step]
        if kind == 3:
            guess = (left + up) >> 1
        else:
            estimate = left + up - corner
            a, b, c = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
            guess = left if a <= b and a <= c else up if b <= c else corner
        out[at] = (out[at] + guess) & 255
    return np.array(out[step:], np.uint8)


def _pnm(data: bytes) -> Any:
    """Binary greymap or pixmap of 8 bits (Netpbm's pages pgm(5) and ppm(5))."""
    fields: List[int] = []
    at = 2
    while len(fields) < 3:
        while data[at : at + 1].isspace():
            at += 1
        if data[at : at + 1] == b"#":
            at = data.index(b"\n", at)
            continue
        end = at
        while data[end : end + 1].isdigit():
            end += 1
        fields.append(int(data[at:end]))
        at = end
    width, height, most = fields
    if most != 255:
        raise ValueError("its largest value is %d, not 255" % most)
    check_size(width, height)
    samples = 1 if data[:2] == b"P5" else 3
    return _rgb(np.frombuffer(data, np.uint8, width * height * samples, at + 1).reshape(height, width, samples))


def check_size(width: int, height: int) -> None:
    if not (min(width, height) > 0 and max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ValueError("it has %d x %d pixels" % (width, height))


def _rgb(pixels: Any) -> Any:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def preprocess(pixels: Any, how: Dict[str, Any]) -> Any:
    """uint8 [H, W, 3] as a model's input, float32 [1, C, height, width]; ``how``: the fields of `edge.datasets.preprocessing.Preprocessing`."""
    if how["order"] == "grey":  # ITU-R 601-2, rounded as Pillow does it
        pixels = ((pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000) >> 16).astype(np.uint8)[..., None]
    (height, width), (tall, wide) = how["size"], pixels.shape[:2]
    if how["resize"] == "pad":
        ratio = min(height / tall, width / wide)
        inner = max(1, round(tall * ratio)), max(1, round(wide * ratio))
        fitted = normalised(resized(pixels, inner, (0.0, 0.0, float(wide), float(tall))), how)
        canvas = np.zeros((1, fitted.shape[1], height, width), np.float32)
        canvas[:, :, : fitted.shape[2], : fitted.shape[3]] = fitted
        return canvas
    box = _middle(tall, wide, how) if how["resize"] == "crop" else (0.0, 0.0, float(wide), float(tall))
    return normalised(resized(pixels, (height, width), box), how)


def normalised(pixels: Any, how: Dict[str, Any]) -> Any:
    """Channels in order, then ``(pixel * scale - mean) / std``."""
    values = pixels[..., ::-1] if how["order"] == "bgr" else pixels
    values = (values.astype(np.float32) * np.float32(how["scale"]) - np.asarray(how["mean"], np.float32)) / np.asarray(how["std"], np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def _middle(tall: int, wide: int, how: Dict[str, Any]) -> Tuple[float, float, float, float]:
    """(left, upper, right, lower) of what ``crop`` keeps, in the picture's own pixels."""
    height, width = how["size"]
    ratio = max(height / tall, width / wide) if how["short"] is None else how["short"] / min(tall, wide)
    kept_width, kept_height = min(width / ratio, wide), min(height / ratio, tall)
    left, upper = (wide - kept_width) / 2, (tall - kept_height) / 2
    return left, upper, left + kept_width, upper + kept_height


def resized(pixels: Any, size: Tuple[int, int], box: Tuple[float, float, float, float]) -> Any:
    """Bilinear with antialiasing, as Pillow's ``Image.resize``: first along the lines, then across them, rounded after each.

    Its weights are integers, and so are all sums: float64 holds them exactly, and multiplies matrices fast. Pillow 13 takes the cheaper direction
    first, which may round a pixel the other way.
    """
    left, upper, right, lower = box
    across = _weights(pixels.shape[1], size[1], left, right)
    down = _weights(pixels.shape[0], size[0], upper, lower)
    bands = [pixels[start : start + BAND] for start in range(0, len(pixels), BAND)]  # a large picture as float64 would take all memory
    lines = np.concatenate([_rounded(np.einsum("ow,hwc->hoc", across, band.astype(np.float64), optimize=True)) for band in bands])
    return _rounded(np.einsum("oh,hwc->owc", down, lines.astype(np.float64), optimize=True))


def _rounded(sums: Any) -> Any:
    return np.clip((sums.astype(np.int64) + (1 << FRACTION - 1)) >> FRACTION, 0, 255).astype(np.uint8)


def _weights(size: int, wanted: int, low: float, high: float) -> Any:
    """[wanted, size]: a triangle as wide as a wanted pixel covers, at least two pixels (libImaging/Resample.c), in units of 2^-FRACTION."""
    scale = (high - low) / wanted
    reach = max(scale, 1.0)
    centres = low + (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    last = np.minimum((centres + reach + 0.5).astype(int), size)
    places = np.arange(size)
    found = np.maximum(1 - np.abs((places[None] - centres[:, None] + 0.5) * (1 / reach)), 0)
    found *= (places >= first[:, None]) & (places < last[:, None])
    return np.floor(found * (1 / found.sum(1, keepdims=True)) * (1 << FRACTION) + 0.5)
