"""``edge diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge.workflows.diff import Diff


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("source")
@click.option("--weights", type=click.Path(path_type=Path), help="Trained weights of a layer, as the export got them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the initial weights where none are given.")
@click.option("--samples", type=click.IntRange(1), default=8, show_default=True, help="Of the artifact's sample inputs, at most.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Relative rms error.  [default: fp32 1e-4, fp16 1e-2, bf16 5e-2, int8 0.1]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout.")
@click.pass_context
def diff(
    context: click.Context, artifact: Path, source: str, weights: Path | None, seed: int, samples: int, tolerance: float | None, as_json: bool
) -> None:
    """Find the first layer at which ARTIFACT diverges from SOURCE, the Paddle model that it was made from.

    ARTIFACT is a folder that edge export made, SOURCE is MODEL as edge export got it. A layer is named by its weight and compared behind its bias;
    the row "program" compares the traced and repaired program with the model itself, the row "output" the artifact's outputs.

    Exit code 0 when nothing diverges, 1 when something does.

    \b
    Example:
      edge diff out/demo/artifacts/mnist_student_distilled-onnx-int8 mnist_student \\
        --weights out/demo/models/student_distilled.safetensors
    """
    from edge.artifact import load_artifact
    from edge.cli.display import Display
    from edge.workflows import diff as workflow

    loaded = load_artifact(artifact)
    model = workflow.source_of(loaded, source, weights=weights, seed=seed)
    with Display() as display:
        found = workflow.diff(loaded, model, samples, tolerance, lambda done, total, note: display.progress(note or "diff", done, total))
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        _print(found)
    if found.first is not None:
        context.exit(1)


def _print(found: Diff) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(("layer", "operator", "rms", "max error", "cosine", "")):
        table.add_column(head, justify="left" if index in (0, 1, 5) else "right", no_wrap=True)
    for row in found.rows:
        figures = [(row.rms, ".1e"), (row.max_abs, ".1e"), (row.cosine, ".6f")]
        mark = "<- first" if row.layer == found.first else "over" if row.diverges else ""
        texts = ["–" if value is None else f"{value:{form}}" for value, form in figures]
        style = "bold red" if row.layer == found.first else None
        table.add_row(row.layer, row.operator or "–", *texts, f"{mark} {row.reason or ''}".strip(), style=style)
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    for text in (*found.notes, found.sentence):
        console.print(text, markup=False, soft_wrap=True)
