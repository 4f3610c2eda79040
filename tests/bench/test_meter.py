"""An external meter's log: integrated over the processes, or null with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bench.meter import PowerLog, read_power_log
from edge.bench.results import Process
from edge.bench.samples import pack
from edge.errors import BadInput


def process(began: float, wall_s: float, inferences: int = 100) -> Process:
    nothing = {"cpu_s": 0.0, "import_ms": 0.0, "load_ms": 0.0, "first_ms": 0.0, "warmup_s": 0.0, "warm": True, "timer_ns": 50}
    return Process(samples=pack(np.zeros(0, np.int64)), began=began, wall_s=wall_s, inferences=inferences, **nothing)


@given(st.floats(0.5, 50), st.floats(0, 5), st.floats(0.1, 3), st.integers(1, 8))
def test_constant_power_is_power_times_time(watts: float, idle: float, wall: float, batch: int) -> None:
    log = PowerLog(np.linspace(0, 10, 1001), np.full(1001, watts), idle)
    found = log.energy((process(1.0, wall), process(5.0, wall)), batch)
    assert found.value == pytest.approx(1e3 * (watts - idle) * wall / (100 * batch), abs=1e-6) and found.provenance == "measured"


def test_a_ramp_is_integrated_between_readings() -> None:
    seconds = np.linspace(0, 10, 11)
    found = PowerLog(seconds, seconds).energy((process(2.25, 4.5, 1),), 1)  # the integral of t from 2.25 to 6.75
    assert found.value == pytest.approx(1e3 * (6.75**2 - 2.25**2) / 2)


@pytest.mark.parametrize(("began", "wall"), [(-1.0, 5.0), (8.0, 5.0), (3.1, 0.5)])
def test_a_log_that_does_not_cover_the_measurement_gives_nothing(began: float, wall: float) -> None:
    found = PowerLog(np.linspace(0, 10, 11), np.ones(11)).energy((process(began, wall),), 1)
    assert found.value is None and "power log" in str(found.reason)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,power\n1,2\n", "no column 'seconds'"),
        ("seconds,watts\n1,two\n", "line 2"),
        ("seconds,watts\n1,nan\n", "finite"),
        ("seconds,watts\n2,1\n1,1\n", "order"),
        ("seconds,watts\n", "needs readings"),
        ("seconds,watts\n1\n", "line 2"),
    ],
)
def test_a_malformed_log_gets_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "power.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_power_log(path)


def test_other_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text("volts,seconds,watts\n5,1,2.5\n5,2,3.5\n")
    log = read_power_log(path, 1.0)
    assert log.seconds.tolist() == [1, 2] and log.watts.tolist() == [2.5, 3.5] and log.idle_w == 1.0
