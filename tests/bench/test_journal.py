"""What an interrupted run keeps: found by all that decides it, whole or not at all. And one measurement at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.bench.journal import Journal
from edge.bench.lock import measuring

KEY: dict[str, Any] = {"part": "latency", "artifact": "ab" * 32, "threads": 1, "affinity": (0, 1), "scenario": {"name": "offline"}, "repeat": 0}
RECORD = {"figures": {"samples_ns": [1, 2, 3]}}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "results.json")


@pytest.mark.parametrize(
    "change", [{"repeat": 1}, {"threads": 2}, {"part": "memory"}, {"affinity": None}, {"scenario": {"name": "offline", "min_count": 5}}, {"new": 1}]
)
def test_a_record_is_found_by_its_own_key_only(journal: Journal, change: dict[str, Any]) -> None:
    assert journal.get(KEY) is None
    journal.put(KEY, RECORD)
    assert journal.get({**KEY, **change}) is None
    assert journal.get(dict(reversed(KEY.items()))) == RECORD
    journal.put(KEY, {"figures": {}})
    assert journal.get(KEY) == {"figures": {}} and len(list(journal.folder.iterdir())) == 1


def test_results_files_beside_each_other_have_journals_of_their_own(journal: Journal, tmp_path: Path) -> None:
    journal.put(KEY, RECORD)
    assert Journal(tmp_path / "other.json").get(KEY) is None
    assert Journal(tmp_path / "results.json").get(KEY) == RECORD


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: "[]",
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
        lambda text: text.replace('"repeat": 0', '"repeat": 7'),
        lambda text: text.replace('"record": {', '"record": 5, "x": {'),
        lambda text: "\udcff",
    ],
    ids=["truncated", "empty", "deep", "list", "other version", "other key", "no record", "not UTF-8"],
)
def test_a_damaged_record_is_not_taken(journal: Journal, damage: Callable[[str], str]) -> None:
    journal.put(KEY, RECORD)
    (file,) = journal.folder.iterdir()
    file.write_text(damage(file.read_text()), errors="surrogateescape")
    assert journal.get(KEY) is None
    journal.put(KEY, RECORD)
    assert journal.get(KEY) == RECORD


def test_a_huge_record_is_not_read(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.put(KEY, RECORD)
    monkeypatch.setattr("edge.bench.journal.MAX_RECORD", 10)
    assert journal.get(KEY) is None


def test_removing_takes_the_whole_folder_and_nothing_else(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    journal.remove()
    journal.put(KEY, RECORD)
    journal.remove()
    journal.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"] and journal.get(KEY) is None


HOLD = "from edge.bench.lock import measuring\nwith measuring(lambda why: print(why, flush=True)):\n    print('held', flush=True)\n    input()"


@pytest.fixture
def hold(tmp_path: Path) -> Any:
    """Starts processes that hold the lock of a machine of their own."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        started.append(subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_second_measurement_waits_for_the_first(hold: Callable[[], subprocess.Popen[str]]) -> None:
    first = hold()
    assert line(first) == "held"
    second = hold()
    assert line(second) == f"another measurement runs on this machine (process {first.pid}): waiting for its end"
    first.communicate("\n")
    assert line(second) == "held"


def test_the_lock_of_a_killed_holder_is_free(hold: Callable[[], subprocess.Popen[str]]) -> None:
    first = hold()
    assert line(first) == "held"
    second = hold()
    assert "waiting" in line(second)
    first.send_signal(signal.SIGKILL)
    assert line(second) == "held"


def test_a_holder_that_fails_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    with pytest.raises(RuntimeError), measuring(said.append):
        raise RuntimeError
    with measuring(said.append):
        assert (tmp_path / "edge-measuring.lock").read_text() == str(os.getpid())
    assert said == []


def test_the_lock_is_not_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "edge-measuring.lock").symlink_to("mine")
    with pytest.raises(OSError), measuring(lambda _: None):
        pass
    assert (tmp_path / "mine").read_text() == "precious"
