"""``edge doctor``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings on stdout as JSON.")
def doctor(as_json: bool) -> None:
    """Say what is installed, which runtimes run, what this processor and its counters offer, and what mends the rest.

    Changes nothing. Exit code 3 when no runtime runs.

    \b
    Example:
      edge doctor --json
    """
    from rich.console import Console
    from rich.table import Table

    from edge.errors import Unavailable
    from edge.workflows.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([finding.model_dump() for finding in findings], indent=1))
    else:
        table = Table(box=None, pad_edge=False)
        for head in ("area", "name", "", "what was found"):
            table.add_column(head, overflow="fold")
        for finding in findings:
            mark = "[green]yes[/]" if finding.ok else "[yellow]no[/]"
            table.add_row(finding.area, finding.name, mark, finding.detail + (f"  →  {finding.fix}" if finding.fix else ""))
        Console(highlight=False).print(table)
    if not any(finding.ok for finding in findings if finding.area == "runtime"):
        raise Unavailable("no runtime runs on this machine", hint="run: make setup")
