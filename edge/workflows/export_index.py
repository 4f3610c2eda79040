"""What became of each cell of an export, and the file that keeps it beside the artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from edge.artifact import Kernels, Parity, artifact_name
from edge.errors import BadInput
from edge.files import write_atomic
from edge.vocabulary import Arch, Format, Frozen, Precision, Status

INDEX = "export.json"


class ExportedCell(Frozen):
    """What became of one cell.

    Attributes:
        artifact: its folder's name when it was made.
        size, ratio: bytes of its files, and over those of the fp32 parameters.
        note: what a reader should know of a cell that was made.
        kept: it was there already, made from the same things in the same way.
    """

    model: str
    format: Format
    precision: Precision
    target_arch: Arch
    status: Status
    reason: str | None = None
    artifact: str | None = None
    size: int | None = None
    ratio: float | None = None
    parity: Parity | None = None
    kernels: Kernels | None = None
    note: str | None = None
    kept: bool = False

    @property
    def key(self) -> str:
        """The name that the cell's artifact has or would have."""
        return artifact_name(self.model, self.format, self.precision, self.target_arch)


class ExportIndex(Frozen):
    """``export.json``: every cell of the last export of each model in the folder, also those that could not be made."""

    schema_version: Literal[1] = 1
    cells: tuple[ExportedCell, ...] = ()


def read_index(folder: Path) -> ExportIndex:
    """The export index of a folder; empty when there is none."""
    path = folder / INDEX
    if not path.is_file():
        return ExportIndex()
    try:
        return ExportIndex.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path}: not an export index of schema version 1: {' '.join(str(error).split())[:200]}") from error


def write_index(out: Path, cells: Iterable[ExportedCell]) -> None:
    """Put fresh cells in the place of older ones; those of other exports stay."""
    fresh = {cell.key: cell for cell in cells}
    kept = [cell for cell in read_index(out).cells if cell.key not in fresh]
    write_atomic(out / INDEX, ExportIndex(cells=(*kept, *fresh.values())).model_dump_json(indent=1))
