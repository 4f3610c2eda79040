"""Paddle Lite's latency from a roofline, fitted to published tables (``published.toml``, ``published_nets.json``).

A layer takes as long as its arithmetic or as reading its weights, whichever is longer (Williams, Waterman and Patterson, "Roofline", 2009):
    seconds = sum over layers of max(operations x cost(precision, kind) x cost(core) / (peak x clock), weight bytes / bandwidth) / speed-up(threads)

The costs are fitted to the cells of one thread, by least squares of the logarithm; a speed-up is the mean of published ones. Weights are taken to
come from memory once an inference, which a net that stays in the cache does better. What a runtime needs for starting a layer is not in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import LayerWork, Work
from edge.devices.profile import Profile
from edge.vocabulary import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Bytes of a weight; also the precisions that have published latencies.
BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}
#: Kinds of layers whose cost differs: 3x3 at stride 1, which Winograd's method may do with fewer multiplications; depthwise; any other.
SQUARE, DEPTHWISE, OTHER = range(3)
#: Standard deviations of the logarithms: of a cell, of a core's cost, and of a parameter that no cell tells about.
CELL, CORE, FREE = 0.1, 0.3, 3.0

Array = NDArray[Any]


@dataclass(frozen=True)
class Machine:
    """What a latency depends on: ``clock`` in Hz, ``bandwidth`` in B/s, operations per cycle of a core at its peak."""

    core: str
    clock: float
    bandwidth: float
    ops_per_cycle: Mapping[Precision, float]

    def peak(self, precision: Precision, kind: int) -> float:
        """Operations per cycle. A dot product sums over channels, of which a depthwise layer has one: its int8 is twice as fast as fp32."""
        peak = self.ops_per_cycle[precision]
        return min(peak, 2 * self.ops_per_cycle[Precision.FP32]) if (precision, kind) == (Precision.INT8, DEPTHWISE) else peak


@dataclass(frozen=True)
class Cell:
    """A published latency in ms: one figure of ``published.toml``."""

    source: str
    device: str
    machine: Machine
    net: str
    work: Work
    precision: Precision
    threads: int
    ms: float


def machine_of(profile: Profile) -> Machine:
    """The cluster that models run on."""
    cluster = profile.cluster
    peaks = {precision: cluster.ops_per_cycle.of(precision) for precision in BYTES}
    stated = {precision: peak.base for precision, peak in peaks.items() if peak is not None}
    return Machine(cluster.core, cluster.clock.base, profile.memory.bandwidth.base, stated)


@cache
def published_cells() -> tuple[Cell, ...]:
    """Every cell of the tables, in their order."""
    raw = tomllib.loads(Path(__file__).with_name("published.toml").read_text())
    return tuple(_cells(raw, published_nets()))


@cache
def published_nets() -> dict[str, Work]:
    """Net -> its work, counted by `edge.export.work` from paddle.vision's net, exported in fp32, for one picture of 224 x 224."""
    raw = json.loads(Path(__file__).with_name("published_nets.json").read_text())
    return {name: Work.model_validate(work) for name, work in raw.items()}


def _cells(raw: dict[str, Any], works: Mapping[str, Work]) -> Iterator[Cell]:
    cores = {name: {Precision(key): value for key, value in core.items() if key != "source"} for name, core in raw["cores"].items()}
    devices = {
        name: Machine(entry["core"], entry["clock"] * 1e9, entry["bandwidth"] * 1e9, cores[entry["core"]]) for name, entry in raw["devices"].items()
    }
    for table in raw["tables"]:
        for net, row in table["ms"].items():
            for device, ms in zip(table["devices"], row, strict=True):
                yield Cell(table["source"], device, devices[device], net, works[net], Precision(table["precision"]), table["threads"], ms)


def kind_of(layer: LayerWork) -> int:
    """From its counts, for the manifest holds no shapes of kernels.

    A dense 3x3 at stride 1 reads each input element nine times for each output channel; an element of a depthwise output takes as many
    multiplications as the kernel has elements, 9, 25 or 49.
    """
    if layer.kind != "Conv" or not layer.input_elements * layer.output_elements:
        return OTHER
    per_output = layer.macs / layer.output_elements
    if per_output in (9, 25, 49):
        return DEPTHWISE
    channels = layer.weight_elements / (per_output + 1)  # each with its bias
    return SQUARE if channels and abs(layer.macs / (9 * channels * layer.input_elements) - 1) < 0.01 else OTHER


@dataclass(frozen=True)
class Fit:
    """Logarithms: ``costs`` of each kind in each precision, ``cores`` of those with published cells, ``speedups`` of more than one thread."""

    costs: Array
    cores: Mapping[str, float]
    speedups: Mapping[int, float]

    def ms(self, machine: Machine, work: Work, precision: Precision, threads: int = 1) -> float:
        """A core without a published latency costs as much as the others on average.

        Raises:
            KeyError: a precision that the machine does not state, a number of threads without published latencies.
        """
        layers = _Layers.of([Cell("", "", machine, "", work, precision, threads, 1.0)])
        speedup = self.speedups[threads] if threads > 1 else 0.0
        return float(np.exp(layers.log_ms(self.costs, np.array([self.cores.get(machine.core, 0.0)])) - speedup)[0])


@dataclass(frozen=True)
class _Layers:
    """The layers of cells, [cells, layers]: seconds of their arithmetic at the peak, seconds of reading their weights, their place in the costs."""

    compute: Array
    read: Array
    place: Array

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> _Layers:
        size = (len(cells), max(len(cell.work.layers) for cell in cells))
        compute, read, place = np.zeros(size), np.zeros(size), np.zeros(size, int)
        precisions = list(BYTES)
        for index, cell in enumerate(cells):
            machine, layers = cell.machine, cell.work.layers
            compute[index, : len(layers)] = [2 * layer.macs / (machine.peak(cell.precision, kind_of(layer)) * machine.clock) for layer in layers]
            read[index, : len(layers)] = [layer.weight_elements * BYTES[cell.precision] / machine.bandwidth for layer in layers]
            place[index, : len(layers)] = [3 * precisions.index(cell.precision) + kind_of(layer) for layer in layers]
        return cls(compute, read, place)

    def log_ms(self, costs: Array, cores: Array) -> Array:
        compute = self.compute * np.exp(costs[self.place] + cores[:, None])
        total: Array = np.maximum(compute, self.read).sum(axis=1)
        return np.asarray(np.log(1e3 * total))


def fit(cells: Sequence[Cell]) -> Fit:
    """Least squares of the logarithm. A core's cost is held to the others' as far as few cells tell about it (`CORE`)."""
    from scipy.optimize import least_squares

    single = [cell for cell in cells if cell.threads == 1]
    cores, count = sorted({cell.machine.core for cell in single}), 3 * len(BYTES)
    core_of = np.array([cores.index(cell.machine.core) for cell in single])
    layers, published = _Layers.of(single), np.log([cell.ms for cell in single])
    spread = np.repeat([FREE, CORE], [count, len(cores)])

    def residuals(parameters: Array) -> Array:
        found = layers.log_ms(parameters[:count], parameters[count:][core_of])
        return np.concatenate([(found - published) / CELL, parameters / spread])

    found = least_squares(residuals, np.zeros(len(spread))).x
    return Fit(found[:count], dict(zip(cores, found[count:], strict=True)), _speedups(cells))


def _speedups(cells: Sequence[Cell]) -> dict[int, float]:
    """Threads -> the mean logarithm of how much faster they are than one, of the same net on the same device in the same publication."""
    single = {(cell.source, cell.device, cell.net, cell.precision): cell.ms for cell in cells if cell.threads == 1}
    ratios: dict[int, list[float]] = {}
    for cell in cells:
        if cell.threads > 1:
            ratios.setdefault(cell.threads, []).append(np.log(single[cell.source, cell.device, cell.net, cell.precision] / cell.ms))
    return {threads: float(np.mean(logs)) for threads, logs in ratios.items()}


@dataclass(frozen=True)
class Judged:
    """A cell, its ``predicted`` ms from a fit without its device, and whether another device with its core was in that fit."""

    cell: Cell
    predicted: float
    core_known: bool

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was published."""
        return self.predicted / self.cell.ms - 1

    @cached_property
    def factor(self) -> float:
        """How many times too long or too short, at least 1."""
        return max(self.predicted / self.cell.ms, self.cell.ms / self.predicted)


def leave_one_device_out(cells: Sequence[Cell]) -> list[Judged]:
    """Each cell predicted by a fit to the cells of all other devices, in the order of the devices."""
    judged = []
    for device in dict.fromkeys(cell.device for cell in cells):
        others = [cell for cell in cells if cell.device != device]
        fitted, cores = fit(others), {cell.machine.core for cell in others}
        for cell in cells:
            if cell.device == device:
                ms = fitted.ms(cell.machine, cell.work, cell.precision, cell.threads)
                judged.append(Judged(cell, ms, cell.machine.core in cores))
    return judged


def factor_of(factors: Sequence[float], share: float) -> float:
    """The factor that the next of such errors keeps within with a probability of at least ``share``: split conformal prediction, for errors that
    are exchangeable (Lei et al., "Distribution-Free Predictive Inference for Regression", 2018). Too few of them: the largest."""
    ordered = sorted(factors)
    return ordered[min(int(np.ceil((len(ordered) + 1) * share)), len(ordered)) - 1]
