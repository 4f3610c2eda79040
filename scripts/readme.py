#!/usr/bin/env python3
"""Puts the support table into README.md, between its two markers.

.venv/bin/python scripts/readme.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge.cli.support import markdown_table
from edge.export.support import support_table
from edge.files import write_atomic

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- the support table, written by scripts/readme.py -->"
END = "<!-- end of the support table -->"


def with_table(text: str) -> str:
    """The README's text with the table of today between its markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md needs one line {BEGIN} and after it one line {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{markdown_table(support_table())}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    old = README.read_text()
    new = with_table(old)
    if new != old:
        write_atomic(README, new)
    print(f"README.md: {'the support table is written' if new != old else 'nothing has changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
