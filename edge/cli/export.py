"""``edge export``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge.cli.options import FORMATS, PRECISIONS
from edge.errors import CheckFailed, Unsupported


@click.command()
@click.argument("model")
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="Trained weights, safetensors.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the artifacts.")
@click.option("--name", help="Name of the model in the artifacts.  [default: MODEL]")
@click.option("--format", "formats", type=FORMATS, help="onnx,paddle-inference,paddle-lite  [default: all]")
@click.option("--precision", "precisions", type=PRECISIONS, help="fp32,fp16,bf16,int8  [default: all]")
@click.option(
    "--calibration",
    type=click.Choice(["mnist", "digits"]),
    default="mnist",
    show_default=True,
    help="Data set: its training images calibrate int8, its test images judge every cell.",
)
@click.option("--opset", type=click.IntRange(13, 19), default=17, show_default=True, help="Of the ONNX files.")
@click.option("--json", "as_json", is_flag=True, help="Print the cells on stdout.")
def export(
    model: str, weights: Path, out: Path, name: str | None, formats: tuple[str, ...] | None, precisions: tuple[str, ...] | None,
    calibration: str, opset: int, as_json: bool,
) -> None:  # fmt: skip
    """Export MODEL (a zoo name: mnist_student, mnist_teacher) to every format and precision that can be made.

    Each artifact is run in its own runtime and compared with the Paddle model; one that is not the model any more is not kept.
    Without --format and --precision the cells that cannot be made are listed and the exit code is 0. A cell that was asked for
    by name and cannot be made gives exit code 3, one that fails 1.

    \b
    Example:
      edge export mnist_student --weights out/demo/models/student_distilled.safetensors --out out/artifacts --format onnx
    """
    from edge.cli.display import Display, print_remarks
    from edge.vocabulary import Format, Precision, Status
    from edge.workflows.export import ExportRequest, cell_key, export_model

    request = ExportRequest(
        model, weights, name or model, calibration,
        formats=frozenset(map(Format, formats)) if formats else None,
        precisions=frozenset(map(Precision, precisions)) if precisions else None,
        opset=opset,
    )  # fmt: skip
    with Display() as display:
        cells = export_model(request, out, lambda cell: display.say(f"  {cell.status.value:<11} {cell_key(cell)}"))
    if as_json:
        click.echo(json.dumps([cell.model_dump(mode="json") for cell in cells], indent=1))
    else:
        print_remarks([(cell_key(cell), cell.status.value, cell.reason) for cell in cells if cell.reason])
    if failed := [cell for cell in cells if cell.status is Status.FAILED]:
        raise CheckFailed(f"{len(failed)} of {len(cells)} cells failed: {', '.join(cell_key(cell) for cell in failed)}")
    asked_by_name = formats and precisions
    missing = [cell for cell in cells if cell.status in (Status.UNSUPPORTED, Status.UNAVAILABLE)]
    if asked_by_name and missing:
        raise Unsupported(f"{cell_key(missing[0])}: {missing[0].reason}")
