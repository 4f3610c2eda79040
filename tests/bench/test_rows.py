"""A row from what workers found: figures of all processes together, doubts beside them, and a camera's day by the best figure there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.artifact import load_artifact
from edge.bench.measure import BenchRequest, Part, Plan
from edge.bench.meter import PowerLog
from edge.bench.results import Cell
from edge.bench.rows import row
from edge.bench.scenarios import Camera, Scenario, SingleStream
from edge.devices.local import LocalTarget
from edge.vocabulary import Status
from tests.conftest import Demo

CAMERA = Camera(fps=10, idle_mw=500, busy_mw=1500, battery_mwh=10_000)


def found(ms: float = 2.0, *, count: int = 400, energy: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    """What a latency worker writes."""
    state = {"clock": 1000.0, "governor": "performance", "frequency_mhz": 1500.0, "throttle_count": 0}
    readings = {name: {"value": value, "unit": "mJ", "provenance": "measured", "reason": None} for name, value in (energy or {}).items()}
    readings["cpu_time"] = {"value": 0.002, "unit": "s", "provenance": "measured", "reason": None}
    figures = {
        "import_ms": 5.0, "load_ms": 7.0, "first_ms": 3.0, "warmup": {"seconds": 0.3, "inferences": 9, "stable": True}, "timer_ns": 40,
        "samples_ns": (np.linspace(0.99, 1.01, count) * ms * 1e6).astype(int).tolist(), "inferences": count, "figures": {},
        "wall_s": 1.0, "cpu_s": 1.0, "energy": readings, "before": state, "after": state, "others_busy": 0.0,
    }  # fmt: skip
    return {"figures": {**figures, **changes}, "environment": {}}


@pytest.fixture
def make(demo: Demo) -> Any:
    def cell(*records: dict[str, Any], scenario: Scenario = SingleStream(), log: PowerLog | None = None, repeats: int = 3) -> Cell:  # noqa: B008
        artifact = load_artifact(demo.artifacts / "mnist_student_distilled-onnx-fp32")
        plan = Plan(artifact, BenchRequest(LocalTarget(), scenario=scenario, repeats=repeats, parts=("latency",)))
        findings: dict[Part, list[dict[str, Any]]] = {"latency": list(records)}
        return row(plan, findings, {"version": "0"}, log)

    return cell


def test_the_processes_are_pooled_and_each_is_kept(make: Any) -> None:
    cell = make(found(2.0), found(2.02), found(1.98))
    assert cell.status is Status.OK and cell.latency.count.value == 1200 and len(cell.processes) == 3
    assert cell.latency.p50.value == pytest.approx(2.0, rel=0.01) and cell.latency.p99.interval is not None
    assert cell.latency.p99_9.value is None and "needs 3688 samples" in cell.latency.p99_9.reason
    assert cell.throughput.value == pytest.approx(400) and cell.warnings == ()


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ((found(2.0), found(2.3), found(2.0)), "unstable: the medians of 3 processes lie 15"),
        ((found(), found()), "2 of 3 processes"),
        ((found(others_busy=0.7), found(), found()), "other processes used up to 0.7 cores"),
        ((found(cpu_s=1.9), found(), found()), "1 thread used 1.9 cores"),
        ((found(0.001), found(0.001), found(0.001)), "the timer is coarse"),
        ((found(warmup={"seconds": 5.0, "inferences": 9, "stable": False}), found(), found()), "1 of 3 processes still got faster"),
        ((found(before={"clock": 0.0, "governor": "powersave"}), found(), found()), "governor is powersave"),
        ((found(after={"clock": 1.0, "throttle_count": 3}), found(), found()), "throttled"),
        ((found(after={"clock": 1.0, "frequency_mhz": 600.0}), found(), found()), "the clock fell by 60 %"),
        ((found(after={"clock": 1.0, "under_voltage": True}), found(), found()), "under-voltage"),
    ],
)
def test_doubts_stand_beside_the_figures(make: Any, records: tuple[dict[str, Any], ...], words: str) -> None:
    cell = make(*records)
    assert cell.status is Status.OK and any(words in doubt for doubt in cell.warnings), cell.warnings


def test_a_camera_s_day_is_worked_out_from_the_best_figure(make: Any) -> None:
    """A meter before the device's power, that before the counted work; 10 frames a second, 0.5 W idle."""
    measured = make(found(energy={"energy_rapl": 4.0}), scenario=CAMERA, repeats=1)
    assert measured.figures["energy_per_day"].value == pytest.approx((4.0 * 10 + 500) * 86.4) and measured.energy["energy_rapl"].value == 4.0
    assert measured.figures["energy_per_day"].provenance == "measured"
    by_power = make(found(), scenario=CAMERA, repeats=1)  # 2 ms of a core that draws 1 W more
    assert by_power.figures["energy_per_day"].value == pytest.approx((2.0 * 10 + 500) * 86.4)
    assert by_power.figures["battery_life"].value == pytest.approx(10_000 / 520) and by_power.figures["battery_life"].provenance == "modelled"
    counted = make(found(), scenario=Camera(fps=10), repeats=1)
    assert counted.figures["energy_per_day"].value == pytest.approx(counted.energy["energy_modelled"].value * 864)
    overrun = make(found(figures={"frame_rate": [4.0, "1/s"]}), scenario=CAMERA, repeats=1)  # it kept up with 4 frames of 10
    assert overrun.figures["energy_per_day"].value == pytest.approx((2.0 * 4 + 500) * 86.4)
    log = PowerLog(np.linspace(900, 1100, 2001), np.full(2001, 2.5), 0.5)
    external = make(found(), scenario=CAMERA, repeats=1, log=log)
    assert external.energy["energy_meter"].value == pytest.approx(1e3 * 2.0 / 400) and external.figures["energy_per_day"].provenance == "measured"
