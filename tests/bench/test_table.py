"""The flat table: a row a cell, every figure under a name with its unit, the same in CSV and in Parquet."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest

from edge.bench.results import Results, write_results
from edge.bench.statistics import percentile
from edge.bench.table import write_table
from edge.cli.main import main
from edge.errors import BadInput
from edge.vocabulary import Measurement, Status
from tests.bench.test_compare import FIVE, TIMES, cell
from tests.conftest import Demo

BOARD: dict[str, Any] = {"model": 'a, "b"\nc', "affinity": (0, 2), "shapes": {"image": (3, 32, 32)}, "warnings": ("one", "two")}


@pytest.fixture
def results() -> Results:
    first = cell(FIVE)
    timed = first.latency.model_copy(update={"p50": percentile(TIMES.repeat(10), 50)})
    figures = {"frames": Measurement(value=150, unit="count", provenance="counted"), "duty_cycle": Measurement(value=12.5, unit="%")}
    camera = {
        "scenario": "camera",
        "settings": {"fps": 25.0, "deadline_ms": None},
        "figures": figures,
        "environment": {"cpu": "two", "isa": ["avx2", "f16c"]},
    }
    failed = cell((), status=Status.FAILED, reason="it died", artifact=None)
    size = Measurement(value=1234, unit="B", provenance="counted")
    return Results(cells=(first.model_copy(update={"latency": timed, "size": size}), cell(FIVE, **camera, **BOARD), failed))


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return found


def test_every_figure_has_a_column_with_its_unit_and_its_interval(results: Results, tmp_path: Path) -> None:
    write_table(results, tmp_path / "t.parquet")
    first, second, failed = rows(tmp_path / "t.parquet")
    assert [first[name] for name in ("model", "format", "precision", "threads", "batch", "status")] == ["net", "onnx", "fp32", 1, 1, "ok"]
    p50 = results.cells[0].latency.p50
    assert p50.interval and (first["latency.p50 (ms)"], first["latency.p50.low"], first["latency.p50.high"]) == (p50.value, *p50.interval)
    assert first["size (B)"] == 1234 and first["size.provenance"] == "counted" and second["size.provenance"] is None
    assert first["memory.peak_rss (B)"] is None and first["processes"] == 5 and failed["reason"] == "it died"
    assert second["figures.frames (count)"] == 150 and second["figures.frames.provenance"] == "counted" and second["figures.duty_cycle (%)"] == 12.5
    assert second["settings.fps"] == 25.0 and first["settings.min_seconds"] == 2.0 and first["settings.fps"] is None
    assert (second["affinity"], second["shapes"], second["warnings"]) == ("0,2", "image=3x32x32", "one; two")
    assert second["environment.isa"] == "avx2 f16c" and first["environment.cpu"] == "one" and second["model"] == BOARD["model"]


def test_columns_of_intervals_and_provenance_are_there_only_where_they_say_something(results: Results, tmp_path: Path) -> None:
    write_table(results, tmp_path / "t.parquet")
    names = pyarrow.parquet.read_schema(tmp_path / "t.parquet").names
    assert [name for name in names if name.endswith((".low", ".high"))] == ["latency.p50.low", "latency.p50.high"]
    assert [name for name in names if name.endswith(".provenance")] == ["size.provenance", "figures.frames.provenance"]
    assert len(set(names)) == len(names) and names[0] == "model"


def test_csv_and_parquet_hold_the_same(results: Results, tmp_path: Path) -> None:
    for name in ("t.csv", "t.parquet"):
        write_table(results, tmp_path / name)
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, rows(tmp_path / "t.parquet"), strict=True):
        assert line.keys() == row.keys()
        for name, value in row.items():
            assert line[name] == "" if value is None else line[name] == value if isinstance(value, str) else float(line[name]) == value, name


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_results_without_cells_are_a_table_without_rows(tmp_path: Path, name: str) -> None:
    write_table(Results(), tmp_path / name)
    read = pyarrow.parquet.read_table if name.endswith("parquet") else pyarrow.csv.read_csv
    assert read(tmp_path / name).num_rows == 0 and "model" in read(tmp_path / name).column_names


def test_odd_values_of_a_stranger_s_file_become_texts_or_one_sentence(tmp_path: Path) -> None:
    odd = [
        cell(FIVE, settings={"x": value}, size=Measurement(value=size, unit="B"))
        for value, size in ((1, 1), ("two", 2.5), ([3, {}], 10**30), (True, 4))
    ]
    write_table(Results(cells=tuple(odd)), tmp_path / "t.parquet")
    assert [row["settings.x"] for row in rows(tmp_path / "t.parquet")] == ["1", "two", "3 {}", "True"]
    assert [row["size (B)"] for row in rows(tmp_path / "t.parquet")] == [1, 2.5, 1e30, 4]
    for hopeless in ({"size": Measurement(value=10**400, unit="B")}, {"environment": {"cpu": "\udc00"}}):
        with pytest.raises(BadInput, match="do not fit into a table"):
            write_table(Results(cells=(cell(FIVE, **hopeless),)), tmp_path / "u.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_the_old_table_stays_when_the_new_one_cannot_be_written(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(results, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_the_command_writes_tables_and_a_page_where_that_is_asked_for(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, other, page = (tmp_path / name for name in ("t.parquet", "t.csv", "page.html"))
    asked = ["report", str(demo.folder / "results.json"), "--table", str(table), "--json"]
    assert main(asked) == 0 and json.loads(capsys.readouterr().out) == {"tables": [str(table)]}
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert main([*asked, "--table", str(other), "--out", str(page)]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page), "tables": [str(table), str(other)]} and page.is_file()
    measured = [c for c in demo.results.cells if c.processes]
    found = [row for row in rows(table) if row["processes"]]
    assert [row["latency.p50 (ms)"] for row in found] == [c.latency.p50.value for c in measured] and found[0]["environment.cpu"]
    assert len(rows(table)) == len(demo.results.cells)


@pytest.mark.parametrize(("name", "words"), [("t.xlsx", "a .csv or a .parquet file"), ("table", "a .csv or a .parquet file")])
def test_another_suffix_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    write_results(tmp_path / "r.json", Results())
    assert main(["report", str(tmp_path / "r.json"), "--table", str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_without_pyarrow_it_says_what_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path / "r.json", Results())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["report", str(tmp_path / "r.json"), "--table", str(tmp_path / "t.csv")]) == 3
    message, hint = capsys.readouterr().err.splitlines()
    assert "pyarrow, which is not installed" in message and "-m pip install pyarrow" in hint
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert main(["report", str(tmp_path / "r.json")]) == 0
