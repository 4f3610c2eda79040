"""Bench needs nothing of a target but its verbs: push, run, lacks; whoever made it closes it."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge.bench.measure import OUT_OF_MEMORY
from edge.devices.target import Ending
from edge.vocabulary import Status
from edge.workflows.bench import run_bench
from tests.bench.test_faults import ONNX, quick, repack
from tests.conftest import Demo
from tests.devices.fake import FakeTarget


def test_bench_runs_on_a_target_that_only_pushes_runs_and_lacks(demo: Demo, tmp_path: Path) -> None:
    target = FakeTarget(tmp_path / "device", ending=Ending(0, figures={"fan_starts": (2, "count"), "fan_speed": (7.5, "1/s")}))
    lite = next(demo.artifacts.glob("*paddle-lite-fp32-x86"))
    results = run_bench([demo.artifacts / ONNX[1], lite], tmp_path / "r.json", quick(target))
    row, refused = results.cells
    assert row.status is Status.OK and (row.target, row.device) == ("fake", "fake-device"), row.reason
    assert row.accuracy.top1.value and row.latency.p50.value and row.memory.peak_rss.value
    assert (row.figures["fan_starts"].value, row.figures["fan_starts"].provenance, row.figures["fan_speed"].value) == (2, "counted", 7.5)
    assert refused.status is Status.EXPORTED and "no Paddle Lite was ever built for a folder" in str(refused.reason)
    for job in target.jobs:  # nothing that the worker reads or writes lies elsewhere
        paths = [job.worker, job.spec["model"], *job.spec["inputs"]]
        assert all(Path(path).is_relative_to(target.root) for path in paths) and job.spec["outputs"] == "."
    assert {str(job.spec["task"]) for job in target.jobs} == {"outputs", "latency", "memory"}


def test_what_a_target_knows_of_memory_stands_above_what_the_runtime_says_of_it(demo: Demo, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(demo.artifacts / ONNX[1], broken)
    repack(broken, lambda model: model.write_bytes(b"garbage"))
    results = run_bench([broken], tmp_path / "r.json", quick(FakeTarget(tmp_path / "device", ending=Ending(0, "needs more than a folder has"))))
    assert results.cells[0].status is Status.FAILED and results.cells[0].failure == OUT_OF_MEMORY
    assert results.cells[0].reason == "the outputs worker needs more than a folder has"
