"""``edge bench``."""

from __future__ import annotations

from pathlib import Path

import click

from edge.cli.options import COUNTS
from edge.errors import CheckFailed


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Results file, JSON.")
@click.option("--target", type=click.Choice(["local"]), default="local", show_default=True)
@click.option("--threads", type=COUNTS, default="1", show_default=True, help="One or several counts, e.g. 1,2.")
@click.option("--batch", type=COUNTS, default="1", show_default=True, help="One or several batch sizes, e.g. 1,8.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Shortest timed loop of a cell.")
@click.option("--json", "as_json", is_flag=True, help="Print the results document on stdout.")
def bench(
    artifacts: tuple[Path, ...], out: Path, target: str, threads: tuple[int, ...], batch: tuple[int, ...], seconds: float, as_json: bool
) -> None:
    """Measure ARTIFACTS (folders, or folders of them), each in a process of its own.

    The file is rewritten after every cell, so an interrupted run keeps what it has measured. Exit code 1 when a cell failed.

    \b
    Example:
      edge bench out/demo/artifacts --threads 1,2 --out out/results.json
    """
    from edge.bench.launch import Timing
    from edge.bench.measure import BenchRequest
    from edge.bench.present import filled_columns
    from edge.bench.report import remarks
    from edge.bench.results import Results
    from edge.cli.display import Display, print_cells, print_remarks
    from edge.devices.local import LocalTarget
    from edge.vocabulary import Status
    from edge.workflows.bench import run_bench

    results = Results()
    with Display() as display:
        for count in threads:
            for size in batch:
                request = BenchRequest(LocalTarget(), threads=count, batch=size, timing=Timing(min_seconds=seconds))
                task = f"{count} thread{'s' * (count > 1)}, batch {size}"
                results = run_bench(
                    artifacts, out, request, lambda name, step, done, total, t=task: display.progress(t, done, total, f"{name}: {step}"),  # type: ignore[misc]
                    also=results.cells,
                )  # fmt: skip
    if as_json:
        click.echo(results.model_dump_json(indent=1))
    else:
        print_cells(results.cells, filled_columns(results.cells))
        print_remarks([(f"{cell.model} {cell.label}", cell.status.value, why) for cell, why in remarks(results.cells)])
    if failed := [cell for cell in results.cells if cell.status is Status.FAILED]:
        raise CheckFailed(f"{len(failed)} of {len(results.cells)} cells failed; the first: {failed[0].label}: {failed[0].reason}")
