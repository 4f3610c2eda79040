"""``edge support``: what can be made, and what this machine does with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge.export.support import Cell
    from edge.vocabulary import Status

MAKES = {"works": "works", "storage-only": "storage only", "unsupported": "unsupported"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the table on stdout as JSON.")
@click.option("--markdown", is_flag=True, help="Print the table on stdout as Markdown, without what holds for this machine only.")
def support(as_json: bool, markdown: bool) -> None:
    """Say what each format, precision and processor can do with this toolchain, why not, and what this machine does with it.

    works: the files are made and run in their precision. storage only: the files are smaller, and computed in fp32 where a processor
    has no kernels for more. unsupported: they cannot be made.

    \b
    Example:
      edge support
      edge support --json
    """
    from edge.export.support import support_table

    if as_json and markdown:
        raise click.UsageError("--json and --markdown do not go together")
    cells = support_table()
    if markdown:
        click.echo(markdown_table(cells))
    elif as_json:
        click.echo(json.dumps([{**cell.model_dump(mode="json"), "here": _here_as_json(cell)} for cell in cells], indent=1))
    else:
        _print(cells)


def markdown_table(cells: Iterable[Cell]) -> str:
    """The table of the README: the same on every machine."""
    rows = [("format", "precision", "processor", "made", "why", "evidence"), ("---",) * 6]
    rows += [(c.format.value, c.precision.value, c.target_arch.value, MAKES[c.makes], c.reason or "", c.evidence) for c in cells]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows)


def here(cell: Cell) -> tuple[Status, str | None]:
    """What becomes of the cell on this machine, and why it does not run."""
    from edge.bench.runnable import why_not
    from edge.devices.local import LocalTarget
    from edge.environments import lite_python
    from edge.errors import Unavailable
    from edge.vocabulary import Format, Status

    if cell.makes == "unsupported":
        return Status.UNSUPPORTED, cell.reason
    try:
        if cell.format is Format.PADDLE_LITE:
            lite_python()
    except Unavailable as error:
        return Status.UNAVAILABLE, str(error)
    blocked = why_not(cell.format, cell.precision, cell.target_arch, LocalTarget())
    return (Status.EXPORTED, blocked) if blocked else (Status.OK, None)


def _here_as_json(cell: Cell) -> dict[str, str | None]:
    status, reason = here(cell)
    return {"status": status.value, "reason": reason}


def _print(cells: Iterable[Cell]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from edge.cli.display import STYLES

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(("cell", "processor", "makes", "here", "why (evidence)")):
        table.add_column(head, overflow="fold", no_wrap=index < 3)
    for cell in cells:
        status, reason = here(cell)
        why = f"{cell.reason} ({cell.evidence})" if cell.reason else f"({cell.evidence})"
        name = f"{cell.format.value} {cell.precision.value}"
        table.add_row(name, cell.target_arch.value, MAKES[cell.makes], f"[{STYLES[status.value]}]{escape(_in_words(status, reason))}[/]", escape(why))
    if not console.is_terminal:
        # one line a cell, for those who search in it
        console.width = max(console.width, console.measure(table, options=console.options.update(width=2000)).maximum)
    console.print(table)


def _in_words(status: Status, reason: str | None) -> str:
    """``runs``, ``exported: why``, ``needs ...``, or a dash."""
    return {"ok": "runs", "unsupported": "–", "unavailable": str(reason)}.get(status.value, f"exported: {reason}")
