"""MLPerf LoadGen as the driver of the same worker: its figures are its own, and ours agree with them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact, load_artifact
from edge.bench.launch import run_worker, write_inputs
from edge.bench.scenarios import LoadGen, Scenario, SingleStream, parse_scenario, timing
from edge.devices.local import LocalTarget
from edge.models.source import resolve_model
from edge.vocabulary import Format, Precision
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest
from tests.bench.test_worker import load_worker_module

#: So far may they lie apart on a machine that does other things too; scripts/check_harness.py measures it where it is quiet.
APART = 0.15
#: Samples of a query that takes 0.8 ms: of one sample, 40 us, where a process's memory lies decides 40 % of the p90, in either loop.
LONG = 32
installed = pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen has no wheel for this machine")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("lenet")
    source = resolve_model("paddle.vision:lenet")
    request = ExportRequest(source, source.label, None, formats=frozenset({Format.ONNX}), precisions=frozenset({Precision.FP32}))
    return load_artifact(out / str(export_model(request, out)[0].artifact))


def measured(artifact: Artifact, scenario: Scenario, scratch: Path, batch: int = 1) -> dict[str, Any]:
    inputs = write_inputs(scratch, [artifact.vectors()["input_0"]])
    return run_worker("latency", artifact, inputs, LocalTarget(), settings={"threads": 1, "batch": batch, **timing(scenario)}).figures


def settings(**changes: Any) -> dict[str, Any]:
    return {**LoadGen(min_seconds=0.05, min_count=100).model_dump(), **changes}


@pytest.mark.alone
@installed
def test_loadgen_and_our_loop_agree(lenet: Artifact, tmp_path: Path) -> None:
    apart = np.empty((3, 2))
    for row in apart:  # in turns: the machine drifts
        loadgen = measured(lenet, LoadGen(min_seconds=0.5), tmp_path, LONG)
        ours = np.percentile(np.asarray(measured(lenet, SingleStream(min_seconds=0.5), tmp_path, LONG)["samples_ns"]) / 1e6, [50, 90])
        row[:] = [loadgen["figures"][name][0] / our - 1 for name, our in zip(("loadgen_p50", "loadgen_p90"), ours, strict=True)]
    assert np.all(np.abs(np.median(apart, axis=0)) < APART), apart


@installed
def test_the_times_are_loadgen_s_own(lenet: Artifact, tmp_path: Path) -> None:
    found = measured(lenet, LoadGen(min_seconds=0.2, min_count=300), tmp_path)
    samples = np.sort(found["samples_ns"])
    assert found["inferences"] == len(samples) >= 300 and found["figures"]["valid"] == [1, "count"]
    for q in (50, 90, 99):  # results.cc: the sample at count times percentile, of the sorted ones
        assert found["figures"][f"loadgen_p{q}"] == [samples[int(len(samples) * (q / 100))] / 1e6, "ms"]
    assert 0.2 <= found["wall_s"] < 5


@installed
def test_a_run_that_is_cut_short_is_not_valid() -> None:
    scenario = load_worker_module("scenarios.loadgen")
    found = scenario.run(lambda feed: None, [[0]], settings(min_count=10**6, max_seconds=0.1))
    assert found["figures"]["valid"] == (0, "count") and found["inferences"] < 10**6
    assert found["samples_ns"] == []  # so many were expected that no trace was kept


@installed
def test_an_error_of_the_model_comes_through() -> None:
    calls = iter(range(50))
    with pytest.raises(StopIteration):
        load_worker_module("scenarios.loadgen").run(lambda feed: next(calls), [[0]], settings())


def test_without_it_the_cell_is_unavailable_and_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(load_worker_module("failures").Unavailable, match="-m pip install mlcommons-loadgen"):
        load_worker_module("scenarios.loadgen").run(lambda feed: None, [[0]], settings())


def test_its_settings_are_those_of_the_other_scenarios() -> None:
    assert parse_scenario("loadgen:min_seconds=3,min_count=7") == LoadGen(min_seconds=3, min_count=7)
