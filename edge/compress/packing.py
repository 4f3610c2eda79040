"""Storage that is small and decodes to the very same bits: zeros are not stored, shared values are codes, and everything is entropy-coded.

The tensors' streams are laid one behind the other and compressed by LZMA, whose range coder adapts itself to the bits (specification in the LZMA
SDK). `edge.package.run.decode` decodes it with Python's standard library, so a device needs nothing else. A tensor is stored in the way that takes
the fewest bytes:

    raw      its float32 values, their four bytes apart: the high ones are alike
    coded    its distinct values, and a code of one byte for each element
    sparse   the same for what is not zero, and the distances between those (Han, Mao and Dally 2015, section 2)
    bits     its two distinct values, and a bit for each element
    scaled   a scale for each channel, and the integers from -127 to 127 that it multiplies, in one of the other ways

The file: ``EDGEPK``, a byte for the compressor, and the compressed body: the tensors, each with its way, shape and streams. Names are not stored:
the order is that of the model's state.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BadInput
from edge.package.run import decode
from edge.package.run.decode import BITS, CODED, FAR, FILE_MAGIC, LZMA_CONTEXTS, MAGIC, MAX_DICTIONARY, RAW, SCALED, SPARSE, filters

#: The largest magnitude of the integers that a scale multiplies: eight bits.
MOST_LEVELS = 127
#: Bytes by which the ways of a tensor are compared, taken from so many places of each.
TRIED, PLACES = 1 << 20, 16
#: Up to so many bytes before compression the ways are chosen together, by trying: it costs a second.
TOGETHER = 1 << 16
#: Elements of each channel that are looked at before all are.
PROBED = 64
Tensor = NDArray[np.float32]


def _compress(data: bytes, context: tuple[int, int, int]) -> bytes:
    """The dictionary is no larger than the data: it is what the encoder spends its time on, and a decoder's larger one reads the same."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=filters(context, min(max(len(data), 1 << 12), MAX_DICTIONARY)))


def pack(tensors: Sequence[Tensor]) -> bytes:
    """The smallest file that `unpack` turns into the same tensors, bit for bit.

    Args:
        tensors: float32, of any shape.
    """
    options = [_options(tensor) for tensor in tensors]
    chosen = [min(ways, key=_size_when_compressed) for ways in options]
    if sum(map(len, chosen)) <= TOGETHER:
        chosen = _chosen_together(options, chosen)
    return min(_files(chosen), key=len)


def _files(ways: Sequence[bytes]) -> list[bytes]:
    return [MAGIC + compressed for compressed in _compressed(_varint(len(ways)) + b"".join(ways))]


def _compressed(body: bytes) -> list[bytes]:
    """By every compressor, named by the first byte. LZMA's contexts pay or not by what is stored."""
    found = [bytes([number]) + _compress(body, context) for number, context in enumerate(LZMA_CONTEXTS)]
    return [*found, bytes([len(LZMA_CONTEXTS)]) + bz2.compress(body)]


def _chosen_together(options: Sequence[Sequence[bytes]], chosen: Sequence[bytes]) -> list[bytes]:
    """Tensor by tensor the way with which the whole file is smallest: what lies next to each other teaches the compressor the same."""
    best, size = list(chosen), min(map(len, _files(chosen)))
    for place, ways in enumerate(options):
        for way in ways:
            tried = [*best[:place], way, *best[place + 1 :]]
            if (found := min(map(len, _files(tried)))) < size:
                best, size = tried, found
    return best


def unpack(data: bytes) -> list[Tensor]:
    """The tensors of a packed file.

    Raises:
        BadInput: not such a file, damaged, or larger than `edge.package.run.decode.MAX_UNPACKED`.
    """
    try:
        return [np.frombuffer(values, np.float32).reshape(shape) for shape, values in decode.unpack(data)]
    except decode.Damaged as error:
        raise BadInput(str(error)) from None


def pack_file(data: bytes, regions: Sequence[tuple[int, Tensor]]) -> bytes:
    """The smallest file that `edge.package.run.decode.unpack_file` turns into the same bytes: its tensors are packed, the rest is compressed.

    Args:
        data: any file. regions: (offset, tensor) of float32 tensors whose bytes stand in it, in their order.
    """
    gaps, rest, end = [], [], 0
    for offset, tensor in regions:
        gaps.append(offset - end)
        rest.append(data[end:offset])
        end = offset + tensor.nbytes
    rest.append(data[end:])
    packed = pack([tensor for _, tensor in regions])
    body = b"".join([*map(_varint, gaps), *rest])
    return FILE_MAGIC + _varint(len(packed)) + packed + min(_compressed(body), key=len)


def _options(tensor: Tensor) -> list[bytes]:
    """Every way that a tensor can be stored in."""
    head = _varint(tensor.ndim) + b"".join(_varint(side) for side in tensor.shape)
    ways = _ways(tensor)
    for axis in {0, tensor.ndim - 1} if tensor.ndim > 1 and tensor.size else ():
        if (found := scales_of(np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1))) is not None:
            codes = tensor / _along(found, axis, tensor.ndim)
            ways += [bytes([SCALED, axis]) + _planes(found) + way for way in _ways(codes)]
    return [head + way for way in ways]


def _size_when_compressed(way: bytes) -> float:
    """Of a long one by a part."""
    starts = range(0, len(way), -(-len(way) // PLACES)) if len(way) > TRIED else ()
    tried = b"".join(way[start : start + TRIED // PLACES] for start in starts) or way
    return len(_compress(tried, LZMA_CONTEXTS[0])) * len(way) / len(tried)


def _ways(tensor: Tensor) -> list[bytes]:
    """Every way but by scales."""
    flat = np.ascontiguousarray(tensor, np.float32).reshape(-1)
    ways = [bytes([RAW]) + _planes(flat)]
    values, codes = _coded(flat.view(np.uint32))
    if len(values) <= 2:
        ways.append(bytes([BITS]) + _table(values) + np.packbits(codes.astype(bool)).tobytes())
    if len(values) <= 256:
        ways.append(bytes([CODED]) + _table(values) + codes.astype(np.uint8).tobytes())
    places = np.flatnonzero(flat.view(np.uint32))
    kept, codes = _coded(flat.view(np.uint32)[places])
    if len(places) < len(flat) and len(kept) <= 256:
        steps = _steps(places)
        ways.append(bytes([SPARSE]) + _varint(len(steps)) + steps + _table(kept) + codes.astype(np.uint8).tobytes())
    return ways


def _coded(bits: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Distinct values, the frequent ones first, and the code of each element: small codes are alike, which compresses better."""
    values, codes, counts = np.unique(bits, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return values[order], ranks[codes]


def scales_of(rows: Tensor) -> Tensor | None:
    """The largest scale of each row that it is an integer multiple of, -127 to 127 times, bit for bit; None where a row has none.

    A float is an integer times a power of two, so the scale is a greatest common divisor, and exact. It is found where the products were exact too:
    a scale of at most 17 significant bits times a code of 7 fits the 24 bits of a float32.

    Args:
        rows: float32 [channels, elements].
    """
    if rows.shape[1] > PROBED and scales_of(rows[:, :PROBED]) is None:
        return None
    if not rows.size or not np.isfinite(rows).all():
        return None
    fractions, exponents = np.frexp(rows)
    present = rows != 0
    least = np.where(present, exponents, 1 << 20).min(1, keepdims=True)
    shifts = np.where(present, exponents - least, 0)
    if shifts.max() > 32:
        return None
    integers = (fractions.astype(np.float64) * (1 << 24)).astype(np.int64) << shifts
    divisors = np.maximum(np.gcd.reduce(integers, axis=1, keepdims=True), 1)
    scales = np.ldexp(divisors.astype(np.float64), np.where(present.any(1, keepdims=True), least - 24, 0)).astype(np.float32)
    codes = (integers // divisors).astype(np.float32)
    same = np.abs(codes).max() <= MOST_LEVELS and (codes * scales).tobytes() == np.ascontiguousarray(rows).tobytes()
    return scales[:, 0] if same else None


def _along(scales: Tensor, axis: int, rank: int) -> Tensor:
    return scales.reshape([-1 if number == axis else 1 for number in range(rank)])


def _planes(values: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).tobytes()


def _table(values: NDArray[np.uint32]) -> bytes:
    """Their number, whether their lower halves are stored too, and they; a bfloat16 has none."""
    wide = bool((values & 0xFFFF).any())
    planes = _planes(values)
    return _varint(2 * len(values) + wide) + (planes if wide else planes[len(planes) // 2 :])


def _steps(places: NDArray[np.int64]) -> bytes:
    """Zeros before each place; `FAR` of them go on."""
    gaps = np.diff(places, prepend=-1) - 1
    repeats = gaps // FAR
    out = np.full(int(repeats.sum()) + len(gaps), FAR, np.uint8)
    out[np.cumsum(repeats + 1) - 1] = gaps % FAR
    return out.tobytes()


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the high bit."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
