"""The worker as it stands on a device: a file in, a file out, from any directory, with nothing inherited."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge.artifact import load_artifact
from edge.bench.launch import SPEC_VERSION, WORKER
from edge.bench.scenarios import parse_scenario, timing
from tests.conftest import Demo


def worker(spec: dict[str, Any], folder: Path, **environment: str) -> tuple[int, dict[str, Any] | None, str]:
    request, result = folder / "spec.json", folder / "result.json"
    request.write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, WORKER, request, result], cwd="/", env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True
    )
    return done.returncode, json.loads(result.read_text()) if result.is_file() else None, done.stderr


def test_it_runs_from_any_directory_and_says_what_machine_it_is(tmp_path: Path) -> None:
    code, result, _ = worker({"schema_version": SPEC_VERSION, "task": "machine", "threads": 1}, tmp_path)
    assert code == 0 and result is not None and result["status"] == "ok"
    assert result["environment"]["python"] == sys.version.split()[0]
    assert result["figures"]["counters"]["cpu_time"]["value"] >= 0
    for counter in result["figures"]["counters"].values():
        assert (counter["value"] is None) == (counter["reason"] is not None)


@pytest.mark.parametrize(
    "spec", [{"schema_version": 1, "task": "machine", "threads": 1}, {"schema_version": SPEC_VERSION, "task": "rm", "threads": 1}]
)
def test_an_unknown_spec_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    code, result, err = worker(spec, tmp_path)
    assert code == 2 and result is None and "Traceback" not in err


def test_a_failure_is_a_result_with_the_reason(demo: Demo, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    code, result, _ = worker({**spec_of(demo, "memory", "single-stream"), "model": str(broken)}, tmp_path)
    assert code == 0 and result is not None and result["status"] == "failed" and result["error"]


def spec_of(demo: Demo, task: str, scenario: str) -> dict[str, Any]:
    """What `edge.bench.measure` sends, for the student in ONNX fp32."""
    artifact = load_artifact(demo.artifacts / "mnist_student_distilled-onnx-fp32")
    images = demo.folder / "worker_images.npy"
    np.save(images, artifact.vectors()["input_0"])
    return {
        "schema_version": SPEC_VERSION,
        "task": task,
        "format": "onnx",
        "precision": "fp32",
        "model": str(artifact.path("model")),
        "params": None,
        "inputs": [str(images)],
        "input_names": [info.name for info in artifact.manifest.inputs],
        "outputs": None,
        "threads": 1,
        "batch": 1,
        "affinity": None,
        **timing(parse_scenario(scenario), (0.05, 0.3)),
        "growth_seconds": 0.2,
    }


@pytest.mark.parametrize(
    ("scenario", "figures", "calls_a_query"),
    [
        ("single-stream:min_seconds=0.1,min_count=20", set(), 1),
        ("multi-stream:streams=3,min_seconds=0.1,min_count=20", set(), 3),
        ("offline:min_seconds=0.1,min_count=20", set(), None),
        ("server:rate=200,min_seconds=0.1,min_count=20", {"over_bound", "utilisation", "waited_a_gap", "unanswered"}, 1),
        ("camera:fps=100,min_seconds=0.1,min_count=5", {"frames", "dropped", "deadline_misses", "frame_rate", "duty_cycle"}, 1),
        ("sustained:minutes=2,minute_seconds=0.05", set(), 1),
    ],
)
def test_every_scenario_runs_on_a_real_model(demo: Demo, tmp_path: Path, scenario: str, figures: set[str], calls_a_query: int | None) -> None:
    code, result, err = worker(spec_of(demo, "latency", scenario), tmp_path)
    assert code == 0 and result is not None and result["status"] == "ok", (result, err)
    found = result["figures"]
    times = found["samples_ns"]
    assert found["figures"].keys() == figures and all(value >= 0 for value, _ in found["figures"].values())
    if calls_a_query is None:
        assert found["inferences"] >= 20 and times == []
    else:  # `sustained` keeps 1,000 times a minute
        assert found["inferences"] == len(times) * calls_a_query or len(times) >= 1000
    assert all(time > 0 for time in times) and min(found["wall_s"], found["load_ms"], found["first_ms"], found["import_ms"], found["timer_ns"]) > 0
    assert found["warmup"]["inferences"] > 1 and found["before"]["clock"] < found["after"]["clock"]
    assert len(found.get("minutes", ())) == (2 if "sustained" in scenario else 0)


def test_a_runtime_leaves_nothing_in_the_home_directory(demo: Demo, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code, _, err = worker(spec_of(demo, "latency", "single-stream:min_seconds=0.1,min_count=5"), tmp_path, HOME=str(home))
    assert code == 0 and not list(home.rglob("*")), err


def test_memory_says_what_the_model_adds_and_looks_for_growth(demo: Demo, tmp_path: Path) -> None:
    _, result, err = worker(spec_of(demo, "memory", "single-stream"), tmp_path)
    assert result is not None and result["status"] == "ok", err
    found = result["figures"]
    assert found["peak_rss"] >= found["baseline_rss"] + found["model_rss"] > found["baseline_rss"] > 10 << 20
    assert [run for run, _ in found["growth"]] == list(range(0, 50 * len(found["growth"]), 50))


def test_bf16_without_bf16_kernels_is_refused_not_quietly_computed_in_fp32(tmp_path: Path, demo: Demo) -> None:
    runtime = load_worker_module("runtimes.paddle_inference")
    machine = load_worker_module("machine")
    flags = set((machine.cpuinfo().get("flags") or "").split())
    if flags & runtime.BF16_FLAGS:
        runtime._require_bf16()
    else:
        with pytest.raises(Exception, match="no bf16 kernels"):
            runtime._require_bf16()


def load_worker_module(name: str) -> ModuleType:
    """A module of the worker, imported the way its own bootstrap does."""
    if "edge_worker" not in sys.modules:
        spec = importlib.util.spec_from_file_location("edge_worker", WORKER / "__init__.py", submodule_search_locations=[str(WORKER)])
        assert spec and spec.loader
        package = importlib.util.module_from_spec(spec)
        sys.modules["edge_worker"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"edge_worker.{name}")


def rapl_zone(root: Path, energy: int, limit: int) -> Path:
    zone = root / "intel-rapl:0"
    (zone / "intel-rapl:0:0").mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(str(energy))
    (zone / "max_energy_range_uj").write_text(str(limit))
    return zone


def test_rapl_is_read_and_wraps(tmp_path: Path) -> None:
    probes = load_worker_module("probes")
    rapl_zone(tmp_path, 9_000, 10_000)
    reader = probes.Rapl(str(tmp_path))
    reader.start()
    rapl_zone(tmp_path, 500, 10_000)
    assert reader.stop() == (1.5, None)


def test_an_absent_counter_is_null_with_a_reason(tmp_path: Path) -> None:
    probes = load_worker_module("probes")
    reader = probes.Rapl(str(tmp_path))
    reader.start()
    value, reason = reader.stop()
    assert value is None and "no RAPL" in reason
    zone = rapl_zone(tmp_path, 1, 10)
    (zone / "energy_uj").unlink()
    reader = probes.Rapl(str(tmp_path))
    reader.start()
    assert reader.stop()[0] is None and "not readable" in reader.stop()[1]


def test_cpus_that_are_not_there_are_named(tmp_path: Path) -> None:
    code, result, _ = worker({"schema_version": SPEC_VERSION, "task": "machine", "threads": 1, "affinity": [4095]}, tmp_path)
    assert code == 0 and result is not None and result["status"] == "failed"
    assert result["error"].startswith("Unavailable: cannot run on the CPUs 4095")
