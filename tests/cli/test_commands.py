"""The commands as a user and a script see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.bench.results import read_results
from edge.vocabulary import Status
from tests.conftest import Demo, run_edge

COMMANDS = ["demo", "study", "export", "bench", "report", "doctor"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(command: str) -> None:
    ran = run_edge(command, "--help")
    assert ran.code == 0
    assert f"edge {command}" in ran.out.split("Example:")[1]
    assert "--json" in ran.out


def test_the_group_lists_every_command() -> None:
    ran = run_edge("--help")
    assert all(f"\n  {command} " in ran.out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonesuch"], "No such command"),
        (["bench", "/nonexistent", "--out", "never.json"], "no such folder"),
        (["bench", ".", "--out", "x.json", "--threads", "0"], "'0' is not a positive whole number"),
        (["bench", ".", "--out", "x.json", "--threads", "1,two"], "'two' is not a positive whole number"),
        (["report", "/nonexistent.json"], "no such results file"),
        (["export"], "Missing argument"),
        (["study", "--seeds", "0"], "seeds"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    ran = run_edge(*arguments, cwd=tmp_path)
    assert ran.code == 2 and words in ran.err and "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_runtimes_processor_counters_and_fixes() -> None:
    ran = run_edge("doctor", "--json")
    assert ran.code == 0
    findings = {(f["area"], f["name"]): f for f in json.loads(ran.out)}
    assert findings[("runtime", "onnxruntime")]["ok"] and findings[("runtime", "paddle-inference")]["ok"]
    assert findings[("package", "paddlepaddle")]["detail"] == "3.3.1"
    card = findings[("runtime", "gpu")]
    assert card["ok"] or card["fix"]
    assert ("counter", "instructions") in findings and ("data", "mnist") in findings
    assert {f["area"] for f in findings.values()} == {"python", "package", "runtime", "processor", "counter", "data", "disk"}


def test_doctor_without_cpython_3_10_says_what_mends_it() -> None:
    ran = run_edge("doctor", EDGE_LITE_PYTHON="/nonexistent", COLUMNS="200")
    assert ran.code == 0
    line = next(line for line in ran.out.splitlines() if "paddle-lite" in line)
    assert "no" in line and "CPython 3.10" in line and "make setup" in ran.out


def test_report_from_results(demo: Demo, tmp_path: Path) -> None:
    ran = run_edge("report", demo.folder / "results.json", "--out", tmp_path / "page.html", "--json")
    assert ran.code == 0 and json.loads(ran.out) == {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_bench_takes_threads_and_batches(demo: Demo, tmp_path: Path) -> None:
    artifact = demo.artifacts / "mnist_student_distilled-onnx-fp32"
    ran = run_edge("bench", artifact, "--threads", "1,2", "--batch", "1,8", "--seconds", "0.1", "--out", tmp_path / "r.json", "--json")
    assert ran.code == 0, ran.err
    cells = read_results(tmp_path / "r.json").cells
    assert [(c.threads, c.batch) for c in cells] == [(1, 1), (1, 8), (2, 1), (2, 8)]
    assert json.loads(ran.out)["cells"][3]["batch"] == 8
    assert not [c for c in cells if c.status is not Status.OK]
    one, eight = cells[0].latency.p50.value, cells[1].latency.p50.value
    assert one and eight and eight > one


def test_lite_with_two_threads_is_refused_not_relabelled(demo: Demo, tmp_path: Path) -> None:
    folders = sorted(demo.artifacts.glob("mnist_student_distilled-paddle-lite-fp32-x86"))
    if not folders:
        pytest.skip("no Paddle Lite environment: needs CPython 3.10")
    ran = run_edge("bench", *folders, "--threads", "2", "--out", tmp_path / "r.json")
    cell = read_results(tmp_path / "r.json").cells[0]
    assert ran.code == 0 and cell.status is Status.UNSUPPORTED and "one thread" in str(cell.reason) and cell.latency.p50.value is None
