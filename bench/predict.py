"""Latency on a device that is not at hand. All of it is modelled, with a range and what that range rests on.

Paddle Lite on ARM: the roofline of the profile, fitted to published latencies (`edge.bench.roofline`).

onnxruntime: counted instructions, and how many a processor completes in a second. On x86 that rate was measured (``measured.toml``). For ARM no
latency of onnxruntime with one thread was found published. Its rate is taken from Paddle Lite's published times for the net that both have,
MobileNetV1 in fp32, and the range reaches from there to the most that onnxruntime is known to lag behind such a runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import exp, hypot, log, sqrt
from pathlib import Path

from edge.artifact import Work
from edge.bench.roofline import BYTES, Fit, Judged, factor_of, fit, leave_one_device_out, machine_of, published_cells, published_nets
from edge.devices.profile import Profile
from edge.vocabulary import Arch, Format, Measurement, Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Of the cells that were held back, the share that the stated range covers.
SHARE = 0.9
#: A net with this many times less or more arithmetic than all published ones is not predicted from them.
BEYOND = 3
#: What both runtimes have run, and the instructions that onnxruntime 1.32 executes for it in fp32: counted with qemu, the same for a Cortex-A53, A72
#: and A76.
REFERENCE, REFERENCE_INSTRUCTIONS = "MobileNetV1", 246.06e6
#: The most that onnxruntime lags behind ncnn, fp32, of 13 nets on a Raspberry Pi 5: YOLOX-X (visionanalysis.org, "ncnn FP32 vs ONNX FP32 RPi5"; the
#: median is 2.09, the least 1.25).
MOST_LAG = 2.87


@dataclass(frozen=True)
class Prediction:
    """``latency`` in ms, null with a reason; its interval is the range in which it is expected.

    Attributes:
        basis: what the figure and its range rest on, with the error of such predictions where it is known; empty without a figure.
    """

    latency: Measurement
    basis: str = ""


@dataclass(frozen=True)
class Rate:
    """onnxruntime with one thread on one x86 processor: ``ipc``: net -> instructions per cycle, with qemu's count of the instructions."""

    processor: str
    date: str
    ipc: Mapping[str, float]

    def left_out(self) -> dict[str, float]:
        """Net -> how many times too long or too short the others' rate predicts it, at least 1."""
        return {net: exp(abs(log(value / self._mean(net)))) for net, value in self.ipc.items()}

    @property
    def mean(self) -> float:
        return self._mean("")

    def _mean(self, without: str) -> float:
        """Geometric."""
        logs = [log(value) for net, value in self.ipc.items() if net != without]
        return exp(sum(logs) / len(logs))


@dataclass(frozen=True)
class _Estimate:
    """The latency lies within ``factor`` of ``ms``, up and down."""

    ms: float
    factor: float
    basis: str


class _NoEstimate(Exception):
    """Its text is the reason."""


def predict_latency(
    profile: Profile, format: Format, precision: Precision, *, threads: int = 1, work: Work | None = None, instructions: Measurement | None = None
) -> Prediction:
    """Latency of one sample on the profile's first cluster.

    Args:
        work: of the model, for Paddle Lite. instructions: per inference, counted on that architecture, for onnxruntime.
    """
    try:
        if threads > (cores := int(profile.cluster.cores.base)):
            raise _NoEstimate(f"{threads} threads are more than the {cores} cores that models run on")
        if format is Format.PADDLE_LITE:
            found = _from_roofline(profile, precision, threads, work)
        elif format is Format.ONNX:
            found = _from_instructions(profile, precision, threads, instructions)
        else:
            raise _NoEstimate(f"no latency of {format.value} is published for {profile.arch.value} processors: measure it on the device")
    except _NoEstimate as reason:
        return Prediction(Measurement(value=None, unit="ms", provenance="modelled", reason=str(reason)))
    interval = (found.ms / found.factor, found.ms * found.factor)
    return Prediction(Measurement(value=found.ms, unit="ms", provenance="modelled", interval=interval), found.basis)


def _from_roofline(profile: Profile, precision: Precision, threads: int, work: Work | None) -> _Estimate:
    if profile.arch is not Arch.ARM or "asimd" not in profile.cluster.isa:
        raise _NoEstimate("the published latencies of Paddle Lite are of 64-bit ARM processors")
    if work is None:
        raise _NoEstimate("the work of the model was not counted: export it again")
    machine, fitted = machine_of(profile), published_fit()
    if precision not in BYTES or precision not in machine.ops_per_cycle:
        raise _NoEstimate(f"the profile states no {precision.value} operations per cycle")
    if threads > 1 and threads not in fitted.speedups:
        counts = ", ".join(str(count) for count in (1, *fitted.speedups))
        raise _NoEstimate(f"latencies of Paddle Lite are published for {counts} threads, not {threads}")
    _must_resemble_the_published(work)
    known = machine.core in fitted.cores
    errors = errors_like(known, threads)
    factor = factor_of([judged.factor for judged in errors], SHARE)
    devices = len({judged.cell.device for judged in errors})
    basis = (
        f"roofline of the profile, within a factor of {factor:.2f} for {SHARE:.0%} of {len(errors)} published cells of {devices} devices, "
        f"leave-one-device-out ({'another device has' if known else 'no other device has'} the core, as for the {machine.core} here)"
    )
    return _Estimate(fitted.ms(machine, work, precision, threads), factor, basis)


def _must_resemble_the_published(work: Work) -> None:
    convolved = sum(layer.macs for layer in work.layers if layer.kind == "Conv")
    if 2 * convolved < work.macs or not work.macs:
        raise _NoEstimate("latencies of Paddle Lite are published for convolutional nets only")
    sizes = [net.macs for net in published_nets().values()]
    if not min(sizes) / BEYOND <= work.macs <= max(sizes) * BEYOND:
        raise _NoEstimate(f"{work.macs:,} multiplications are far from the published nets' {min(sizes):,} to {max(sizes):,}")


def _from_instructions(profile: Profile, precision: Precision, threads: int, instructions: Measurement | None) -> _Estimate:
    if instructions is None or not instructions.value:
        raise _NoEstimate((instructions and instructions.reason) or "no instructions were counted: run edge bench --target qemu")
    if threads > 1:
        raise _NoEstimate("the rate of instructions is known for one thread")
    return _on_arm(profile, instructions.value) if profile.arch is Arch.ARM else _on_x86(profile, precision, instructions.value)


def _on_x86(profile: Profile, precision: Precision, instructions: float) -> _Estimate:
    rate = measured_rates().get(precision)
    if rate is None:
        raise _NoEstimate(f"the rate of {precision.value} instructions was not measured on x86")
    factor = factor_of(list(rate.left_out().values()), SHARE)
    basis = (
        f"counted instructions at {rate.mean:.2f} a cycle, within a factor of {factor:.2f} for {SHARE:.0%} of {len(rate.ipc)} nets, "
        f"leave-one-net-out, on one processor ({rate.processor})"
    )
    return _Estimate(1e3 * instructions / (rate.mean * profile.cluster.clock.base), factor, basis)


def _on_arm(profile: Profile, instructions: float) -> _Estimate:
    """The range joins three factors as if they were independent: the lag, the roofline's, and that between nets, which only x86 can tell.

    The rate is taken to be that of fp32 in every precision. From fp32 to int8, MobileNetV1's instructions in onnxruntime fall to 0.69 (Cortex-A53
    and A72) and 0.32 (A76), and Paddle Lite's published times to 0.82, 0.75 and 0.41.
    """
    reference = _from_roofline(profile, Precision.FP32, 1, published_nets()[REFERENCE])
    nets = max(factor_of(list(rate.left_out().values()), SHARE) for rate in measured_rates().values())
    factor = exp(hypot(log(MOST_LAG) / 2, log(reference.factor), log(nets)))
    basis = (
        f"counted instructions at the rate of Paddle Lite's {REFERENCE} on a {profile.cluster.core}, to {MOST_LAG} times slower; a reasoned range, "
        "not a tested one: no latency of onnxruntime with one thread on such a core was found published"
    )
    return _Estimate(sqrt(MOST_LAG) * reference.ms * instructions / REFERENCE_INSTRUCTIONS, factor, basis)


@cache
def published_fit() -> Fit:
    return fit(published_cells())


@cache
def judged_cells() -> tuple[Judged, ...]:
    """Every published cell, predicted without its device."""
    return tuple(leave_one_device_out(published_cells()))


def errors_like(core_known: bool, threads: int) -> list[Judged]:
    """The cells whose errors tell about a prediction: as well or as little known a core, one thread or several."""
    return [judged for judged in judged_cells() if judged.core_known is core_known and (judged.cell.threads > 1) is (threads > 1)]


@cache
def measured_rates() -> dict[Precision, Rate]:
    raw = tomllib.loads(Path(__file__).with_name("measured.toml").read_text())
    cycles = raw["clock"] * 1e6  # in a millisecond
    return {
        Precision(precision): Rate(raw["processor"], str(raw["date"]), {net: row["instructions"] / (row["ms"] * cycles) for net, row in rows.items()})
        for precision, rows in raw["nets"].items()
    }
