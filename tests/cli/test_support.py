"""The support table: complete, as the README prints it, and with what this machine does with each cell."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge.cli.options import FORMATS, PRECISIONS
from edge.environments import cpu_flags, machine_arch
from edge.export.support import Cell, support_table
from edge.vocabulary import Arch, Format, Precision
from tests.conftest import ROOT, run_edge

README = ROOT / "README.md"


def rows(lite_python: str | None = None) -> list[dict[str, Any]]:
    ran = run_edge("support", "--json", EDGE_LITE_PYTHON=lite_python) if lite_python else run_edge("support", "--json")
    assert ran.code == 0 and not ran.err
    found: list[dict[str, Any]] = json.loads(ran.out)
    return found


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_script", ROOT / "scripts" / "readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key(cell: Cell) -> tuple[Format, Precision, Arch]:
    return cell.format, cell.precision, cell.target_arch


def test_every_format_and_precision_has_one_answer_for_each_processor() -> None:
    assert ([f.value for f in Format], [p.value for p in Precision]) == (list(FORMATS.words), list(PRECISIONS.words))
    keys = [key(cell) for cell in support_table()]
    assert len(keys) == len(set(keys))
    for format, precision in itertools.product(Format, Precision):
        archs = {arch for f, p, arch in keys if (f, p) == (format, precision)}
        assert archs in ({Arch.ANY}, {Arch.X86, Arch.ARM}), (format, precision)


def test_what_does_not_simply_work_says_why() -> None:
    assert all(cell.evidence for cell in support_table())
    assert all(cell.reason for cell in support_table() if cell.makes != "works" or cell.cpu_flags)


def test_json_holds_the_table_and_what_this_machine_does() -> None:
    for row, cell in zip(rows(), support_table(), strict=True):
        here = row.pop("here")
        assert Cell.model_validate(row) == cell
        if cell.makes == "unsupported":
            assert here == {"status": "unsupported", "reason": cell.reason}
        elif cell.format is not Format.PADDLE_LITE:
            runs = cell.target_arch.value in ("any", machine_arch()) and (not cell.cpu_flags or cpu_flags() & set(cell.cpu_flags))
            assert here["status"] == ("ok" if runs else "exported")
            assert (here["reason"] is None) == bool(runs)


def test_without_cpython_3_10_lite_says_what_it_needs() -> None:
    lite = [row["here"] for row in rows("/nonexistent") if row["format"] == "paddle-lite" and row["makes"] != "unsupported"]
    assert lite and all(here["status"] == "unavailable" and here["reason"].startswith("needs CPython 3.10") for here in lite)
    assert all("make setup" in here["reason"] for here in lite)


def test_a_person_sees_one_line_a_cell() -> None:
    ran = run_edge("support", EDGE_LITE_PYTHON="/nonexistent")
    lines = ran.out.splitlines()
    assert ran.code == 0 and len(lines) == len(support_table()) + 1
    for cell, line in zip(support_table(), lines[1:], strict=True):
        assert line.startswith(f"{cell.format.value} {cell.precision.value} ") and cell.evidence in line
        assert cell.makes.replace("-", " ") in line
    assert re.search(r"onnx fp32 +any +works +runs ", lines[1])
    assert any(re.search(r"paddle-lite int8 +arm +works +needs CPython 3.10", line) for line in lines)


def test_the_pages_print_their_tables() -> None:
    text = README.read_text()
    assert all(write(path.read_text()) == path.read_text() for path, write in script().PAGES.items()), "run: .venv/bin/python scripts/readme.py"
    assert run_edge("support", "--markdown").out in text


def test_the_script_writes_an_outdated_table_anew_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, text = script(), README.read_text()
    cell = support_table()[1]
    outdated = text.replace(f"| {cell.evidence} |", "| seen once |", 1)
    assert outdated != text
    copy = tmp_path / "README.md"
    copy.write_text(outdated)
    monkeypatch.setattr(module, "PAGES", {copy: module.with_support})
    assert module.main() == 0 and copy.read_text() == text
    with pytest.raises(ValueError, match="needs one line"):
        module.with_support(text.replace(module.SUPPORT[1], ""))


def test_help_has_an_example_and_the_two_forms_do_not_go_together() -> None:
    helped = run_edge("support", "--help")
    assert helped.code == 0 and "edge support" in helped.out.split("Example:")[1] and "--json" in helped.out
    both = run_edge("support", "--json", "--markdown")
    assert both.code == 2 and "do not go together" in both.err and "Traceback" not in both.err
