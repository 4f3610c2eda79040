"""``edge report``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge.errors import BadInput


@click.command()
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
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
def report(results: tuple[Path, ...], out: Path | None, tables: tuple[Path, ...], devices: tuple[str, ...], as_json: bool) -> None:
    """Turn a results file into one self-contained page, or into a table for other programs.

    RESULTS is a results file, and any number of NAME.result.json files of `edge compress`, which the page shows too, as tables and trade-off plots.

    \b
    Example:
      edge report out/results.json --out out/report.html --device camera
      edge report out/results.json --table out/results.parquet
      edge report edge/recipes/*.result.json --out out/compression.html
    """
    from edge.bench.report import write_report
    from edge.bench.results import Results, read_results
    from edge.bench.table import check_table, write_table
    from edge.bench.verdict import check
    from edge.compress.result import SUFFIX, read_result
    from edge.devices.profile import load_profile

    if folder := next((path for path in results if path.is_dir()), None):
        raise BadInput(f"{folder}: a folder", hint="name the results file, or the NAME.result.json, in it")
    profiles = [load_profile(device) for device in devices]
    for table in tables:
        check_table(table)
    measured = [path for path in results if not path.name.endswith(SUFFIX)]
    if len(measured) > 1:
        raise BadInput(f"{measured[1]}: one results file at a time", hint="results of one run are in one file: edge bench A B --out results.json")
    if not measured and (tables or devices):
        raise BadInput("--table and --device are about a results file of edge bench", hint="name one")
    page = out or (None if tables else results[0].with_name("report.html"))
    if page and page.resolve() in [path.resolve() for path in results]:
        raise BadInput(f"{page}: the page would take the place of the results", hint="name another file with --out")
    read = read_results(measured[0]) if measured else Results(cells=())
    if page:
        compressed = [read_result(path) for path in results if path not in measured]
        title = {} if read.cells else {"title": "What compression brings and costs"}
        write_report(read, page, [check(read.cells, profile) for profile in profiles], compressed=compressed, **title)
    for table in tables:
        write_table(read, table)
    if as_json:
        click.echo(json.dumps({**({"report": str(page)} if page else {}), **({"tables": [str(table) for table in tables]} if tables else {})}))
    else:
        click.echo("\n".join([f"report: {page}"] * bool(page) + [f"table: {table}" for table in tables]))
