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

import pytest

from edge.bench.launch import WORKER
from tests.conftest import Demo


def worker(spec: dict[str, Any], folder: Path, **environment: str) -> tuple[int, dict[str, Any] | None, str]:
    request, result = folder / "spec.json", folder / "result.json"
    request.write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, WORKER, request, result], cwd="/", env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True
    )
    return done.returncode, json.loads(result.read_text()) if result.is_file() else None, done.stderr


def test_it_runs_from_any_directory_and_says_what_machine_it_is(tmp_path: Path) -> None:
    code, result, _ = worker({"schema_version": 1, "task": "machine", "threads": 1}, tmp_path)
    assert code == 0 and result is not None and result["status"] == "ok"
    assert result["environment"]["python"] == sys.version.split()[0]
    assert result["figures"]["counters"]["cpu_time"]["value"] >= 0
    for counter in result["figures"]["counters"].values():
        assert (counter["value"] is None) == (counter["reason"] is not None)


@pytest.mark.parametrize("spec", [{"schema_version": 2, "task": "machine", "threads": 1}, {"schema_version": 1, "task": "rm", "threads": 1}])
def test_an_unknown_spec_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    code, result, err = worker(spec, tmp_path)
    assert code == 2 and result is None and "Traceback" not in err


def test_a_failure_is_a_result_with_the_reason(demo: Demo, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    spec = {
        "schema_version": 1,
        "task": "memory",
        "format": "onnx",
        "precision": "fp32",
        "model": str(broken),
        "inputs": [],
        "batch": 1,
        "threads": 1,
    }
    code, result, _ = worker(spec, tmp_path)
    assert code == 0 and result is not None and result["status"] == "failed" and result["error"]


def test_bf16_without_bf16_kernels_is_refused_not_quietly_computed_in_fp32(tmp_path: Path, demo: Demo) -> None:
    runtime = load_worker_module("runtimes.paddle_inference")
    machine = load_worker_module("machine")
    flags = set((machine._cpuinfo().get("flags") or "").split())
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
