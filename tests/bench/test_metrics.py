"""A metric of the user's own: the PP-OCR text detector is judged as a detector; a broken metric fails its row in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.bench.results import read_results
from edge.vocabulary import Status
from tests.conftest import ROOT, Demo, run_edge

DETECTOR = ROOT / ".cache" / "ppocr" / "det"
METRICS = """
import numpy as np
from edge.datasets.ppocr import page_masks

def text_found(outputs, inputs, labels):
    # share of the marked area that is text, times the share of the lines' pixels that are marked at all (PP-OCR marks the core of a line)
    text = page_masks("test")[: len(outputs[0])]
    marked = outputs[0][:, 0] > 0.3
    return float(np.sum(marked & text) / max(np.sum(marked), 1) * min(1.0, 2 * np.sum(marked & text) / np.sum(text)))

def broken(outputs, inputs, labels):
    raise KeyError("no such\\nthing")

def not_finite(outputs, inputs, labels):
    return float("nan")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "mymetrics.py").write_text(METRICS)
    return tmp_path


@pytest.mark.skipif(not DETECTOR.is_dir(), reason="the PP-OCR models are not on this machine: python3 scripts/fetch_ppocr.py")
def test_the_text_detector_is_judged_as_a_detector(home: Path) -> None:
    command: list[str | Path] = ["export", DETECTOR, "--calibration", "text_pages", "--samples", "8", "--judge", "8", "--format", "onnx"]
    exported = run_edge(*command, "--precision", "fp32", "--out", home / "artifacts")
    assert exported.code == 0, exported.err
    ran = run_edge(
        "bench", home / "artifacts", "--metric", "mymetrics:text_found", "--seconds", "0.2", "--repeats", "1", "--out", home / "r.json", cwd=home
    )
    assert ran.code == 0, ran.err
    (cell,) = read_results(home / "r.json").cells
    figure = cell.accuracy.metrics["mymetrics:text_found"]
    assert figure.value is not None and figure.value > 0.8 and "mymetrics:text_found" in ran.out
    assert cell.accuracy.top1.value is None and cell.accuracy.top1.reason


@pytest.mark.parametrize(
    ("metric", "code", "words"),
    [
        ("mymetrics:broken", 1, "metric 'mymetrics:broken' failed: KeyError"),
        ("mymetrics:not_finite", 1, "returned nan"),
        ("mymetrics:nowhere", 2, "metric 'mymetrics:nowhere'"),
        ("nomodule:x", 2, "No module named 'nomodule'"),
        ("nonsense", 2, "not of the form MODULE:FUNCTION"),
    ],
)
def test_a_metric_that_does_not_work_gets_one_sentence(demo: Demo, home: Path, metric: str, code: int, words: str) -> None:
    artifact = demo.artifacts / "mnist_student_distilled-onnx-fp32"
    ran = run_edge("bench", artifact, "--metric", metric, "--seconds", "0.1", "--repeats", "1", "--out", home / "r.json", cwd=home)
    assert ran.code == code and words in ran.err and "Traceback" not in ran.err, ran.err
    if code == 1:
        (cell,) = read_results(home / "r.json").cells
        assert cell.status is Status.FAILED and json.loads((home / "r.json").read_text())["cells"][0]["latency"]["p50"]["value"] is None
