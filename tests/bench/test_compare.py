"""`edge compare`: a difference is told from noise by processes, whichever way is better, and a cell that is gone is a regression."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from edge.artifact import Kernels
from edge.bench.compare import FIGURES, compare_results, ratio_test
from edge.bench.results import Cell, Process, Results, empty_figures, write_results
from edge.bench.samples import pack
from edge.cli.main import main
from edge.errors import BadInput
from edge.vocabulary import Arch, Format, Precision, Status
from tests.conftest import Ran, run_edge

#: Medians in ms of five processes with a spread of 1 %.
FIVE = (1.00, 0.995, 1.005, 0.9975, 1.0025)
TIMES = np.array([0.9, 1.0, 1.0, 1.0, 1.4])


def process(median_ms: float) -> Process:
    """A process whose every figure is proportional to its median."""
    return Process(
        samples=pack((TIMES * median_ms * 1e6).astype(np.int64)),
        began=0.0,
        wall_s=5 * median_ms / 1e3,
        cpu_s=5 * median_ms / 1e3,
        import_ms=1.0,
        load_ms=10 * median_ms,
        first_ms=2 * median_ms,
        warmup_s=0.1,
        warm=True,
        inferences=5,
        timer_ns=50,
    )


def cell(medians_ms: Iterable[float], **change: Any) -> Cell:
    base: dict[str, Any] = {
        "model": "net",
        "format": Format.ONNX,
        "precision": Precision.FP32,
        "target_arch": Arch.ANY,
        "target": "local",
        "device": "desk",
        "scenario": "single-stream",
        "settings": {"min_seconds": 2.0},
        "threads": 1,
        "batch": 1,
        "status": Status.OK,
        "reason": None,
        "kernels": Kernels(reduced=None, total=None, reason="fp32"),
        "artifact": "net-onnx-fp32",
        "environment": {"cpu": "one"},
        "processes": tuple(map(process, medians_ms)),
        **empty_figures("not asked for"),
    }
    return Cell(**{**base, **change})


def times(factor: float) -> list[float]:
    return [factor * median for median in FIVE]


def one_verdict(a: Cell, b: Cell, figure: str = "p50") -> Any:
    (found,) = compare_results(Results(cells=(a,)), Results(cells=(b,)), FIGURES[figure])
    return found


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The command line, in this process: a new one takes seconds to import scipy."""

    def run(a: Sequence[Cell], b: Sequence[Cell], *options: str) -> Ran:
        for name, cells in (("a.json", a), ("b.json", b)):
            write_results(tmp_path / name, Results(cells=tuple(cells)))
        code = main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), *options])
        return Ran(code, *capsys.readouterr())

    return run


def test_the_ratio_test_is_welch_s_on_the_logarithms() -> None:
    rng = np.random.default_rng(0)
    x, y = np.exp(rng.normal(0, 0.02, 6)), np.exp(rng.normal(0.03, 0.05, 4))
    low, high, p = ratio_test(x, y)
    a, b = np.log(x), np.log(y)
    va, vb = a.var(ddof=1) / 6, b.var(ddof=1) / 4
    freedom = (va + vb) ** 2 / (va**2 / 5 + vb**2 / 3)
    middle, half = b.mean() - a.mean(), stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    assert (low, high) == pytest.approx((np.exp(middle - half), np.exp(middle + half)))
    assert p == pytest.approx(2 * stats.t.sf(abs(middle) / np.sqrt(va + vb), freedom))


def test_without_any_spread_equal_is_equal_and_different_is_different() -> None:
    assert ratio_test(np.array([2.0, 2.0]), np.array([2.0, 2.0])) == (1.0, 1.0, 1.0)
    assert ratio_test(np.array([2.0, 2.0]), np.array([3.0, 3.0])) == pytest.approx((1.5, 1.5, 0.0))


def test_equal_cells_are_called_different_in_about_one_of_twenty_tests() -> None:
    draws = np.exp(np.random.default_rng(0).normal(0, 0.05, (2000, 10)))
    wrong = np.mean([ratio_test(draw[:5], draw[5:])[2] < 0.05 for draw in draws])
    assert wrong < 0.065


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "same"), (1.0005, "same"), (1.05, "worse"), (0.95, "better")])
@pytest.mark.parametrize("figure", ["p50", "p90", "mean", "load", "first", "cpu_time"])
def test_a_difference_beyond_the_spread_of_the_processes_is_found(figure: str, factor: float, verdict: str) -> None:
    found = one_verdict(cell(FIVE), cell(times(factor)), figure)
    assert found.verdict == verdict and found.ratio.value == pytest.approx(factor, rel=1e-4)
    assert found.ratio.interval[0] < factor < found.ratio.interval[1]
    assert found.regression(0.03) is (verdict == "worse") and not found.regression(0.06)


def test_of_throughput_more_is_better() -> None:
    slower = one_verdict(cell(FIVE), cell(times(1.10)), "throughput")
    assert slower.verdict == "worse" and slower.ratio.value == pytest.approx(1 / 1.10) and slower.regression(0.09) and not slower.regression(0.11)
    assert one_verdict(cell(FIVE), cell(times(0.9)), "throughput").verdict == "better"
    assert one_verdict(cell(FIVE), cell(FIVE, batch=1), "throughput").a.value == pytest.approx(1000, rel=0.01)


def test_many_samples_of_two_processes_a_side_prove_nothing() -> None:
    assert one_verdict(cell([1.0, 1.2]), cell([1.1, 1.3])).verdict == "same"


def test_over_many_cells_the_p_values_are_adjusted() -> None:
    rng = np.random.default_rng(0)
    factors = [1.0] * 39 + [1.2]
    a = [cell(np.exp(rng.normal(0, 0.02, 3)), model=f"net{n}") for n in range(40)]
    b = [cell(factor * np.exp(rng.normal(0, 0.02, 3)), model=f"net{n}") for n, factor in enumerate(factors)]
    found = compare_results(Results(cells=tuple(a)), Results(cells=tuple(b)), FIGURES["p50"])
    raw = [ratio_test(*(np.array([np.median(p.samples.milliseconds()) for p in c.processes]) for c in pair))[2] for pair in zip(a, b, strict=True)]
    assert [one.p for one in found] == pytest.approx(stats.false_discovery_control(raw))
    assert sum(p < 0.05 for p in raw) > sum(one.verdict != "same" for one in found)


def test_the_command_says_same_worse_and_better_and_a_regression_is_exit_code_1(compare: Callable[..., Ran]) -> None:
    same = compare([cell(FIVE)], [cell(FIVE)])
    assert same.code == 0 and "same" in same.out
    worse = compare([cell(FIVE)], [cell(times(1.08))])
    assert worse.code == 1 and "worse" in worse.out and "1 of 1 cells are worse by more than 5 %" in worse.err
    tolerated = compare([cell(FIVE)], [cell(times(1.08))], "--fail-above", "10%")
    assert tolerated.code == 0 and "worse" in tolerated.out
    assert compare([cell(FIVE)], [cell(times(1.08))], "--fail-above", "lots").code == 2
    better = compare([cell(FIVE)], [cell(times(0.9))])
    assert better.code == 0 and "better" in better.out


def test_a_cell_that_failed_or_is_gone_is_a_regression(compare: Callable[..., Ran]) -> None:
    two = [cell(FIVE), cell(FIVE, threads=2)]
    failed = compare(two, [cell(FIVE), cell((), threads=2, status=Status.FAILED, reason="it died of SIGSEGV")])
    assert failed.code == 1 and "failed: failed: it died of SIGSEGV" in failed.out
    gone = compare(two, [cell(FIVE)])
    assert gone.code == 1 and "not in the second file" in gone.out
    assert compare([cell(FIVE)], two).code == 0


def test_one_process_a_side_is_unknown_and_no_regression(compare: Callable[..., Ran]) -> None:
    ran = compare([cell([1.0])], [cell([2.0])], "--json")
    (found,) = json.loads(ran.out)
    assert ran.code == 0 and found["verdict"] == "unknown" and "--repeats 5" in found["reason"]
    assert found["ratio"]["value"] == pytest.approx(2.0) and found["p"] is None and found["ratio"]["interval"] is None


@pytest.mark.parametrize("change", [{"threads": 2}, {"batch": 8}, {"model": "other"}, {"settings": {"min_seconds": 9.0}}, {"scenario": "offline"}])
def test_files_without_a_common_cell_are_exit_code_2(compare: Callable[..., Ran], change: dict[str, Any]) -> None:
    ran = compare([cell(FIVE)], [cell(FIVE, **change)])
    assert ran.code == 2 and "no measured cell in common" in ran.err and "Traceback" not in ran.err


def test_a_cell_that_stands_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="net onnx fp32 stands twice"):
        compare_results(Results(cells=(cell(FIVE), cell(FIVE))), Results(cells=(cell(FIVE),)), FIGURES["p50"])


def test_two_machines_are_compared_with_a_warning_and_several_in_one_file_by_name(compare: Callable[..., Ran]) -> None:
    other = cell(times(2), device="board", environment={"cpu": "two"})
    ran = compare([cell(FIVE)], [other])
    assert ran.code == 1 and "different processors: one and two" in ran.err
    both = compare_results(Results(cells=(cell(FIVE), other)), Results(cells=(cell(FIVE), other)), FIGURES["p50"])
    assert [one.verdict for one in both] == ["same", "same"]


def test_markdown_is_a_table_and_json_is_one_document(compare: Callable[..., Ran]) -> None:
    ran = compare([cell(FIVE, model="a|b")], [cell(times(1.2), model="a|b")], "--markdown")
    head, rule, line, *rest = ran.out.splitlines()
    assert head == "| cell | A p50 ms | B p50 ms | B / A | 95 % | p | verdict |" and set(rule) <= set("| -:") and not rest
    assert line.startswith("| a\\|b onnx fp32, single-stream, 1 thread, batch 1 | 1.00 | 1.20 | 1.200 | ") and line.endswith("| worse |")
    (found,) = json.loads(compare([cell(FIVE)], [cell(times(1.2))], "--json").out)
    assert found["verdict"] == "worse" and found["ratio"]["value"] == pytest.approx(1.2) and found["p"] < 0.05
    assert found["b"] == {"value": pytest.approx(1.2), "unit": "ms", "provenance": "measured", "reason": None, "interval": None}


def version_1(p50: float) -> dict[str, Any]:
    """Results as the first release wrote them: no processes, no settings, fewer figures."""
    figure = {"value": None, "unit": "ms", "provenance": "measured", "reason": "not measured"}
    kept = dict.fromkeys(("p90", "p99", "min", "load", "first", "count"), figure)
    one = {
        **{"model": "net", "format": "onnx", "precision": "fp32", "target_arch": "any", "target": "local", "device": "desk"},
        **{"scenario": "single-stream", "threads": 1, "batch": 1, "status": "ok", "reason": None, "artifact": "net-onnx-fp32", "environment": {}},
        "latency": {"p50": {"value": p50, "unit": "ms", "provenance": "measured", "reason": None}, **kept},
        "memory": {name: {**figure, "unit": "B"} for name in ("peak_rss", "baseline_rss", "model_rss")},
        **{"throughput": figure, "energy": {}, "size": figure, "accuracy": {"top1": figure}, "agreement": {"top1": figure}},
        "kernels": {"reduced": None, "total": None, "reason": "fp32"},
    }
    return {"schema_version": 1, "cells": [one], "training": []}


@pytest.mark.parametrize("second", ["version 1", "version 2"])
def test_results_of_version_1_are_read_and_compared_as_unknown(tmp_path: Path, second: str) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(version_1(1.0)))
    if second == "version 1":
        b.write_text(json.dumps(version_1(9.0)))
    else:
        write_results(b, Results(cells=(cell(FIVE),)))
    ran = run_edge("compare", a, b, "--json")
    (found,) = json.loads(ran.out)
    assert ran.code == 0 and found["verdict"] == "unknown" and found["ratio"]["value"] is None and "no p50 of single processes" in found["reason"]
