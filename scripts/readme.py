#!/usr/bin/env python3
"""Puts tables between their markers: what can be made into README.md, what recipes have come to into edge/compress/README.md.

.venv/bin/python scripts/readme.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edge.bench.compression import SIZE, SPEED, Table, tables_of
from edge.cli.support import markdown_table
from edge.compress.result import SUFFIX, read_result
from edge.export.support import support_table
from edge.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = "<!-- the support table, written by scripts/readme.py -->", "<!-- end of the support table -->"
RECIPES = "<!-- the tables of the recipes, written by scripts/readme.py -->", "<!-- end of the tables of the recipes -->"
#: In the order of the page; tables of other recipes follow.
ORDER = ("LeNet-300", "LeNet-5", "AlexNet", "VGG", "ResNet", "Single", "Low rank", "Bits", "Distillation", "Images", "Full size")


def between(text: str, markers: tuple[str, str], table: str) -> str:
    """The text with the table between its markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"it needs one line {begin} and after it one line {end}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def with_support(text: str) -> str:
    return between(text, SUPPORT, markdown_table(support_table()))


def with_recipes(text: str) -> str:
    results = [read_result(path) for path in sorted((ROOT / "edge" / "recipes").glob(f"*{SUFFIX}"))]
    tables = sorted(tables_of(results), key=lambda table: next((n for n, start in enumerate(ORDER) if table.name.startswith(start)), len(ORDER)))
    return between(text, RECIPES, "\n\n".join(_markdown(table) for table in tables))


def _markdown(table: Table) -> str:
    columns = [column for column in (*SIZE, *SPEED) if any(column in part for part in table.parts) and column.head != "recipe"]
    lines = [_line(["row", *(column.head for column in columns)]), _line(["---", *["---:"] * len(columns)])]
    lines += [_line([f"`{row.name}`: {row.row}", *(column.text(row) for column in columns)]) for row in table.rows]
    beside = f"Published: {'; '.join(table.beside)}. " if table.beside else ""
    return f"### {table.name}\n\n{beside}Timed on {table.timed}.\n\n" + "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


#: What is written into which file.
PAGES = {ROOT / "README.md": with_support, ROOT / "edge" / "compress" / "README.md": with_recipes}


def main() -> int:
    for path, write in PAGES.items():
        old = path.read_text()
        new = write(old)
        if new != old:
            write_atomic(path, new)
        print(f"{path}: {'written' if new != old else 'nothing has changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
