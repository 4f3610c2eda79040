"""Decodes what `edge.compress.packing` has written: the tensors of a packed model, and model files whose tensors are packed.

Standard library only, so that a bundle can be decoded before anything is installed. The work is done by slices, translations and joins of bytes,
which run at the speed of C.
"""

from __future__ import annotations

import itertools
import operator
from array import array
from typing import Any, Callable, Dict, Iterator, List, Tuple, TypeVar

MAGIC, FILE_MAGIC = b"EDGEPK", b"EDGEMF"
#: A packed file that unpacks to more is refused, in bytes; and one of more tensors, or with a tensor of more dimensions.
MAX_UNPACKED, MAX_TENSORS, MAX_RANK = 1 << 31, 1 << 16, 8
#: How far back LZMA looks, in bytes; and its contexts (lc, lp, pb): the byte in the file names one, the number behind the last stands for bz2.
MAX_DICTIONARY = 1 << 24
LZMA_CONTEXTS = ((0, 0, 0), (3, 0, 0), (4, 0, 0), (0, 2, 2))
#: A distance between two values that are not zero takes one byte; `FAR` adds that many zeros and goes on.
FAR = 255
RAW, CODED, SPARSE, BITS, SCALED = range(5)
#: Shape, and the bytes of little-endian float32.
Tensor = Tuple[List[int], bytes]
#: A byte -> its eight bits, the highest first.
EXPANDED = [bytes(number >> bit & 1 for bit in range(7, -1, -1)) for number in range(256)]


class Damaged(ValueError):
    """Not such a file, damaged, or larger than `MAX_UNPACKED`; or this Python cannot decode it."""


def filters(context: Tuple[int, int, int], dictionary: int = MAX_DICTIONARY) -> List[Dict[str, Any]]:
    import lzma

    lc, lp, pb = context
    return [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]


def unpack(data: bytes) -> List[Tensor]:
    """The tensors of a packed file.

    Raises:
        Damaged: it cannot be read.
    """
    return _told(_tensors, data)


def unpack_file(data: bytes) -> bytes:
    """A model file, of which `edge.compress.packing.pack_file` has packed the tensors.

    Raises:
        Damaged: it cannot be read.
    """
    return _told(_whole_file, data)


Read = TypeVar("Read")


def _told(read: Callable[[bytes], Read], data: bytes) -> Read:
    try:
        import bz2  # noqa: F401
        import lzma
    except ImportError as error:  # one that was built without them
        raise Damaged("this Python cannot decode it: %s; a bundle of edge pack --plain needs no decoding" % error) from None
    try:
        return read(data)
    except (lzma.LZMAError, EOFError, OSError, LookupError, ValueError, OverflowError) as error:
        raise Damaged("not a readable packed model: %s" % (error or "it ends too early")) from None


def _whole_file(data: bytes) -> bytes:
    reader = _Reader(_after(FILE_MAGIC, data))
    tensors = _tensors(reader.take(reader.varint()))
    rest = _Reader(_decompressed(reader.take(len(reader.data) - reader.at)))
    gaps = [rest.varint() for _ in tensors]
    parts = []
    for gap, (_, values) in zip(gaps, tensors):
        parts += [rest.take(gap), values]
    return b"".join([*parts, rest.take(len(rest.data) - rest.at)])


def _after(magic: bytes, data: bytes) -> bytes:
    if data[: len(magic)] != magic or len(data) <= len(magic):
        raise ValueError("it does not begin as one")
    return data[len(magic) :]


def _decompressed(data: bytes) -> bytes:
    import bz2
    import lzma

    number, compressed = data[0], data[1:]
    decoder: Any
    if number < len(LZMA_CONTEXTS):
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters(LZMA_CONTEXTS[number]))
    elif number == len(LZMA_CONTEXTS):
        decoder = bz2.BZ2Decompressor()
    else:
        raise ValueError("unknown compressor %d" % number)
    body: bytes = decoder.decompress(compressed, MAX_UNPACKED + 1)
    if len(body) > MAX_UNPACKED:
        raise ValueError("it unpacks to too much")
    return body


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 42:
                raise ValueError("a number in it is too long")

    def planes(self, count: int) -> bytes:
        """``count`` values of four bytes, which are stored as all their first bytes, all their second ones, and so on."""
        return _interleaved([self.take(count) for _ in range(4)])

    def table(self) -> List[bytes]:
        """The first, second, third and fourth bytes of the distinct values; the lower halves may not be stored, as a bfloat16 has none."""
        count, wide = divmod(self.varint(), 2)
        lower = [self.take(count) for _ in range(2)] if wide else [bytes(count)] * 2
        return [*lower, *(self.take(count) for _ in range(2))]


def _interleaved(planes: List[Any]) -> bytes:
    found = bytearray(4 * len(planes[0]))
    for place, plane in enumerate(planes):
        found[place::4] = plane
    return bytes(found)


def _tensors(data: bytes) -> List[Tensor]:
    reader = _Reader(_decompressed(_after(MAGIC, data)))
    found, left, count = [], MAX_UNPACKED // 4, reader.varint()
    if count > MAX_TENSORS:
        raise ValueError("it holds %d tensors" % count)
    for _ in range(count):
        rank = reader.varint()
        if rank > MAX_RANK:
            raise ValueError("a tensor in it has %d dimensions" % rank)
        shape = [reader.varint() for _ in range(rank)]
        left -= _product([max(side, 1) for side in shape])  # also the other sides of an empty one
        if left < 0:
            raise ValueError("it unpacks to too much")
        way = reader.take(1)[0]
        found.append((shape, _scaled(reader, shape) if way == SCALED else _read(reader, way, _product(shape))))
    if reader.at != len(reader.data):
        raise ValueError("something follows its end")
    return found


def _product(sides: List[int]) -> int:
    found = 1
    for side in sides:
        found *= side
    return found


def _read(reader: _Reader, way: int, size: int) -> bytes:
    if way not in READERS:
        raise ValueError("a tensor in it is stored in an unknown way, %d" % way)
    return READERS[way](reader, size)


def _raw(reader: _Reader, size: int) -> bytes:
    return reader.planes(size)


def _coded(reader: _Reader, size: int) -> bytes:
    table = reader.table()
    return _interleaved(_looked_up(table, reader.take(size)))


def _bits(reader: _Reader, size: int) -> bytes:
    table = reader.table()
    codes = b"".join(map(EXPANDED.__getitem__, reader.take(-(-size // 8))))[:size]
    return _interleaved(_looked_up(table, codes))


def _sparse(reader: _Reader, size: int) -> bytes:
    places = array("I", _places(reader.take(reader.varint())))
    if places and places[-1] >= size:
        raise ValueError("a value lies behind its tensor's end")
    table = reader.table()
    planes = []
    for values in _looked_up(table, reader.take(len(places))):
        plane = bytearray(size)
        for place, value in zip(places, values):
            plane[place] = value
        planes.append(plane)
    return _interleaved(planes)


def _places(steps: bytes) -> Iterator[int]:
    place = -1
    for step in steps:
        place += step
        if step < FAR:
            place += 1
            yield place


def _looked_up(table: List[bytes], codes: bytes) -> List[bytes]:
    if codes and max(codes) >= len(table[0]):
        raise ValueError("a code in it stands for nothing")
    return [codes.translate(plane.ljust(256, b"\0")) for plane in table]


def _scaled(reader: _Reader, shape: List[int]) -> bytes:
    """A product of two float32 is exact in Python's float, and rounded once by the array: the same bits as float32 times float32."""
    axis = reader.take(1)[0]
    scales = array("f", reader.planes(shape[axis]))
    values = array("f", _read(reader, reader.take(1)[0], _product(shape)))
    inner = _product(shape[axis + 1 :])
    along = itertools.chain.from_iterable(itertools.repeat(scale, inner) for _ in range(_product(shape[:axis])) for scale in scales)
    return array("f", map(operator.mul, values, along)).tobytes()


READERS = {RAW: _raw, CODED: _coded, SPARSE: _sparse, BITS: _bits}
