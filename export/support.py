"""The support table: what each format x precision x architecture can do, read from ``support.toml``."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Literal

from edge.vocabulary import Arch, Format, Frozen, Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Cell(Frozen):
    """One row of the table; the comment at the top of ``support.toml`` says what the words mean."""

    format: Format
    precision: Precision
    target_arch: Arch
    makes: Literal["works", "storage-only", "unsupported"]
    evidence: str
    reason: str | None = None
    cpu_flags: tuple[str, ...] = ()


@cache
def support_table() -> tuple[Cell, ...]:
    """Every cell, in the order of the file."""
    raw = tomllib.loads(Path(__file__).with_name("support.toml").read_text())
    return tuple(Cell.model_validate(row) for row in raw["cell"])


def select(formats: set[Format] | None = None, precisions: set[Precision] | None = None) -> list[Cell]:
    """The cells of the named formats and precisions; None is all."""
    return [cell for cell in support_table() if (formats is None or cell.format in formats) and (precisions is None or cell.precision in precisions)]


def cell_of(format: Format, precision: Precision, arch: Arch) -> Cell | None:
    return next((c for c in support_table() if (c.format, c.precision, c.target_arch) == (format, precision, arch)), None)
