"""``edge report``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page to write.  [default: report.html beside RESULTS, or none with --table]")
@click.option(
    "--table",
    "tables",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Write a .csv or .parquet table, a row a cell; repeatable.",
)
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Put the verdict on this device on the page, as of edge check; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print where the page and the tables are, as JSON.")
def report(results: Path, out: Path | None, tables: tuple[Path, ...], devices: tuple[str, ...], as_json: bool) -> None:
    """Turn a results file into one self-contained page, or into a table for other programs.

    \b
    Example:
      edge report out/results.json --out out/report.html --device camera
      edge report out/results.json --table out/results.parquet
    """
    from edge.bench.report import write_report
    from edge.bench.results import read_results
    from edge.bench.table import check_table, write_table
    from edge.bench.verdict import check
    from edge.devices.profile import load_profile

    profiles = [load_profile(device) for device in devices]
    for table in tables:
        check_table(table)
    page = out or (None if tables else results.with_name("report.html"))
    read = read_results(results)
    if page:
        write_report(read, page, [check(read.cells, profile) for profile in profiles])
    for table in tables:
        write_table(read, table)
    if as_json:
        click.echo(json.dumps({**({"report": str(page)} if page else {}), **({"tables": [str(table) for table in tables]} if tables else {})}))
    else:
        click.echo("\n".join([f"report: {page}"] * bool(page) + [f"table: {table}" for table in tables]))
