"""``edge check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge.bench.verdict import Budget, Check, Verdict

EXIT_CODES = {"PASS": 0, "FAIL": 1, "UNKNOWN": 3}


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", required=True, metavar="NAME", help="As `edge devices` lists them, or your own .toml file.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict on stdout as JSON.")
@click.pass_context
def check(context: click.Context, results: tuple[Path, ...], device: str, as_json: bool) -> None:
    """Will it live on the device? Every budget of the device against what the RESULTS say, of one or several files.

    What counts: figures of the device itself (--target ssh, or local on it), counts under emulation of its processor (--target
    qemu), and predictions, which say how far off such ones were elsewhere, and decide only where their whole range does. What this
    machine measured says nothing of another device's latency, memory or energy. The best artifact's verdict is that of the whole:
    exit code 0 PASS, 1 FAIL, 3 UNKNOWN.

    \b
    Example:
      edge check out/demo/results.json --device camera
      edge check desk.json pi.json --device raspberry-pi-4b --json
    """
    from edge.bench.results import read_results
    from edge.bench.verdict import check as check_cells
    from edge.devices.profile import load_profile

    profile = load_profile(device)
    found = check_cells([cell for path in results for cell in read_results(path).cells], profile)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        print_check(found)
    context.exit(EXIT_CODES[found.verdict])


def print_check(found: Check) -> None:
    """The verdict of every artifact on every budget; of the best one in words, with what the others fail outright, and what would help."""
    from rich.console import Console

    from edge.cli.display import plain, print_table

    names = list(dict.fromkeys(budget.name for verdict in found.cells for budget in verdict.budgets))
    best = {budget.name: budget for budget in found.budgets}
    heads = [f"on {found.device}", "verdict", *(_head(best[name]) for name in names)]
    print_table(heads, [_row(verdict, names) for verdict in found.cells])
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(plain(text), markup=False, soft_wrap=True)

    say(f"{found.device}: {found.verdict}, {found.cell}")
    for budget in found.budgets:
        provenance = f" ({budget.provenance})" if budget.provenance and budget.limit is not None else ""
        say(f"  {budget.verdict:<8}{budget.name.replace('_', ' ')}: {budget.says}{provenance}")
    for basis in dict.fromkeys(verdict.basis for verdict in found.cells if verdict.basis):
        say(f"  ~ {basis}")
    for remark in (*_refused(found), *found.remarks, *found.help):
        say(f"  {remark}")


def _head(budget: Budget) -> str:
    from edge.bench.verdict import amount

    name = budget.name.replace("_", " ")
    if budget.limit is None or budget.unit is None:
        return name
    return f"{name} {'>=' if budget.at_least else '<='} {amount(budget.limit, budget.unit)}"


def _row(verdict: Verdict, names: Sequence[str]) -> list[str]:
    found = {budget.name: budget for budget in verdict.budgets}
    return [verdict.cell, verdict.verdict, *(f"{found[name].shown} {found[name].verdict}".strip() for name in names)]


def _refused(found: Check) -> Iterator[str]:
    """Why an artifact other than the best failed where no figure tells."""
    for verdict in found.cells[1:]:
        for budget in verdict.budgets:
            if budget.verdict == "FAIL" and not budget.shown:
                yield f"{verdict.cell}: {budget.name}: {budget.says}"
