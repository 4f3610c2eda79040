"""``edge bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.options import COUNTS, CPUS, PERCENT, SHAPES
from edge.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from edge.bench.results import Results
    from edge.bench.scenarios import Scenario
    from edge.cli.display import Display
    from edge.workflows.bench import Matrix

#: Operators of a profile that are printed; the page shows more, the results hold all.
OPERATORS = 10


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Results file, JSON.  [default: the project's]")
@click.option("--target", default="local", show_default=True, metavar="TARGET", help="Where it runs, see below.")
@click.option("--device", metavar="NAME", help="A device, as `edge devices` lists them, or your own .toml file: what the target is or stands for.")
@click.option("--quota", type=PERCENT, help="Of limited: share of one processor core's time, e.g. 50%.")
@click.option("--wheels", type=click.Path(path_type=Path), help="Of ssh: a folder of wheels for the board, sent along.")
@click.option("--copies", type=click.Choice(["in", "out"]), help="Of gpu: time the copies to and from the card, or leave them out.  [default: in]")
@click.option("--tensorrt", is_flag=True, default=None, help="Of gpu: run Paddle Inference through TensorRT.")
@click.option(
    "--scenario", default="single-stream", show_default=True, metavar="NAME[:KEY=VALUE,...]", help="How inferences are asked for, see below."
)
@click.option("--threads", type=COUNTS, default="1", show_default=True, help="One or several counts, e.g. 1,2.")
@click.option("--batch", type=COUNTS, default="1", show_default=True, help="One or several batch sizes, e.g. 1,8.")
@click.option("--affinity", type=CPUS, multiple=True, metavar="CPUS", help="CPUs that the worker may run on, e.g. 0 or 0,1; repeat it for several.")
@click.option(
    "--shape", "shapes", type=SHAPES, multiple=True, metavar="NAME=SIDES", help="Input shape without the batch, e.g. image=3x320x320; repeatable."
)
@click.option(
    "--frames", metavar="DATA", help="Feed these while timing: a video, a folder of pictures, an .npz file.  [default: the artifact's samples]"
)
@click.option("--preprocess", metavar="HOW", help="For pictures and video, as in edge export.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Shortest timed loop of a process.  [default: the scenario's]")
@click.option("--repeats", type=click.IntRange(1, 1000), default=3, show_default=True, help="Fresh processes that time a cell.")
@click.option("--metric", metavar="MODULE:FUNCTION", help="A metric of your own: function(outputs, inputs, labels) -> number (runs your code).")
@click.option("--meter", type=click.Path(path_type=Path), help="CSV log of an external power meter: seconds (since 1970), watts. Read at the end.")
@click.option("--idle-watts", type=click.FloatRange(min=0), help="Of the idle device, taken off what --meter says.")
@click.option("--profile", is_flag=True, help="Also the time of each operator, where the runtime tells.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600.0, show_default=True, help="Seconds a worker may take beyond its scenario.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and about how long it takes.")
@click.option("--json", "as_json", is_flag=True, help="Print the results document on stdout.")
def bench(
    artifacts: tuple[Path, ...], out: Path | None, target: str, device: str | None, quota: float | None, wheels: Path | None, copies: str | None,
    tensorrt: bool | None, scenario: str, threads: tuple[int, ...], batch: tuple[int, ...], affinity: tuple[tuple[int, ...], ...],
    shapes: tuple[dict[str, tuple[int, ...]], ...], frames: str | None, preprocess: str | None, seconds: float | None, repeats: int,
    metric: str | None, meter: Path | None, idle_watts: float | None, profile: bool, timeout: float, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure ARTIFACTS (folders, or folders of them), each in processes of its own. Or measure what a project file (.toml) asks for.

    The processes of all cells take turns. What has ended is on disk: an interrupted run goes on with the same command. A wrong
    artifact gets no times. With --device the verdict on that device follows, as of `edge check`. Exit code 1 when a cell failed.

    \b
    Targets:
      local                  this machine
      limited                this machine, with the cores and the memory of --device
      qemu                   the processor of --device, emulated: results, instructions and memory, no times
      ssh:USER@HOST[:PORT]   a board that has python3
      gpu                    the graphics card of this machine

    \b
    Scenarios, and their settings beside min_seconds, min_count, max_seconds:
      single-stream                  one call after another
      multi-stream:streams=8         queries of several samples
      offline                        throughput only
      server:rate=50,bound_ms=100    Poisson arrivals, waiting included
      camera:fps=15,deadline_ms=80   frames at a fixed rate: misses, drops, age, duty cycle
      sustained:minutes=10           minute by minute, with frequency and temperature
      loadgen                        single-stream, asked and timed by MLPerf LoadGen

    \b
    A project file:
      schema_version = 1
      out = "results.json"
      [[bench]]
      artifacts = ["out/demo/artifacts"]
      scenarios = ["single-stream", {name = "camera", fps = 15}]
      threads = [1, 2]

    \b
    Example:
      edge bench out/demo/artifacts --threads 1,2 --out out/results.json
      edge bench out/demo/artifacts --target qemu --device raspberry-pi-4b --out out/pi.json
    """
    from edge.bench.measure import PARTS, BenchRequest
    from edge.bench.meter import read_power_log
    from edge.bench.metrics import load_metric
    from edge.cli.display import Display
    from edge.datasets.preprocessing import parse_preprocessing
    from edge.devices.profile import load_profile
    from edge.devices.targets import make_target
    from edge.vocabulary import Status
    from edge.workflows.bench import Matrix, plan_cells, run_matrix

    profile_of = load_profile(device) if device else None
    with Display() as display:
        if artifacts[0].suffix == ".toml":
            matrix, out = _project(artifacts, out, dry_run, display)
        else:
            request = BenchRequest(
                make_target(target, profile_of, quota=quota, wheels=wheels, copies=copies, tensorrt=tensorrt),
                scenario=_scenario(scenario, seconds),
                threads=threads,
                batches=batch,
                affinities=affinity or (None,),
                shapes=shapes or ({},),
                frames=frames,
                preprocessing=parse_preprocessing(preprocess) if preprocess else None,
                repeats=repeats,
                parts=(*PARTS, "profile") if profile else PARTS,
                metric=load_metric(metric) if metric else None,
                timeout=timeout,
            )
            matrix = Matrix(plan_cells(artifacts, request))
        if dry_run:
            _say_plan(matrix)
            return
        if out is None:
            raise BadInput("nothing says where the results go", hint="add --out results.json")
        results = run_matrix(
            matrix, out, lambda what, done, total, left: display.progress("measure", done, total, _note(what, left)), say=display.say,
            power=(lambda: read_power_log(meter, idle_watts)) if meter else None,
        )  # fmt: skip
    _show(results, as_json)
    if profile_of and not as_json:
        from edge.bench.verdict import check
        from edge.cli.check import print_check

        click.echo()
        try:
            print_check(check(results.cells, profile_of))
        except BadInput as error:  # what was measured is there all the same
            click.echo(f"no verdict: {error.message}", err=True)
    if failed := [cell for cell in results.cells if cell.status is Status.FAILED]:
        raise CheckFailed(f"{len(failed)} of {len(results.cells)} cells failed; the first: {failed[0].label}: {failed[0].reason}")


def _scenario(text: str, seconds: float | None) -> Scenario:
    from edge.bench.scenarios import parse_scenario

    scenario = parse_scenario(text)
    if seconds is None:
        return scenario
    return scenario.model_copy(update={"min_seconds": seconds, "max_seconds": max(seconds, scenario.max_seconds)})


def _project(artifacts: tuple[Path, ...], out: Path | None, dry_run: bool, display: Display) -> tuple[Matrix, Path]:
    from edge.workflows.project import export_all, matrix_of, not_exported_yet, read_project

    if len(artifacts) > 1:
        raise BadInput(f"{artifacts[0]}: a project file stands alone", hint="name the artifacts in it")
    project, folder = read_project(artifacts[0]), artifacts[0].resolve().parent
    missing = not_exported_yet(project, folder)
    if dry_run:
        for made in missing:
            click.echo(f"{made}: not exported yet, its cells are not counted")
    else:
        missing = []
        export_all(
            project, folder, lambda cell: display.say(f"  {cell.status.value:<11} {cell.key}{' (kept)' if cell.kept else ''}"),
            lambda done, total, note: display.progress(note or "export", done, total),
        )  # fmt: skip
    return matrix_of(project, folder, missing), out or folder / project.out


def _say_plan(matrix: Matrix) -> None:
    """What would run, to stdout."""
    for plan in matrix.plans:
        blocked = plan.blocked
        parts = ", ".join(f"{part} x {plan.request.repeats}" if part == "latency" else part for part in plan.request.parts)
        click.echo(f"{plan.name}: {f'{blocked[0].value}: {blocked[1]}' if blocked else parts}")
    click.echo(f"{len(matrix.runs())} worker runs, about {_duration(matrix.seconds())}")


def _note(what: str, left: float | None) -> str:
    return what if left is None else f"{what} (about {_duration(left)} left)"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _show(results: Results, as_json: bool) -> None:
    from edge.bench.present import filled_columns, number
    from edge.bench.report import remarks
    from edge.cli.display import print_cells, print_remarks, print_table

    if as_json:
        click.echo(results.model_dump_json(indent=1))
        return
    print_cells(results.cells, filled_columns(results.cells))
    for cell in results.cells:
        if cell.operators:
            click.echo(f"\n{cell.model} {cell.label}, {cell.asked}: the slowest of {len(cell.operators)} operators")
            print_table(("operator", "kind", "mean ms, profiled"), [(o.name, o.kind, number(o.time)) for o in cell.operators[:OPERATORS]])
    print_remarks([(f"{cell.model} {cell.label}, {cell.asked}", cell.status.value, why) for cell, why in remarks(results.cells)])
