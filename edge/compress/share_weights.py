"""Weights that share a few values: k-means over a layer's weights, then training of the shared values (Han, Mao and Dally 2015, section 3).

In several rounds the large weights share their values first, and the others are trained to make up for it: Zhou, Yao, Guo, Xu and Chen 2017,
"Incremental Network Quantization" (arXiv 1702.03044), whose halves are taken here, with k-means in the place of powers of two.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge.compress.constraints import FREE, Shared
from edge.compress.prune_weights import check_named, prunable
from edge.compress.technique import Record, Subject, TuningStep, trained


class ShareWeights(TuningStep):
    """``bits``: 2^bits values a layer, one of them zero where the layer is pruned; ``per_layer``: of single ones, by the weight's name.

    ``value_bits`` of the shared values themselves: 32, or 16 (bfloat16's upper half: the lower bytes are zero and pack to nothing).
    ``biases``: bits of what all other parameters share, 0 leaves them. ``rounds``: in which half of the rest comes to share, the last takes all; with
    ``epochs`` of training after each.
    """

    step: Literal["share-weights"] = "share-weights"
    bits: int = Field(4, ge=1, le=8)
    per_layer: dict[str, Annotated[int, Field(ge=1, le=8)]] = Field(default_factory=dict)
    value_bits: Literal[16, 32] = 16
    biases: int = Field(0, ge=0, le=8)
    rounds: int = Field(1, ge=1, le=20)
    epochs: int = Field(1, ge=0, le=1000)
    learning_rate: float = Field(1e-4, gt=0, le=1)

    def run(self, subject: Subject) -> Record:
        weights = prunable(subject)
        check_named(self.step, self.per_layer, weights)
        bits = {name: self.per_layer.get(name, self.bits) for name in weights}
        if self.biases:
            bits |= {name: self.biases for name in trained(subject.layer) if name not in weights}
        subject.require_free(bits, self.step)
        for number in range(1, self.rounds + 1):
            share = 1.0 if number == self.rounds else 1 - 0.5**number
            for name, parameter in trained(subject.layer).items():
                if name in bits:
                    subject.constraints[name] = Shared(_largest_of(clustered(parameter.numpy(), 2 ** bits[name]), parameter.numpy(), share))
            subject.hold()
            if self.epochs:
                self.tune(subject, subject.seed + number - 1)
        if self.value_bits == 16:
            for name, parameter in trained(subject.layer).items():
                if name in bits:
                    parameter.set_value(to_bfloat16(parameter.numpy()))
        return {"bits": bits}


def _largest_of(codes: NDArray[np.int64], values: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """The codes of this share of what is not zero, the largest ones, and of what shares its value already; the others are free."""
    sizes = np.abs(values)
    kept = sizes[codes > 0]
    if share == 1 or not kept.size:
        return codes
    least = np.quantile(kept, 1 - share)
    return np.where((codes > 0) & (sizes < least) & ~_repeated(values), FREE, codes)


def _repeated(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """True where another element has the very same value."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[places].reshape(values.shape) > 1)


def clustered(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The code of each value: 0 for zeros, from 1 on for at most ``count`` clusters of the others (one fewer where there are zeros)."""
    from scipy.cluster.vq import kmeans2

    flat = values.reshape(-1).astype(np.float64)
    codes = np.zeros(flat.size, np.int64)
    places = np.flatnonzero(flat)
    kept = flat[places]
    clusters = min(count - (len(places) < flat.size), len(np.unique(kept)))
    if clusters < 1:
        return codes.reshape(values.shape)
    start = np.linspace(kept.min(), kept.max(), clusters)  # Han's choice: large weights are few and matter most
    _, labels = kmeans2(kept, start, minit="matrix", missing="warn") if clusters > 1 else (start, np.zeros(len(kept), np.int64))
    codes[places] = 1 + np.unique(labels, return_inverse=True)[1].reshape(-1)
    return codes.reshape(values.shape)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to the nearest value whose lower 16 bits are zero; a tie goes to the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
