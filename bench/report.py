"""``report.html``: one self-contained page from a results file. Everything from the file is escaped: it may be a stranger's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.bench.compression import CHANGES, ROW, SIZE, SPEED, tables_of
from edge.bench.measure import ARTIFACT
from edge.bench.plot import trade_off_svg
from edge.bench.present import COLUMNS, filled_columns, number
from edge.bench.results import Cell, Results
from edge.bench.verdict import Check, amount
from edge.compress.result import Result
from edge.files import write_atomic
from edge.vocabulary import Status


def write_report(
    results: Results, path: Path, checks: Sequence[Check] = (), title: str = "Will it live on the device?", compressed: Sequence[Result] = ()
) -> None:
    """Render the page, with the verdicts on devices and the results of recipes, and replace ``path`` with it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html.j2").render(
        title=title,
        lead=_lead(results.cells, compressed),
        tables=tables_of(compressed),
        table_columns=(ROW, *SIZE, *SPEED, *CHANGES),
        training=results.training,
        groups=_groups(results.cells),
        about=COLUMNS,
        checks=checks,
        amount=amount,
        environments=_environments([*(cell.environment for cell in results.cells), *(result.environment for result in compressed)]),
        number=number,
    )
    write_atomic(path, page)


def remarks(cells: Sequence[Cell]) -> list[tuple[Cell, str]]:
    """Cells without figures and why, doubts about measured ones, and those whose kernels are not what their name promises."""
    notes = [(cell, cell.reason) for cell in cells if cell.reason]
    notes += [(cell, doubt) for cell in cells for doubt in cell.warnings]
    notes += [(cell, cell.kernels.reason) for cell in cells if cell.status is Status.OK and cell.kernels.reduced is not None and cell.kernels.reason]
    return notes


def _lead(cells: Sequence[Cell], compressed: Sequence[Result]) -> str:
    recipes = f"{len(compressed)} recipes of compression." if compressed else ""
    if not cells:
        return recipes
    ok = sum(cell.status is Status.OK for cell in cells)
    settings = sorted({f"{c.target}, {c.asked}" for c in cells})
    return f"{ok} of {len(cells)} cells measured; {'; '.join(settings)}. {recipes}".strip()


def _groups(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One group a model; cells that have no artifact appear among the notes only."""
    groups = []
    for model in dict.fromkeys(cell.model for cell in cells):
        mine = [cell for cell in cells if cell.model == model]
        made = [cell for cell in mine if cell.artifact]
        groups.append(
            {
                "model": model,
                "plot": trade_off_svg(mine),
                "made": made,
                "columns": filled_columns(made),
                "notes": remarks(mine),
                "sustained": [cell for cell in mine if cell.minutes],
                "profiled": [cell for cell in mine if cell.operators],
            }
        )
    return groups


def _environments(machines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct machines, versions of all merged, without what tells one measurement from the other."""
    merged: dict[str, dict[str, Any]] = {}
    for machine in machines:
        if machine:
            one = merged.setdefault(str(machine.get("cpu")), {**machine, "versions": {}})
            versions = machine.get("versions")
            one["versions"] |= versions if isinstance(versions, dict) else {}
    return [{name: _words(value) for name, value in one.items() if name not in ("python", ARTIFACT)} for one in merged.values()]


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
