"""Results from a stranger, the page made of them, and figures that never travel without unit and provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bench.report import write_report
from edge.bench.results import NOT_IN_1, read_results
from edge.errors import BadInput
from edge.export.support import support_table
from edge.vocabulary import Status
from tests.bench.test_compare import version_1
from tests.conftest import Demo

UNITS = {"latency": {"ms", "count"}, "memory": {"B"}, "size": {"B"}, "accuracy": {"%"}, "agreement": {"%"}, "throughput": {"1/s"}}


def figures(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if {"value", "unit"} <= value.keys():
            yield value
        else:
            for child in value.values():
                yield from figures(child)


def test_every_figure_has_unit_and_provenance_and_a_null_has_a_reason(demo: Demo) -> None:
    document = json.loads((demo.folder / "results.json").read_text())
    assert document["schema_version"] == 2 and len(document["cells"]) == 2 * len(support_table())
    for cell in document["cells"]:
        assert (cell["reason"] is None) == (cell["status"] == "ok")
        for group, units in UNITS.items():
            assert {f["unit"] for f in figures(cell[group])} <= units
        assert cell["energy"]["cpu_time"]["unit"] == "s" and cell["energy"]["instructions"]["unit"] == "count"
        for figure in figures(cell):
            assert figure["provenance"] in ("measured", "counted", "modelled")
            assert (figure["value"] is None) == bool(figure["reason"]), figure


def test_measured_cells_are_complete_and_make_sense(demo: Demo) -> None:
    measured = [c for c in demo.results.cells if c.status is Status.OK and c.model == "mnist_student_distilled"]
    assert {c.format.value for c in measured} >= {"onnx", "paddle-inference"}
    for cell in measured:
        latency, memory = cell.latency, cell.memory
        low, middle, high = (float(f.value or 0) for f in (latency.min, latency.p50, latency.p90))
        assert 0 < low <= middle <= high and float(latency.load.value or 0) > 0 and float(latency.first.value or 0) > 0
        assert float(memory.peak_rss.value or 0) > float(memory.baseline_rss.value or 0) > 10 << 20
        assert float(cell.energy["cpu_time"].value or 0) > 0
        assert float(cell.accuracy.top1.value or 0) > 90 and cell.environment["versions"]
        assert (cell.latency.count.value or 0) >= 200
        assert cell.settings["min_seconds"] and cell.environment["tool"]["version"]


def test_the_raw_samples_are_in_the_file_and_the_figures_are_theirs(demo: Demo) -> None:
    cell = next(c for c in demo.results.cells if c.processes)
    samples = np.concatenate([process.samples.milliseconds() for process in cell.processes])
    latency = cell.latency
    assert len(cell.processes) == 3 and latency.count.value == len(samples)
    assert latency.min.value == pytest.approx(samples.min(), abs=1e-5) and latency.mean.value == pytest.approx(samples.mean(), abs=1e-5)
    for q, figure in ((50, latency.p50), (90, latency.p90), (95, latency.p95)):
        assert figure.value == pytest.approx(np.percentile(samples, q, method="inverted_cdf"), abs=1e-5)
        assert figure.interval and figure.interval[0] <= float(figure.value or 0) <= figure.interval[1]
    assert latency.load.value == np.median([process.load_ms for process in cell.processes])
    inferences, seconds = (sum(getattr(process, name) for process in cell.processes) for name in ("inferences", "wall_s"))
    assert cell.throughput.value == pytest.approx(inferences / seconds)


def test_what_results_of_version_1_lack_is_null_with_that_as_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(version_1(1.5)))
    (cell,) = read_results(path).cells
    assert cell.latency.p50.value == 1.5 and cell.latency.p95.value is None and cell.memory.growth.value is None
    assert cell.latency.p95.reason == cell.memory.growth.reason == NOT_IN_1
    assert cell.processes == () and cell.settings == {}
    path.write_text(json.dumps({"schema_version": 1, "cells": [{**version_1(1.5)["cells"][0], "latency": 5}]}))
    with pytest.raises(BadInput, match="latency"):
        read_results(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-20], "not readable JSON"),
        (lambda text: text.replace('"schema_version":', '"schema_version": 9, "x":', 1), "schema version 9"),
        (lambda text: text.replace('"status": "ok"', '"status": "great"', 1), "status"),
        (lambda text: text.replace('"unit": "ms"', '"unit": 3', 1), "unit"),
        (lambda text: "[" * 100_000, "not readable JSON"),
        (lambda text: "{}", "schema version None"),
        (lambda text: '{"schema_version": 1, "cells": 5}', "cells"),
        (lambda text: '{"schema_version": 1, "cells": [5]}', "cells"),
        (lambda text: text.replace('"tick_ns": 10', '"tick_ns": 0', 1), "tick_ns"),
    ],
)
def test_damaged_results_get_one_sentence(demo: Demo, tmp_path: Path, damage: Callable[[str], str], words: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(damage((demo.folder / "results.json").read_text()))
    with pytest.raises(BadInput, match=words):
        read_results(path)


def test_the_page_is_self_contained_and_escapes_what_it_shows(demo: Demo, tmp_path: Path) -> None:
    results = demo.results
    hostile = results.cells[0].model_copy(update={"model": "<script>alert(1)</script>", "reason": "<img src=x onerror=alert(1)>"})
    write_report(results.model_copy(update={"cells": (hostile, *results.cells)}), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "<svg" in page and "http://www.w3.org" in page
    assert not re.search(r"<[^>]*\s(src|href)=\"(?!data:|#)", page) and "@import" not in page and "url(http" not in page
    assert "mnist_student_distilled" in page and "made for arm" in page
