"""From artifacts to the verdict on devices that are not at hand: their processors emulated, results compared, instructions and memory counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.bench.results import Cell, read_results
from edge.vocabulary import Precision, Status
from tests.conftest import Demo, run_edge

MODEL = "mnist_student_distilled"
PIS = ("raspberry-pi-4b", "raspberry-pi-5")


@pytest.fixture(scope="module")
def emulated(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results of the demo's student on both processors."""
    folder = tmp_path_factory.mktemp("devices")
    artifacts = [demo.artifacts / f"{MODEL}-onnx-{precision}" for precision in ("fp32", "fp16", "int8")]
    for device in PIS:
        ran = run_edge("bench", *artifacts, "--target", "qemu", "--device", device, "--out", folder / f"{device}.json")
        assert ran.code == 0, ran.err
        assert f"on {device}" in ran.out, "the verdict follows"
    return {device: folder / f"{device}.json" for device in PIS}


def cells(path: Path) -> dict[Precision, Cell]:
    return {cell.precision: cell for cell in read_results(path).cells}


@pytest.mark.parametrize("device", PIS)
def test_an_emulated_artifact_gives_the_results_of_this_machine_and_no_times(emulated: dict[str, Path], device: str) -> None:
    for cell in cells(emulated[device]).values():
        assert cell.status is Status.OK and (cell.target, cell.device) == ("qemu", device)
        assert cell.environment["machine"] == "aarch64"
        same = cell.figures["top1_as_here"].value
        assert same == 100 or (same and same >= 98 and cell.figures["instructions_half"].value), "fp16 arithmetic rounds as no x86 does"
        assert cell.latency.p50.value is None and "emulation" in str(cell.latency.p50.reason) and cell.throughput.value is None
        instructions = cell.energy["instructions"]
        assert instructions.value and instructions.provenance == "counted" and cell.energy["cpu_time"].value is None
        peak, base = cell.memory.peak_rss, cell.memory.baseline_rss
        assert peak.value and base.value and 20e6 < base.value < peak.value < 200e6 and peak.provenance == "counted"
    quanta = cells(emulated[device])[Precision.INT8].figures["quanta_from_here"]
    assert quanta.unit == "quanta" and quanta.value is not None and quanta.value < 1.5


def test_dot_products_and_half_precision_run_on_the_newer_processor_only(emulated: dict[str, Path]) -> None:
    old, new = (cells(emulated[device]) for device in PIS)
    assert old[Precision.INT8].figures["instructions_dot"].value == 0 == old[Precision.FP16].figures["instructions_half"].value
    assert new[Precision.INT8].figures["instructions_dot"].value and new[Precision.FP16].figures["instructions_half"].value
    assert new[Precision.FP32].figures["instructions_dot"].value == 0
    by_dot = (cell[Precision.INT8].energy["instructions"].value or 0 for cell in (old, new))
    assert next(by_dot) > next(by_dot), "a dot product does the work of several instructions"


def test_the_camera_gets_a_verdict_from_counts_of_the_same_instructions(emulated: dict[str, Path], demo: Demo) -> None:
    ran = run_edge("check", emulated["raspberry-pi-4b"], demo.folder / "results.json", "--device", "camera", "--json")
    found: dict[str, Any] = json.loads(ran.out)
    assert (ran.code, found["verdict"]) in ((0, "PASS"), (3, "UNKNOWN")), ran.out
    best = {budget["name"]: budget for budget in found["budgets"]}
    assert best["runs"]["verdict"] == best["memory"]["verdict"] == best["storage"]["verdict"] == best["frame_rate"]["verdict"] == "PASS"
    assert best["memory"]["provenance"] == "counted" and best["frame_rate"]["provenance"] == "modelled"
    assert all("of fp32" in said or "executed" in said for said in found["remarks"]) and found["remarks"], "the slow-downs of a small net"


def test_other_instructions_are_no_evidence_for_the_camera(emulated: dict[str, Path]) -> None:
    ran = run_edge("check", emulated["raspberry-pi-5"], "--device", "camera", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["verdict"]) == (3, "UNKNOWN")
    assert next(budget for budget in found["budgets"] if budget["name"] == "memory")["value"] is None


def test_a_target_that_needs_a_device_says_so(demo: Demo, tmp_path: Path) -> None:
    artifact = demo.artifacts / f"{MODEL}-onnx-fp32"
    for arguments, words in (
        (("--target", "qemu"), "the target qemu needs a device"),
        (("--target", "moon"), "there is no target 'moon'"),
        (("--target", "qemu", "--device", "nvidia-h200"), "nvidia-h200"),
    ):
        ran = run_edge("bench", artifact, *arguments, "--out", tmp_path / "r.json")
        assert ran.code in (2, 3) and words in ran.err and not (tmp_path / "r.json").exists(), ran.err
