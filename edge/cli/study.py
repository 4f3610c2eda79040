"""``edge study``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/study"), show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Pairs of students, each with its own seed.")
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--dataset", type=click.Choice(["mnist", "digits"]), default="mnist", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print study.json on stdout.")
def study(out: Path, seeds: int, epochs: int, dataset: str, as_json: bool) -> None:
    """Measure what distillation brings over the student alone: full training, several seeds.

    Both students of a pair have the same epochs, initial weights and batches. Takes about an hour on two cores; interrupted,
    it goes on where it stopped.

    \b
    Example:
      edge study --seeds 3 --epochs 10 --out out/study
    """
    from edge.cli.display import Display
    from edge.workflows.study import study_distillation

    with Display() as display:
        result = study_distillation(out, display.progress, seeds=seeds, epochs=epochs, dataset=dataset)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    click.echo(f"teacher   {result['teacher']:.2f} % of {result['test_count']:,} test images, {epochs} epochs")
    for pair in result["pairs"]:
        gain = pair["distilled"] - pair["alone"]
        click.echo(f"seed {pair['seed']}    alone {pair['alone']:.2f} %  distilled {pair['distilled']:.2f} %  {gain:+.2f} points")
    spread = "" if result["gain_stdev"] is None else f", standard deviation {result['gain_stdev']:.2f}"
    click.echo(f"mean      alone {result['alone_mean']:.2f} %  distilled {result['distilled_mean']:.2f} %  {result['gain_mean']:+.2f} points{spread}")
