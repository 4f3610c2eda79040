"""``edge report``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page to write.  [default: report.html beside RESULTS]")
@click.option("--json", "as_json", is_flag=True, help="Print where the page is, as JSON.")
def report(results: Path, out: Path | None, as_json: bool) -> None:
    """Turn a results file into one self-contained page.

    \b
    Example:
      edge report out/results.json --out out/report.html
    """
    from edge.bench.report import write_report
    from edge.bench.results import read_results

    page = out or results.with_name("report.html")
    write_report(read_results(results), page)
    click.echo(json.dumps({"report": str(page)}) if as_json else f"report: {page}")
