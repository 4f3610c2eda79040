"""Tells you, before you ship, whether your Paddle model will live on your device.

The few names a library user needs load what they need when they are first used:

    export_model(request, out)    a Paddle model -> artifacts, each proven equal
    run_bench(artifacts, out, request)    artifacts -> figures
    load_artifact(folder)    read and verify one artifact
    read_results(path), write_report(results, path)
    check(results.cells, load_profile("camera"))    figures -> will it live there?
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.artifact import load_artifact as load_artifact
    from edge.bench.measure import BenchRequest as BenchRequest
    from edge.bench.report import write_report as write_report
    from edge.bench.results import read_results as read_results
    from edge.bench.verdict import check as check
    from edge.devices.local import LocalTarget as LocalTarget
    from edge.devices.profile import load_profile as load_profile
    from edge.devices.targets import make_target as make_target
    from edge.workflows.bench import run_bench as run_bench
    from edge.workflows.export import export_model as export_model
    from edge.workflows.export_source import ExportRequest as ExportRequest

_HOMES = {
    "BenchRequest": "edge.bench.measure",
    "ExportRequest": "edge.workflows.export_source",
    "LocalTarget": "edge.devices.local",
    "check": "edge.bench.verdict",
    "export_model": "edge.workflows.export",
    "load_artifact": "edge.artifact",
    "load_profile": "edge.devices.profile",
    "make_target": "edge.devices.targets",
    "read_results": "edge.bench.results",
    "run_bench": "edge.workflows.bench",
    "write_report": "edge.bench.report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
