"""``edge compress``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.errors import BadInput

if TYPE_CHECKING:
    from edge.compress.changes import Changes


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the compressed models, one a seed.")
@click.option(
    "--verify", "proven", type=click.Path(path_type=Path), metavar="DIR", help="Decode a packed model, run it on the test set, recompute all."
)
@click.option("--json", "as_json", is_flag=True, help="Print the records on stdout as JSON.")
def compress(recipe: Path | None, out: Path | None, proven: Path | None, as_json: bool) -> None:
    """Run the steps of RECIPE (.toml) on its model and data, for each seed; or prove what was packed.

    Writes OUT/seed-N with the record, the weights that `edge export` takes, and the packed file. Interrupted, it goes on with the same command.

    \b
    A recipe:
      schema_version = 1
      model = "lenet300"
      data = "mnist"
      [[steps]]
      step = "train"
      epochs = 5
      [[steps]]
      step = "prune-weights"
      sparsity = 0.95
      rounds = 5
      epochs = 1

    \b
    Example:
      edge compress edge/recipes/lenet300.toml --out out/lenet300
      edge compress --verify out/lenet300/seed-0
    """
    from edge.cli.display import Display, print_table
    from edge.compress.recipe import read_recipe
    from edge.workflows.compress import compress as run
    from edge.workflows.compress import verify

    if (recipe is None) == (proven is None):
        raise BadInput("name a recipe, or a compressed model to --verify", hint="edge compress --help")
    if proven is not None:
        found = verify(proven)
        click.echo(json.dumps(found) if as_json else f"{proven}: {found['packed_bytes']:,} bytes, error {found['error_after']:.2f} %: as recorded")
        return
    if out is None or recipe is None:
        raise BadInput("nothing says where the models go", hint="add --out DIR")
    asked = read_recipe(recipe)
    with Display() as display:
        records = run(asked, out, lambda seed, done, total, note: display.progress(f"seed {seed}", done, total, note))
    if as_json:
        click.echo(json.dumps([record.model_dump(mode="json") for record in records.values()]))
        return
    heads = ("seed", "dense bytes", "packed bytes", "ratio", "error before %", "error after %", "weights left", "seconds")
    rows = [
        (str(seed), f"{r.baseline_bytes:,}", f"{r.packed_bytes:,}", f"{r.ratio:.1f}", f"{r.error_before:.2f}", f"{r.error_after:.2f}",
         f"{r.parameters:,}", f"{r.seconds:.0f}")
        for seed, r in records.items()
    ]  # fmt: skip
    print_table(heads, rows, left=())
    if changes := {seed: record.changes for seed, record in records.items() if record.changes}:
        click.echo()
        lines = {seed: _changed(each) for seed, each in changes.items()}
        print_table(
            ("on the test images, dense -> compressed", *(f"seed {seed}" for seed in lines)),
            [(name, *(line[name] for line in lines.values())) for name in next(iter(lines.values()))],
            left=(0,),
        )


def _changed(changes: Changes) -> dict[str, str]:
    """What is different from the dense net, by what it is."""
    worst = min(changes.by_class, key=lambda each: each.after - each.before)
    lines = {
        "same prediction %": f"{changes.agreement:.2f}",
        "images: right to wrong, wrong to right": f"{changes.flips.broken}, {changes.flips.mended}",
        "class that changed worst: accuracy %": f"{worst.label}: {worst.before:.1f} -> {worst.after:.1f}",
        "calibration error %": f"{changes.calibration.before:.2f} -> {changes.calibration.after:.2f}",
    }
    if changes.saliency:
        correlation = changes.saliency.correlation
        lines["saliency maps, rank correlation"] = "–" if correlation is None else f"{correlation:.2f}"
    for recall in changes.recall:
        without = f", no {recall.blank}" if recall.blank else ""
        lines[f"recall@1 {recall.direction}{without} %"] = f"{recall.before:.1f} -> {recall.after:.1f}"
    for each in changes.robustness:
        settings = ", ".join(f"{name} {value:g}" for name, value in each.settings.items())
        lines[f"{each.name} ({settings}): accuracy %"] = f"{each.before:.1f} -> {each.after:.1f}"
    return lines
