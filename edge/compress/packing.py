"""Storage that is small and decodes to the very same bits: zeros are not stored, shared values are codes, and everything is entropy-coded.

The tensors' streams are laid one behind the other and compressed by LZMA, whose range coder adapts itself to the bits (specification in the LZMA
SDK). Python's standard library decodes it, so a device needs nothing else. A tensor is stored in the way that takes the fewest bytes:

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BadInput

MAGIC = b"EDGEPK"
#: A packed file that unpacks to more is refused, in bytes; and a tensor of more dimensions.
MAX_UNPACKED, MAX_RANK = 1 << 31, 8
#: How far back LZMA looks, in bytes.
MAX_DICTIONARY = 1 << 24
#: A distance between two values that are not zero takes one byte; `FAR` adds that many zeros and goes on.
FAR = 255
RAW, CODED, SPARSE, BITS, SCALED = range(5)
#: The largest magnitude of the integers that a scale multiplies: eight bits.
MOST_LEVELS = 127
#: Bytes by which the ways of a tensor are compared, taken from so many places of each.
TRIED, PLACES = 1 << 20, 16
#: Up to so many bytes before compression the ways are chosen together, by trying: it costs a second.
TOGETHER = 1 << 16
#: Elements of each channel that are looked at before all are.
PROBED = 64
Tensor = NDArray[np.float32]


def _filters(lc: int, lp: int, pb: int, dictionary: int = MAX_DICTIONARY) -> list[dict[str, Any]]:
    return [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]


def _compress(data: bytes, context: tuple[int, int, int]) -> bytes:
    """The dictionary is no larger than the data: it is what the encoder spends its time on, and a decoder's larger one reads the same."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(*context, min(max(len(data), 1 << 12), MAX_DICTIONARY)))


#: Byte in the file -> (compress, decompress with at most so many bytes). LZMA's contexts pay or not by what is stored, so several are tried.
LZMA_CONTEXTS = ((0, 0, 0), (3, 0, 0), (4, 0, 0), (0, 2, 2))


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
    """By every compressor."""
    body = _varint(len(ways)) + b"".join(ways)
    files = [MAGIC + bytes([number]) + _compress(body, context) for number, context in enumerate(LZMA_CONTEXTS)]
    return [*files, MAGIC + bytes([len(LZMA_CONTEXTS)]) + bz2.compress(body)]


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
        BadInput: not such a file, damaged, or larger than `MAX_UNPACKED`.
    """
    try:
        return _tensors(_Reader(_body(data)))
    except (lzma.LZMAError, EOFError, OSError, LookupError, ValueError, OverflowError) as error:
        raise BadInput(f"not a readable packed model: {error or 'it ends too early'}") from None


def _body(data: bytes) -> bytes:
    if data[: len(MAGIC)] != MAGIC or len(data) <= len(MAGIC):
        raise ValueError("it does not begin as one")
    number, compressed = data[len(MAGIC)], data[len(MAGIC) + 1 :]
    decoder: Any
    if number < len(LZMA_CONTEXTS):
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(*LZMA_CONTEXTS[number]))
    elif number == len(LZMA_CONTEXTS):
        decoder = bz2.BZ2Decompressor()
    else:
        raise ValueError(f"unknown compressor {number}")
    body: bytes = decoder.decompress(compressed, MAX_UNPACKED + 1)
    if len(body) > MAX_UNPACKED:
        raise ValueError("it unpacks to too much")
    return body


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


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> NDArray[np.uint8]:
        if count > len(self.data) - self.at:
            raise ValueError("it ends too early")
        found = np.frombuffer(self.data, np.uint8, count, self.at)
        self.at += count
        return found

    def varint(self) -> int:
        number, shift = 0, 0
        while True:
            byte = int(self.take(1)[0])
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 42:
                raise ValueError("a number in it is too long")

    def planes(self, count: int) -> NDArray[np.uint32]:
        return np.ascontiguousarray(self.take(4 * count).reshape(4, count).T).view(np.uint32).reshape(-1)

    def table(self) -> NDArray[np.uint32]:
        count, wide = divmod(self.varint(), 2)
        if wide:
            return self.planes(count)
        high = self.take(2 * count).reshape(2, count).astype(np.uint32)
        return np.asarray(high[0] << 16 | high[1] << 24, np.uint32)


def _tensors(reader: _Reader) -> list[Tensor]:
    found, left = [], MAX_UNPACKED // 4
    for _ in range(reader.varint()):
        rank = reader.varint()
        if rank > MAX_RANK:
            raise ValueError(f"a tensor in it has {rank} dimensions")
        shape = [reader.varint() for _ in range(rank)]
        size = int(np.prod(shape, dtype=object))
        left -= size
        if left < 0:
            raise ValueError("it unpacks to too much")
        way = int(reader.take(1)[0])
        found.append(_read_scaled(reader, shape) if way == SCALED else _read_way(reader, way, shape))
    if reader.at != len(reader.data):
        raise ValueError("something follows its end")
    return found


def _read_way(reader: _Reader, way: int, shape: Sequence[int]) -> Tensor:
    if way not in READERS:
        raise ValueError(f"a tensor in it is stored in an unknown way, {way}")
    return READERS[way](reader, int(np.prod(shape, dtype=object))).view(np.float32).reshape(shape)


def _read_scaled(reader: _Reader, shape: Sequence[int]) -> Tensor:
    axis = int(reader.take(1)[0])
    scales = reader.planes(shape[axis]).view(np.float32)
    with np.errstate(all="ignore"):  # in a damaged file they may be anything
        return _read_way(reader, int(reader.take(1)[0]), shape) * _along(scales, axis, len(shape))


def _read_bits(reader: _Reader, size: int) -> NDArray[np.uint32]:
    table = reader.table()
    return table[np.unpackbits(reader.take(-(-size // 8)), count=size)]


def _read_coded(reader: _Reader, size: int) -> NDArray[np.uint32]:
    table = reader.table()
    return table[reader.take(size)]


def _read_sparse(reader: _Reader, size: int) -> NDArray[np.uint32]:
    steps = reader.take(reader.varint()).astype(np.int64)
    ends = steps < FAR
    places = np.cumsum(steps)[ends] + np.arange(int(ends.sum()))
    table = reader.table()
    values = np.zeros(size, np.uint32)
    values[places] = table[reader.take(len(places))]
    return values


READERS: Mapping[int, Callable[[_Reader, int], NDArray[np.uint32]]] = {
    RAW: _Reader.planes,
    CODED: _read_coded,
    SPARSE: _read_sparse,
    BITS: _read_bits,
}


def dense_bytes(tensors: Sequence[Tensor]) -> int:
    """What they take as float32."""
    return sum(4 * tensor.size for tensor in tensors)
