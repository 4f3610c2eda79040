"""Results as one flat table for other programs: a row a cell, a column a figure with its unit in its name, as CSV or Parquet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bench.results import Cell, Results
from edge.errors import BadInput, Unavailable
from edge.files import write_atomic
from edge.vocabulary import Measurement

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet")
#: Fields of a cell that stand in the table as they are, in this order.
PLAIN = ("model", "format", "precision", "target_arch", "target", "device", "scenario", "threads", "batch", "status", "reason", "artifact")
#: Groups of figures, in this order.
GROUPS = ("latency", "throughput", "memory", "energy", "size", "accuracy", "agreement", "figures")


def check_table(path: Path) -> None:
    """What can be known before the results are read.

    Raises:
        BadInput: another suffix than ``.csv`` and ``.parquet``.
        Unavailable: pyarrow is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: a table is a {' or a '.join(SUFFIXES)} file", hint="name it e.g. results.csv")
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise Unavailable("tables are written by pyarrow, which is not installed", hint=f"run: {sys.executable} -m pip install pyarrow") from None


def write_table(results: Results, path: Path) -> None:
    """Replace ``path`` with the table.

    A figure ``latency.p50 (ms)`` has ``latency.p50.low`` and ``.high`` beside it where an interval is known, and ``latency.p50.provenance`` where
    it was not measured. A null figure is a null; why, is in the results only.

    Raises:
        BadInput, Unavailable: see `check_table`; figures that no table holds.
    """
    check_table(path)
    import pyarrow as pa
    from pyarrow import csv, parquet

    sink = pa.BufferOutputStream()
    try:
        table = _table([dict(_row(cell)) for cell in results.cells])
        if path.suffix == ".csv":
            csv.write_csv(table, sink)
        else:
            parquet.write_table(table, sink)
    except (ValueError, ArithmeticError) as error:  # pyarrow's own are ValueErrors
        raise BadInput(f"the results do not fit into a table: {error}") from error
    write_atomic(path, sink.getvalue().to_pybytes())


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    names = list(dict.fromkeys([*PLAIN, *(name for row in rows for name in row)]))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    optional = (".low", ".high", ".provenance")
    return pa.table({name: column for name, column in columns.items() if not name.endswith(optional) or column.null_count < len(rows)})


def _column(values: Sequence[Any]) -> pa.Array:
    """Whole numbers, numbers or texts; a mixture is texts."""
    import pyarrow as pa

    there = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in there):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    whole = there and all(isinstance(value, int) and abs(value) < 1 << 63 for value in there)
    return pa.array([None if value is None else int(value) if whole else float(value) for value in values], pa.int64() if whole else pa.float64())


def _row(cell: Cell) -> Iterator[tuple[str, Any]]:
    raw = cell.model_dump(mode="json", include={*PLAIN, "settings", "environment"})
    yield from ((name, raw[name]) for name in PLAIN)
    yield from _leaves("settings", raw["settings"])
    yield "affinity", ",".join(map(str, cell.affinity or ())) or None
    yield "shapes", "+".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in cell.shapes.items()) or None
    for group in GROUPS:
        yield from _figures(group, getattr(cell, group))
    yield from (("kernels.reduced", cell.kernels.reduced), ("kernels.total", cell.kernels.total), ("processes", len(cell.processes)))
    yield "warnings", "; ".join(cell.warnings) or None
    yield from _leaves("environment", raw["environment"])


def _figures(name: str, found: Any) -> Iterator[tuple[str, Any]]:
    """The columns of a figure, or of a group of them."""
    if isinstance(found, Measurement):
        yield f"{name} ({found.unit})", found.value
        low, high = found.interval or (None, None)
        yield from ((f"{name}.low", low), (f"{name}.high", high))
        yield f"{name}.provenance", None if found.value is None or found.provenance == "measured" else found.provenance
    else:
        for key, child in found.items() if isinstance(found, dict) else found:
            yield from _figures(f"{name}.{key}", child)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The columns of free fields, as deep as they go; lists are texts."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(f"{name}.{key}", child)
    elif isinstance(value, list):
        yield name, " ".join(map(str, value))
    else:
        yield name, value
