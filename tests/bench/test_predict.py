"""Predicted latencies: the fit finds what made the cells, what is left out is left out, and each figure says its range, or why there is none."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from edge.artifact import LayerWork, Work
from edge.bench.predict import SHARE, Prediction, errors_like, judged_cells, measured_rates, predict_latency, published_fit
from edge.bench.roofline import (
    BYTES,
    DEPTHWISE,
    OTHER,
    SQUARE,
    Cell,
    Fit,
    factor_of,
    fit,
    kind_of,
    leave_one_device_out,
    machine_of,
    published_cells,
    published_nets,
)
from edge.devices.profile import Profile, load_profile
from edge.vocabulary import Arch, Format, Measurement, Precision, absent

NETS = published_nets()
COUNTED = Measurement(value=246.3e6, unit="count", provenance="counted")


def made_cells(truth: Fit) -> list[Cell]:
    """The published cells, with the times that these parameters give them."""
    return [replace(cell, ms=truth.ms(cell.machine, cell.work, cell.precision, cell.threads)) for cell in published_cells()]


def clocked(profile: Profile, factor: float) -> Profile:
    cluster = profile.cluster
    faster = cluster.model_copy(update={"clock": cluster.clock.model_copy(update={"value": cluster.clock.value * factor})})
    return profile.model_copy(update={"clusters": (faster, *profile.clusters[1:])})


def with_core(profile: Profile, core: str, **changes: object) -> Profile:
    return profile.model_copy(update={"clusters": (profile.cluster.model_copy(update={"core": core, **changes}),)})


def interval_of(prediction: Prediction) -> tuple[float, float]:
    assert prediction.latency.interval is not None
    return prediction.latency.interval


def test_the_fit_finds_the_parameters_that_made_the_cells() -> None:
    truth = published_fit()
    truth = replace(truth, cores={core: 1.1 * cost for core, cost in truth.cores.items()}, speedups={2: log(1.8), 4: log(3.1)})
    cells = made_cells(truth)
    found = fit(cells)
    assert {threads: exp(speedup) for threads, speedup in found.speedups.items()} == pytest.approx({2: 1.8, 4: 3.1}, rel=0.01)
    for cell in cells:
        assert found.ms(cell.machine, cell.work, cell.precision, cell.threads) == pytest.approx(cell.ms, rel=0.02)


def test_a_device_s_own_cells_do_not_tell_about_it() -> None:
    """Times ten, its prediction stays what it was, and the others' change."""
    cells = published_cells()
    wrong = [replace(cell, ms=10 * cell.ms) if cell.device == "Kirin 980" else cell for cell in cells]
    pairs = list(zip(leave_one_device_out(cells), leave_one_device_out(wrong), strict=True))
    assert all(before.predicted == after.predicted for before, after in pairs if before.cell.device == "Kirin 980")
    assert all(after.predicted > 1.2 * before.predicted for before, after in pairs if before.cell.device == "Snapdragon 855")


def test_whether_another_device_has_the_core_is_said() -> None:
    known = {judged.cell.device for judged in judged_cells() if judged.core_known}
    assert known == {"Snapdragon 855", "Kirin 980", "Kirin 990", "Snapdragon 835", "Kirin 970"}  # three Cortex-A76, two Cortex-A73


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("core_known", [True, False])
def test_the_range_holds_the_stated_share_of_the_cells_that_were_left_out(core_known: bool, threads: int) -> None:
    judged = errors_like(core_known, threads)
    factor = factor_of([j.factor for j in judged], SHARE)
    held = [j.predicted / factor <= j.cell.ms <= j.predicted * factor for j in judged]
    assert np.mean(held) >= SHARE and factor > 1


def test_the_error_on_published_cells_is_what_we_say() -> None:
    errors = np.abs([judged.error for judged in judged_cells()])
    assert len(errors) == 145
    assert 0.1 < np.median(errors) < 0.2  # the goal, 10 % for 90 %, is missed
    in_sample = [published_fit().ms(c.machine, c.work, c.precision, c.threads) / c.ms - 1 for c in published_cells()]
    assert np.median(np.abs(in_sample)) < 0.1


def test_kinds_of_layers_are_found_from_counts() -> None:
    resnet, mobilenet = NETS["ResNet50"], NETS["MobileNetV1"]
    # 13 of the 16 blocks have their 3x3 at stride 1; 13 depthwise layers; the first layer has stride 2
    assert sum(kind_of(layer) == SQUARE for layer in resnet.layers) == 13
    assert sum(kind_of(layer) == DEPTHWISE for layer in mobilenet.layers) == 13
    assert kind_of(mobilenet.layers[0]) == OTHER
    assert kind_of(LayerWork(name="w", kind="MatMul", macs=9, weight_elements=9, input_elements=1, output_elements=1)) == OTHER
    assert kind_of(LayerWork(name="w", kind="Conv", macs=0, weight_elements=0, input_elements=0, output_elements=0)) == OTHER


def test_factor_of_is_conformal() -> None:
    assert factor_of([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9], 0.9) == 1.9
    assert factor_of([1.0 + i / 100 for i in range(99)], 0.9) == pytest.approx(1.89)
    assert factor_of([1.2, 3.0], 0.9) == 3.0  # too few: the largest


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.parametrize("name", ["raspberry-pi-4b", "raspberry-pi-5", "camera"])
def test_paddle_lite_is_predicted_in_ms_with_a_range_and_its_error(name: str, precision: Precision) -> None:
    profile = load_profile(name)
    prediction = predict_latency(profile, Format.PADDLE_LITE, precision, work=NETS["MobileNetV1"])
    figure = prediction.latency
    assert (figure.unit, figure.provenance, figure.reason) == ("ms", "modelled", None)
    low, high = interval_of(prediction)
    assert figure.value and 0 < low < figure.value < high
    peak = machine_of(profile).ops_per_cycle[precision] * profile.cluster.clock.base
    assert figure.value > 1e3 * 2 * NETS["MobileNetV1"].macs / peak  # no faster than the core's peak
    assert "published cells of 5 devices, leave-one-device-out (another device has the core" in prediction.basis


def test_the_raspberry_pi_4_is_near_the_rk3399_of_the_same_core() -> None:
    published = next(c for c in published_cells() if c.device == "RK3399" and c.net == "MobileNetV1" and c.precision is Precision.FP32)
    profile = load_profile("raspberry-pi-4b")
    value = predict_latency(profile, Format.PADDLE_LITE, Precision.FP32, work=published.work).latency.value
    assert value == pytest.approx(published.ms * published.machine.clock / profile.cluster.clock.base, rel=0.1)


@pytest.mark.parametrize("format", [Format.PADDLE_LITE, Format.ONNX])
def test_a_faster_clock_and_less_work_are_faster(format: Format) -> None:
    profile, small = load_profile("raspberry-pi-4b"), Measurement(value=100e6, unit="count", provenance="counted")

    def value(profile: Profile, net: str, instructions: Measurement) -> float:
        found = predict_latency(profile, format, Precision.FP32, work=NETS[net], instructions=instructions).latency.value
        assert found
        return found

    assert value(clocked(profile, 2), "MobileNetV1", COUNTED) < 0.6 * value(profile, "MobileNetV1", COUNTED)
    assert value(profile, "MobileNetV3_small", small) < value(profile, "MobileNetV1", COUNTED)


def test_a_net_of_matrices_waits_for_its_weights() -> None:
    """One layer of 64 MiB that multiplies once by each weight: reading takes longer than multiplying."""
    layer = LayerWork(name="w", kind="Conv", macs=1 << 24, weight_elements=1 << 24, input_elements=1 << 12, output_elements=1 << 12)
    work = Work(macs=1 << 24, weight_elements=1 << 24, activation_elements=1 << 13, layers=(layer,))
    machine = machine_of(load_profile("raspberry-pi-4b"))
    assert published_fit().ms(machine, work, Precision.FP32) == pytest.approx(1e3 * 4 * (1 << 24) / machine.bandwidth)


def test_several_threads_are_faster_as_far_as_the_tables_go() -> None:
    profile = load_profile("raspberry-pi-5")
    times = [predict_latency(profile, Format.PADDLE_LITE, Precision.FP32, threads=n, work=NETS["ResNet50"]).latency.value or 0 for n in (1, 2, 4)]
    assert times[0] / times[1] == pytest.approx(1.8, abs=0.2) and times[0] / times[2] == pytest.approx(3.2, abs=0.4)
    three = predict_latency(profile, Format.PADDLE_LITE, Precision.FP32, threads=3, work=NETS["ResNet50"])
    assert three.latency.value is None and "not 3" in str(three.latency.reason)


def test_a_core_without_published_latencies_has_the_wider_range() -> None:
    profile = load_profile("raspberry-pi-4b")
    known, unknown = (
        interval_of(predict_latency(p, Format.PADDLE_LITE, Precision.FP32, work=NETS["MobileNetV1"])) for p in (profile, with_core(profile, "Mine"))
    )
    assert unknown[1] / unknown[0] > known[1] / known[0]


def test_instructions_on_arm_have_a_wide_range_that_says_so() -> None:
    prediction = predict_latency(load_profile("raspberry-pi-4b"), Format.ONNX, Precision.INT8, instructions=COUNTED)
    low, high = interval_of(prediction)
    lite = predict_latency(load_profile("raspberry-pi-4b"), Format.PADDLE_LITE, Precision.FP32, work=NETS["MobileNetV1"]).latency.value
    assert lite and low < lite < high and high / low > 2.87
    assert "not a tested one" in prediction.basis


def test_instructions_on_x86_go_at_the_measured_rate() -> None:
    profile = load_profile("x86-server")
    for precision, rate in measured_rates().items():
        assert len(rate.ipc) == 10 and factor_of(list(rate.left_out().values()), SHARE) < 1.4
        prediction = predict_latency(profile, Format.ONNX, precision, instructions=COUNTED)
        assert prediction.latency.value == pytest.approx(1e3 * 246.3e6 / rate.mean / profile.cluster.clock.base)
        assert rate.processor in prediction.basis


def test_a_net_s_own_rate_does_not_tell_about_it() -> None:
    rate = next(iter(measured_rates().values()))
    net = next(iter(rate.ipc))
    others = [ipc for name, ipc in rate.ipc.items() if name != net]
    assert rate.left_out()[net] == pytest.approx(exp(abs(np.log(rate.ipc[net]) - np.mean(np.log(others)))))


PI = load_profile("raspberry-pi-4b")
MATRIX = LayerWork(name="w", kind="MatMul", macs=10**9, weight_elements=10**6, input_elements=10**6, output_elements=10**3)
MATRICES = Work(macs=10**9, weight_elements=10**6, activation_elements=10**7, layers=(MATRIX,))
TINY = Work(macs=0, weight_elements=0, activation_elements=0)


@pytest.mark.parametrize(
    ("profile", "format", "precision", "given", "reason"),
    [
        (PI, Format.PADDLE_INFERENCE, Precision.FP32, {"work": NETS["ResNet50"], "instructions": COUNTED}, "measure it on the device"),
        (PI, Format.PADDLE_LITE, Precision.FP32, {}, "export it again"),
        (PI, Format.PADDLE_LITE, Precision.FP16, {"work": NETS["ResNet50"]}, "no fp16 operations per cycle"),
        (PI, Format.PADDLE_LITE, Precision.BF16, {"work": NETS["ResNet50"]}, "no bf16"),
        (PI, Format.PADDLE_LITE, Precision.FP32, {"work": MATRICES}, "convolutional"),
        (PI, Format.PADDLE_LITE, Precision.FP32, {"work": TINY}, "convolutional"),
        (with_core(PI, "Cortex-A7", isa=("neon",)), Format.PADDLE_LITE, Precision.FP32, {"work": NETS["ResNet50"]}, "64-bit"),
        (load_profile("x86-server"), Format.PADDLE_LITE, Precision.FP32, {"work": NETS["ResNet50"]}, "ARM"),
        (PI, Format.ONNX, Precision.FP32, {"work": NETS["ResNet50"]}, "edge bench --target qemu"),
        (PI, Format.ONNX, Precision.FP32, {"instructions": absent("count", "the emulator is missing")}, "the emulator is missing"),
        (PI, Format.ONNX, Precision.FP32, {"instructions": COUNTED, "threads": 2}, "one thread"),
        (PI, Format.PADDLE_LITE, Precision.FP32, {"work": NETS["ResNet50"], "threads": 8}, "more than the 4 cores"),
        (with_core(PI, "Cortex-A7", isa=("neon",)), Format.ONNX, Precision.FP32, {"instructions": COUNTED}, "64-bit"),
        (load_profile("x86-server"), Format.ONNX, Precision.FP16, {"instructions": COUNTED}, "not measured"),
    ],
)
def test_without_a_base_there_is_no_figure_but_a_reason(
    profile: Profile, format: Format, precision: Precision, given: dict[str, object], reason: str
) -> None:
    prediction = predict_latency(profile, format, precision, **given)  # type: ignore[arg-type]
    assert prediction.latency.value is None and prediction.latency.interval is None and not prediction.basis
    assert prediction.latency.provenance == "modelled" and reason in str(prediction.latency.reason)


def test_a_net_far_smaller_than_the_published_ones_is_not_predicted_from_them() -> None:
    layer = LayerWork(name="w", kind="Conv", macs=10**6, weight_elements=10**3, input_elements=10**4, output_elements=10**4)
    work = Work(macs=10**6, weight_elements=10**3, activation_elements=2 * 10**4, layers=(layer,))
    found = predict_latency(PI, Format.PADDLE_LITE, Precision.FP32, work=work).latency
    assert found.value is None and "far from the published" in str(found.reason)


def test_every_precision_with_published_cells_has_bytes_and_profiles_of_both_processors_exist() -> None:
    assert {cell.precision for cell in published_cells()} == set(BYTES)
    assert {load_profile(name).arch for name in ("raspberry-pi-4b", "x86-server")} == {Arch.ARM, Arch.X86}
