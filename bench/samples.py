"""Raw samples in a results file: ticks of a stated length, byte planes apart, deflated, in base64. A million samples take about 1.5 MB."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge.errors import BadInput
from edge.vocabulary import Frozen

#: More samples are refused when a file is read.
MAX_SAMPLES = 50_000_000
#: The finest tick, in ns: clocks step by tens of nanoseconds.
TICK_NS = 10


class Samples(Frozen):
    """``count`` times in ticks of ``tick_ns``: little-endian uint32, first all lowest bytes, then the next ones, zlib, base64."""

    count: int = Field(ge=0, le=MAX_SAMPLES)
    tick_ns: int = Field(ge=1, le=1_000_000_000)
    data: str

    def milliseconds(self) -> NDArray[np.float64]:
        """[count], in the order in which they were measured.

        Raises:
            BadInput: the data are not ``count`` samples.
        """
        try:
            unpacker = zlib.decompressobj()
            planes = unpacker.decompress(base64.b64decode(self.data, validate=True), 4 * self.count + 1)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise BadInput(f"the samples are damaged: {error}") from error
        if len(planes) != 4 * self.count or not unpacker.eof:  # the end holds the checksum
            raise BadInput(f"the samples are damaged: {self.count} are announced, others are there")
        ticks = np.frombuffer(planes, np.uint8).reshape(4, self.count).T.copy().view("<u4").ravel()
        return ticks.astype(np.float64) * (self.tick_ns / 1e6)


def pack(samples_ns: NDArray[np.integer]) -> Samples:
    """Samples in ns, [N]; rounded to 10 ns, and more coarsely where one is longer than 42 s.

    Raises:
        ValueError: one is negative.
    """
    if len(samples_ns) and samples_ns.min() < 0:
        raise ValueError(f"a time is negative: {samples_ns.min()} ns")
    longest = int(samples_ns.max()) if len(samples_ns) else 0
    tick = max(TICK_NS, -(-longest // 0xFFFFFFFE))
    ticks = np.rint(samples_ns / tick).astype("<u4")
    planes = ticks.view(np.uint8).reshape(len(ticks), 4).T.tobytes()
    return Samples(count=len(ticks), tick_ns=tick, data=base64.b64encode(zlib.compress(planes, 9)).decode())
