"""``edge compress``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import BadInput

if TYPE_CHECKING:
    from edge.compress.changes import Changes
    from edge.compress.result import Result
    from edge.vocabulary import Measurement


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the compressed models, one a seed.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of what single steps have made, kept for recipes that begin alike.")
@click.option("--time", "timed", is_flag=True, help="Export the dense and the compressed model to every format, and time them in turns.")
@click.option("--repeats", type=click.IntRange(2, 1000), default=3, show_default=True, help="Fresh processes that time a model.")
@click.option("--target", default="local", show_default=True, metavar="T", help="Where latency is measured: local, limited, ssh:USER@HOST[:PORT].")
@click.option("--device", help="The device that the target stands for; edge devices lists them.")
@click.option(
    "--verify",
    "proven",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Decode what was packed, run it on the test set, recompute its figures.",
)
@click.option("--steps", "shows_steps", is_flag=True, help="Print every step that a recipe may have, with its settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the proof, on stdout as JSON.")
def compress(
    recipe: Path | None,
    out: Path | None,
    cache: Path | None,
    timed: bool,
    repeats: int,
    target: str,
    device: str | None,
    proven: Path | None,
    shows_steps: bool,
    as_json: bool,
) -> None:
    """Run the steps of RECIPE (.toml) on its model and data, for each seed; or prove what was packed.

    Writes OUT/seed-N with the record, the weights that `edge export` takes, and the packed file, and OUT/NAME.result.json, which `edge report`
    takes. Interrupted, it goes on with the same command.

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
      edge compress edge/recipes/lenet300-100x.toml --out out/lenet300-100x
      edge compress --verify out/lenet300-100x
    """
    from edge.cli.display import Display
    from edge.compress.recipe import read_recipe
    from edge.compress.result import SUFFIX, keep_speed, result_of, write_result
    from edge.workflows.compress import compress as run
    from edge.workflows.compress import verify_all
    from edge.workflows.speed import Clock, measure_speed

    if shows_steps:
        _show_steps()
        return
    if (recipe is None) == (proven is None):
        raise BadInput("name a recipe, or a compressed model to --verify", hint="edge compress --help")
    if proven is not None:
        _say_proof(verify_all(proven), as_json)
        return
    if out is None or recipe is None:
        raise BadInput("nothing says where the models go", hint="add --out DIR")
    asked, clock = read_recipe(recipe), Clock(target, device)
    if timed:
        clock.make().close()  # a target that is not there is said now, not hours later
    with Display() as display:
        records = run(
            asked, recipe.read_bytes(), out, lambda seed, done, total, note: display.progress(f"seed {seed}", done, total, note), cache=cache,
            clock=clock,
        )  # fmt: skip
        result = keep_speed(out / f"{recipe.stem}{SUFFIX}", result_of(recipe.stem, asked, records))
        write_result(out / f"{recipe.stem}{SUFFIX}", result)
        if timed:
            shown = out / f"seed-{result.seed}"
            found = measure_speed(shown, out, clock, lambda done, total, note: display.progress("time", done, total, note), repeats)
            result = result.model_copy(update={"speed": found.speed, "exports": found.exports, "environment": found.environment})
            write_result(out / f"{recipe.stem}{SUFFIX}", result)
    if as_json:
        click.echo(result.model_dump_json(indent=1))
        return
    _show(result, {seed: record.changes for seed, record in records.items() if record.changes})


def _show_steps() -> None:
    """Each step's settings with their defaults, and what its classes say of them."""
    import inspect

    from edge.compress.steps import STEPS, step_class
    from edge.compress.technique import Step

    for name in STEPS:
        step = step_class(name)
        defaults = {key: field.get_default(call_default_factory=True) for key, field in step.model_fields.items() if key != "step"}
        needed = {key for key, field in step.model_fields.items() if field.is_required()}
        shown = {key: "(needed)" if key in needed else json.dumps(value, default=lambda each: each.model_dump()) for key, value in defaults.items()}
        settings = [f"{key} = {value}" for key, value in shown.items()]
        click.echo(f'step = "{name}"\n' + "\n".join(f"  {line}" for line in settings))
        said = [inspect.cleandoc(each.__doc__) for each in step.__mro__ if issubclass(each, Step) and each is not Step and each.__doc__]
        click.echo("\n".join(f"    {line}" for line in "\n".join(said).splitlines()) + "\n")


def _say_proof(found: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, proof in found.items():
        error = "random weights, no error" if proof["error_after"] is None else f"error {proof['error_after']:.2f} %"
        click.echo(
            f"{name}: {proof['packed_bytes']:,} bytes, {proof['baseline_bytes'] / proof['packed_bytes']:.1f} times smaller, {error}: as recorded"
        )


def _show(result: Result, changes: dict[int, Changes]) -> None:
    from edge.bench.present import number
    from edge.cli.display import print_table

    heads = ("seed", "dense bytes", "packed bytes", "ratio", "error before %", "error after %", "weights left", "M MACs", "seconds")
    rows = [
        (str(each.seed), f"{result.baseline_bytes:,}", f"{each.packed_bytes:,}", f"{result.baseline_bytes / each.packed_bytes:.1f}",
         _percent(each.error_before), _percent(each.error_after), f"{each.parameters:,}", f"{each.macs / 1e6:.2f}", f"{each.seconds:.0f}")
        for each in result.seeds
    ]  # fmt: skip
    print_table(heads, rows, left=())
    if result.speed:
        click.echo()
        speeds = (f"seed {result.seed}, fp32, 1 thread, batch 1", "dense p50 ms", "compressed p50 ms", "times faster", "95 % interval")
        timed = [(name, *map(number, (each.dense, each.compressed, each.speedup)), _interval(each.speedup)) for name, each in result.speed.items()]
        print_table(speeds, timed, left=(0,))
        click.echo("  p50: of all samples; times faster: the ratio of the geometric means over the processes")
        for cell, said in result.exports.items():
            if said != "ok":
                click.echo(f"  {cell}: {said}")
    if changes:
        click.echo()
        lines = {seed: _changed(each) for seed, each in changes.items()}
        print_table(
            ("on the test images, dense -> compressed", *(f"seed {seed}" for seed in lines)),
            [(name, *(line[name] for line in lines.values())) for name in next(iter(lines.values()))],
            left=(0,),
        )


def _percent(error: float | None) -> str:
    return "–" if error is None else f"{error:.2f}"


def _interval(ratio: Measurement) -> str:
    return "–" if ratio.interval is None else "{:.2f} to {:.2f}".format(*ratio.interval)


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
