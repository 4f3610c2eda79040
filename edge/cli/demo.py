"""``edge demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="Folder for everything that is written.")
@click.option("--dataset", type=click.Choice(["mnist", "digits"]), default="mnist", show_default=True)
@click.option("--train-seconds", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Train as many epochs as fit about this time.")
@click.option("--devices/--no-devices", default=True, show_default=True, help="Also emulate the devices' processors, and give a verdict on each.")
@click.option("--json", "as_json", is_flag=True, help="Print the results document on stdout.")
def demo(out: Path, dataset: str, train_seconds: float, devices: bool, as_json: bool) -> None:
    """Train a teacher and a student on MNIST, distil, export every cell, measure, report; then: would it live on a camera, on a Pi?
    What would is packed for the camera.

    Writes OUT/results.json, OUT/report.html, OUT/camera.bundle.tar.gz and OUT/artifacts/. Interrupted, it goes on where it stopped.

    \b
    Example:
      edge demo --out out/demo
    """
    from edge.bench.present import Column, filled_columns, fixed
    from edge.bench.report import remarks
    from edge.cli.check import print_check
    from edge.cli.display import Display, print_cells, print_remarks
    from edge.workflows.demo import DISTILLED, DemoEvents, alone_top1, run_demo, verdicts

    with Display() as display:
        events = DemoEvents(display.say, display.progress, lambda cell: display.say(f"  {cell.status.value:<11} {cell.key}"))
        results, bundle = run_demo(out, events, dataset=dataset, train_seconds=train_seconds, devices=devices)
    if as_json:
        click.echo(results.model_dump_json(indent=1))
        return
    cells = [cell for cell in results.cells if cell.model == DISTILLED and cell.target == "local"]
    made = [cell for cell in cells if cell.artifact]
    columns = filled_columns(made)

    def alone(cell: object) -> str:
        figure = alone_top1(results, cell)  # type: ignore[arg-type]
        return "–" if figure is None else fixed(figure)

    columns.insert(3, Column("alone %", alone, "top-1 of the student trained without the teacher"))
    print_cells(made, columns)
    print_remarks([(cell.label, cell.status.value, why) for cell, why in remarks(cells)])
    for found in verdicts(results) if devices else ():
        click.echo()
        print_check(found)
    click.echo(f"\nresults: {out / 'results.json'}\nreport:  {out / 'report.html'}")
    if bundle:
        click.echo(f"bundle:  {bundle}, which proves itself on the device: python3 -m run self-test; what is in it: edge inspect {bundle}")
