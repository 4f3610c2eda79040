"""``edge compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.options import PERCENT
from edge.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.bench.compare import Comparison, Figure

NAMES = ("p50", "p90", "p99", "mean", "load", "first", "throughput", "cpu_time")


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--figure", "name", type=click.Choice(NAMES), default="p50", show_default=True, help="What is compared.")
@click.option("--fail-above", type=PERCENT, default="5%", show_default=True, help="A significant regression beyond this gives exit code 1.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table, for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison on stdout.")
def compare(a: Path, b: Path, name: str, fail_above: float, markdown: bool, as_json: bool) -> None:
    """Compare results B with results A, cell by cell: ratio, 95 % interval, and whether it is more than noise.

    Each process counts once, so measure with --repeats 5 or more: three processes a side see large differences only. Exit code 1
    when a cell is significantly worse by more than --fail-above, or is in A and is gone or failed in B.

    \b
    Example:
      edge compare before.json after.json --fail-above 5%
    """
    import json

    from edge.bench.compare import FIGURES, compare_results, different_machines
    from edge.bench.results import read_results
    from edge.cli.display import print_table

    left, right = read_results(a), read_results(b)
    found = compare_results(left, right, FIGURES[name])
    if machines := different_machines(left, right):
        click.secho(f"edge: {machines}", fg="yellow", err=True)
    heads, rows = _table(found, FIGURES[name])
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
    elif markdown:
        lines = [heads, ["---", *["---:"] * (len(heads) - 2), "---"], *rows]
        click.echo("\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines))
    else:
        print_table(heads, rows, left=(0, len(heads) - 1))
    if worse := [one for one in found if one.regression(fail_above)]:
        raise CheckFailed(f"{len(worse)} of {len(found)} cells are worse by more than {100 * fail_above:g} %; the first: {worse[0].cell}")


def _table(found: Sequence[Comparison], figure: Figure) -> tuple[list[str], list[list[str]]]:
    from edge.bench.present import number

    rows = []
    for one in found:
        interval = one.ratio.interval
        span = "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        ratio, p = ("–" if value is None else f"{value:.3f}" for value in (one.ratio.value, one.p))
        verdict = one.verdict if one.reason is None else f"{one.verdict}: {one.reason}"
        rows.append([one.cell, number(one.a), number(one.b), ratio, span, p, verdict])
    return ["cell", f"A {figure.name} {figure.unit}", f"B {figure.name} {figure.unit}", "B / A", "95 %", "p", "verdict"], rows
