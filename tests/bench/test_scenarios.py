"""Scenarios: what the command line asks for, and what the worker's loops do, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.bench.scenarios import NAMES, Camera, Server, SingleStream, parse_scenario
from edge.errors import BadInput
from tests.bench.test_worker import load_worker_module

MS = 1_000_000
START = 1000 * 1000 * MS
FEEDS = [["a"], ["b"], ["c"]]


def test_a_scenario_is_its_name_and_its_settings() -> None:
    assert parse_scenario("single-stream") == SingleStream()
    assert parse_scenario("camera:fps=25, deadline_ms=80,min_seconds=30") == Camera(fps=25, deadline_ms=80, min_seconds=30)
    assert parse_scenario("server:rate=50") == Server(rate=50, bound_ms=100)
    assert parse_scenario("sustained:minutes=10").seconds == 600
    assert [parse_scenario(f"{name}{':rate=1' * (name == 'server')}").name for name in NAMES] == list(NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no scenario ''"),
        ("sprint", "no scenario 'sprint'"),
        ("camera:fsp=25", "fsp"),
        ("camera:fps=fast", "fps"),
        ("camera:fps=0", "fps"),
        ("camera:fps=nan", "fps"),
        ("camera:fps=1e99", "fps"),
        ("camera:fps", "'fps' is not KEY=VALUE once"),
        ("camera:fps=15,fps=30", "'fps=30' is not KEY=VALUE once"),
        ("single-stream:name=offline", "'name=offline' is not KEY=VALUE once"),
        ("server", "rate"),
        ("server:rate=5,seed=-1", "seed"),
        ("multi-stream:streams=2.5", "streams"),
        ("single-stream:min_count=0", "min_count"),
        ("single-stream:min_seconds=-1", "min_seconds"),
        ("sustained:minutes=99999", "minutes"),
    ],
)
def test_a_wrong_scenario_is_one_sentence_that_names_it(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_scenario(text)
    assert words in caught.value.message and f"scenario {text!r}" in caught.value.message and caught.value.hint
    assert "\n" not in caught.value.message


class Clock:
    """Time that passes only in ``sleep`` and in the model's calls."""

    def __init__(self) -> None:
        self.now = START
        self.fed: list[Any] = []

    def sleep(self, seconds: float) -> None:
        self.now += int(np.ceil(seconds * 1e9))

    def infer(self, ms: float | Callable[[int], float]) -> Callable[[Any], None]:
        """A model whose call number n takes ``ms``, or ``ms(n)``."""

        def call(feed: Any) -> None:
            self.now += int((ms(len(self.fed)) if callable(ms) else ms) * MS)
            self.fed.append(feed)

        return call

    @property
    def passed_s(self) -> float:
        return (self.now - START) / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("scenarios.single_stream", "scenarios.offline", "scenarios.server", "scenarios.camera", "warmup"):
        module = load_worker_module(name)
        monkeypatch.setattr(module, "perf_counter_ns", lambda: clock.now)
        if hasattr(module, "time"):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=clock.sleep))
    return clock


def scenario(text: str) -> tuple[ModuleType, dict[str, Any]]:
    chosen = parse_scenario(text)
    return load_worker_module("scenarios." + chosen.name.replace("-", "_")), chosen.model_dump()


def run(text: str, infer: Callable[[Any], None]) -> dict[str, Any]:
    module, settings = scenario(text)
    found: dict[str, Any] = module.run(infer, FEEDS, settings)
    return found


def figure(found: dict[str, Any], name: str) -> float:
    return float(found["figures"][name][0])


@pytest.mark.parametrize(
    ("ms", "queries"), [(10, 200), (50, 100), (700, 86), (90_000, 1)], ids=["min_seconds", "min_count", "max_seconds", "one long call"]
)
def test_single_stream_ends_at_the_shortest_time_and_count_or_at_the_longest_time(clock: Clock, ms: float, queries: int) -> None:
    found = run("single-stream:min_seconds=2,min_count=100,max_seconds=60", clock.infer(ms))
    assert found["samples_ns"] == [ms * MS] * queries and found["inferences"] == queries
    assert clock.fed[:4] == [["a"], ["b"], ["c"], ["a"]][:queries]


def test_a_query_of_multi_stream_is_all_its_samples(clock: Clock) -> None:
    found = run("multi-stream:streams=4,min_seconds=2,min_count=10", clock.infer(5))
    assert set(found["samples_ns"]) == {20 * MS} and len(found["samples_ns"]) == 100
    assert found["inferences"] == len(clock.fed) == 400
    assert {str(feed) for feed in clock.fed[:4]} == {str(feed) for feed in FEEDS}


def test_offline_counts_and_times_nothing(clock: Clock) -> None:
    found = run("offline:min_seconds=2,min_count=10", clock.infer(5))
    assert found["samples_ns"] == [] and found["inferences"] == len(clock.fed) == 400


def test_server_s_queries_come_as_a_poisson_process_from_its_seed(clock: Clock) -> None:
    starts: list[int] = []
    found = run("server:rate=100,min_seconds=60,min_count=1,seed=3,max_seconds=90", lambda _: starts.append(clock.now))
    assert clock.passed_s == pytest.approx(60, abs=1) and len(starts) == pytest.approx(6000, abs=4 * 6000**0.5)
    gaps = np.diff(starts) / MS
    assert np.mean(gaps) == pytest.approx(10, rel=0.06) and np.std(gaps) == pytest.approx(10, rel=0.08)  # an exponential's are equal
    assert max(found["samples_ns"]) <= 2 and figure(found, "utilisation") == figure(found, "over_bound") == 0
    assert starts[:100] == first_starts(clock, 3) != first_starts(clock, 4)


def first_starts(clock: Clock, seed: int) -> list[int]:
    starts: list[int] = []
    clock.now = START
    run(f"server:rate=100,min_seconds=0.001,min_count=100,seed={seed}", lambda _: starts.append(clock.now))
    return starts


def test_an_idle_server_answers_at_once_and_an_overloaded_one_falls_behind(clock: Clock) -> None:
    asked = "server:rate=100,min_seconds=20,bound_ms=50"
    idle = run(asked, clock.infer(1))
    assert figure(idle, "over_bound") == 0 and figure(idle, "utilisation") == pytest.approx(10, abs=2) and np.median(idle["samples_ns"]) < 2 * MS
    busy = run(asked, clock.infer(8))
    full = run(asked, clock.infer(15))
    waits = np.array(full["samples_ns"])
    assert figure(idle, "over_bound") < figure(busy, "over_bound") < figure(full, "over_bound") > 90
    assert np.median(waits[-200:]) > 3 * np.median(waits[100:300]) and figure(full, "utilisation") > 99
    assert figure(full, "waited_a_gap") > figure(busy, "waited_a_gap") > figure(idle, "waited_a_gap")


def test_a_server_that_is_hopelessly_overloaded_ends_at_the_longest_time_and_says_what_waits(clock: Clock) -> None:
    found = run("server:rate=100,min_seconds=10,max_seconds=20", clock.infer(500))
    assert clock.passed_s == pytest.approx(20, abs=1) and len(found["samples_ns"]) == pytest.approx(40, abs=2)
    assert figure(found, "unanswered") == pytest.approx(20 * 100 - 40, rel=0.1)


def test_a_rate_so_low_that_the_time_is_over_first_does_not_wait_for_the_next_query(clock: Clock) -> None:
    found = run("server:rate=0.1,min_seconds=10,max_seconds=60,seed=1", clock.infer(1))
    assert 1 <= len(found["samples_ns"]) < 20 and clock.passed_s <= 60.1
    with pytest.raises(ValueError, match="no query came within 60 s"):
        run("server:rate=0.0001,seed=1", clock.infer(1))


def test_a_fast_model_sees_every_frame_in_time(clock: Clock) -> None:
    found = run("camera:fps=20,min_seconds=10,min_count=1", clock.infer(10))
    assert len(found["samples_ns"]) == pytest.approx(201, abs=1) and clock.passed_s == pytest.approx(10, abs=0.1)
    assert max(found["samples_ns"]) <= 10 * MS + 2
    assert figure(found, "dropped") == figure(found, "deadline_misses") == 0
    assert figure(found, "duty_cycle") == pytest.approx(20, abs=0.5) and figure(found, "frame_rate") == pytest.approx(20, abs=0.2)


def test_a_slow_model_takes_the_newest_frame_and_drops_the_others(clock: Clock) -> None:
    found = run("camera:fps=20,min_seconds=20,min_count=1", clock.infer(130))  # 2.6 frames arrive during a call
    assert figure(found, "frames") == pytest.approx(400, abs=4)
    assert figure(found, "dropped") == pytest.approx(100 * (1 - 1 / 2.6), abs=1)
    assert figure(found, "deadline_misses") == 100 and figure(found, "frame_rate") == pytest.approx(1000 / 130, rel=0.01)
    ages = np.array(found["samples_ns"]) / MS  # a frame waits less than a period for the call before it
    assert ages.min() >= 130 and ages.max() < 180.01 and figure(found, "duty_cycle") == pytest.approx(100, abs=0.1)


def test_a_frame_s_deadline_may_be_longer_or_shorter_than_the_gap_between_frames(clock: Clock) -> None:
    def now_and_then(call: int) -> float:
        return 40 if call % 4 == 3 else 10

    asked = "camera:fps=20,min_seconds=20,min_count=1"
    assert figure(run(f"{asked},deadline_ms=30", clock.infer(now_and_then)), "deadline_misses") == pytest.approx(25, abs=1)
    assert figure(run(f"{asked},deadline_ms=45", clock.infer(now_and_then)), "deadline_misses") == 0
    late = run(f"{asked},deadline_ms=200", clock.infer(130))
    assert figure(late, "deadline_misses") == figure(late, "dropped") > 50  # what is dropped is missed, what is shown is in time


def test_a_camera_so_slow_that_the_time_is_over_first_does_not_wait_for_the_next_frame(clock: Clock) -> None:
    found = run("camera:fps=0.04,min_seconds=10,max_seconds=60", clock.infer(1))
    assert len(found["samples_ns"]) == 3 and clock.passed_s <= 60.1


def test_sustained_is_a_row_a_minute_and_keeps_an_even_share_of_the_times(clock: Clock) -> None:
    found = run("sustained:minutes=3,minute_seconds=10", clock.infer(lambda call: 5 if clock.passed_s < 20 else 10))
    assert [(m["count"], m["p50_ms"], m["p99_ms"]) for m in found["minutes"]] == [(2000, 5, 5), (2000, 5, 5), (1000, 10, 10)]
    assert found["inferences"] == len(clock.fed) == 5000 and len(found["samples_ns"]) == 3000
    assert all("frequency_mhz" in m["before"] and "temperature_c" in m["after"] for m in found["minutes"])


def warm_up(clock: Clock, ms: float | Callable[[int], float], shortest: float, longest: float) -> dict[str, Any]:
    found: dict[str, Any] = load_worker_module("warmup").warm_up(clock.infer(ms), FEEDS, shortest, longest)
    assert found["inferences"] == len(clock.fed) and found["seconds"] == pytest.approx(clock.passed_s)
    return found


def test_the_warm_up_ends_when_calls_are_no_longer_faster(clock: Clock) -> None:
    found = warm_up(clock, lambda call: max(10.0, 30.0 - call), 0.3, 30)
    assert found["stable"] and found["inferences"] > 20 and found["seconds"] < 2  # 20 calls get faster


def test_the_warm_up_is_not_shorter_than_its_shortest_time(clock: Clock) -> None:
    assert warm_up(clock, 1, 2, 30)["seconds"] == pytest.approx(2, abs=0.11)


def test_the_warm_up_ends_at_its_longest_time_unstable(clock: Clock) -> None:
    found = warm_up(clock, lambda call: 100 * 0.99**call, 0.3, 3)
    assert not found["stable"] and found["seconds"] == pytest.approx(3, abs=0.3)


def test_the_warm_up_of_a_very_slow_model_is_two_calls(clock: Clock) -> None:
    assert warm_up(clock, 20_000, 0.3, 5) == {"seconds": pytest.approx(40), "inferences": 2, "stable": False}
