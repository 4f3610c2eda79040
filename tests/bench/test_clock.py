"""The wall clock is set back in the middle of a measurement: no time is measured with it."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bench.launch import SETTINGS, WORKER
from edge.bench.scenarios import SingleStream, timing


def slow(arrays: list[np.ndarray]) -> list[np.ndarray]:
    time.sleep(1e-3)
    return arrays


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The worker's tasks, with a runtime that takes a millisecond."""
    spec = importlib.util.spec_from_file_location("edge_worker", WORKER / "__init__.py", submodule_search_locations=[str(WORKER)])
    assert spec and spec.loader
    monkeypatch.setitem(sys.modules, "edge_worker", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(sys.modules["edge_worker"])
    runtime = types.ModuleType("edge_worker.runtimes.onnx")
    vars(runtime).update(start=lambda spec: None, load=lambda spec: slow)
    found = importlib.import_module("edge_worker.tasks")
    monkeypatch.setitem(sys.modules, "edge_worker.runtimes.onnx", runtime)
    yield found
    for name in [name for name in sys.modules if name.startswith("edge_worker.")]:
        del sys.modules[name]


def test_a_clock_that_runs_backwards_changes_no_figure(tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 2), np.float32))
    backwards = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    settings = timing(SingleStream(min_seconds=0.3, min_count=20), warmup=(0.1, 1.0))
    found = tasks.latency({**SETTINGS, "format": "onnx", "inputs": [str(tmp_path / "x.npy")], **settings})
    samples = np.asarray(found["samples_ns"])
    assert 0.3 <= found["wall_s"] < 60 and len(samples) >= 20
    assert samples.min() >= 1e6 and found["load_ms"] >= 0 and found["first_ms"] >= 1 and found["cpu_s"] >= 0
    assert found["others_busy"] is None or found["others_busy"] >= 0
