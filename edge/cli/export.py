"""``edge export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click

from edge.cli.options import FORMATS, PRECISIONS
from edge.errors import CheckFailed, Unsupported
from edge.models import ZOO


@click.command(epilog=f"The zoo: {', '.join(ZOO)}.")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the artifacts.")
@click.option("--weights", type=click.Path(path_type=Path), help="Trained weights of a layer: .safetensors or .pdparams.  [default: seeded]")
@click.option("--input", "inputs", multiple=True, metavar="NAME:SHAPE:DTYPE", help="What a layer is called with: image:?x3x224x224:float32.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the initial weights where none are given.")
@click.option("--name", help="Name of the model in the artifacts.  [default: from MODEL]")
@click.option("--format", "formats", type=FORMATS, help="onnx,paddle-inference,paddle-lite  [default: all]")
@click.option("--precision", "precisions", type=PRECISIONS, help="fp32,fp16,bf16,int8  [default: all]")
@click.option(
    "--calibration", metavar="DATA", help="Calibrates int8 and judges every cell: a data set, a folder of pictures, a video, an .npz file, or random."
)
@click.option("--preprocess", metavar="HOW", help="For pictures: size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225,order=rgb,resize=crop.")
@click.option("--samples", type=click.IntRange(1), default=512, show_default=True, help="Samples that calibrate, at most.")
@click.option("--judge", type=click.IntRange(1), help="Samples that judge, at most.  [default: all]")
@click.option("--opset", type=click.IntRange(13, 19), default=17, show_default=True, help="Of the ONNX files.")
@click.option("--half-io", is_flag=True, help="The fp16 ONNX file takes and gives float16 too.")
@click.option(
    "--method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    default="minmax",
    show_default=True,
    help="How int8 ranges are taken from the calibration samples.",
)
@click.option("--activations", type=click.Choice(["u8", "s8"]), default="u8", show_default=True, help="Of the int8 ONNX file.")
@click.option("--full-range", is_flag=True, help="All 8 bits in int8: for x86 with VNNI and for ARM. Elsewhere sums may saturate.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Bound on what int8 loses (accuracy, equal classes or 100 x cosine): the layers that hurt most stay in float.",
)
@click.option("--allow-mismatch", is_flag=True, help="Keep an artifact that failed its gate, marked.")
@click.option("--json", "as_json", is_flag=True, help="Print the cells on stdout.")
def export(
    model: str, out: Path, weights: Path | None, inputs: tuple[str, ...], seed: int, name: str | None, formats: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None, calibration: str | None, preprocess: str | None, samples: int, judge: int | None, opset: int, half_io: bool,
    method: str, activations: str, full_range: bool, max_drop: float | None, allow_mismatch: bool, as_json: bool,
) -> None:  # fmt: skip
    """Export MODEL to every format and precision that can be made.

    MODEL is a zoo name (they are listed below), paddle.vision:NAME,
    PACKAGE.MODULE:FACTORY (runs your code), or the path of a saved inference model (.json or .pdmodel) or of a paddle-inference fp32 artifact.

    Each artifact is run in its own runtime and compared with the Paddle model; one that is not the model any more is not kept.
    Without --format and --precision the cells that cannot be made are listed and the exit code is 0. A cell that was asked for
    by name and cannot be made gives exit code 3, one that fails 1. Interrupted, the same command goes on with what is missing.

    \b
    Example:
      edge export mnist_student --weights out/demo/models/student_distilled.safetensors --calibration mnist --out out/artifacts
      edge export paddle.vision:mobilenet_v1 --calibration random --out out/artifacts --format onnx
    """
    from edge.cli.display import Display, print_exported, print_remarks
    from edge.datasets.samples import parse_preprocessing
    from edge.export.calibrate import Method
    from edge.export.workspace import Options
    from edge.models.source import parse_input, resolve_model
    from edge.vocabulary import Format, Precision, Status
    from edge.workflows.export import export_model
    from edge.workflows.export_source import ExportRequest

    source = resolve_model(model, weights=weights, inputs=[parse_input(text) for text in inputs] or None, seed=seed)
    request = ExportRequest(
        source,
        source.label if name is None else name,
        calibration,
        preprocessing=parse_preprocessing(preprocess) if preprocess else None,
        formats=frozenset(map(Format, formats)) if formats else None,
        precisions=frozenset(map(Precision, precisions)) if precisions else None,
        options=Options(opset=opset, half_io=half_io, method=cast(Method, method), signed_activations=activations == "s8", full_range=full_range),
        max_drop=max_drop,
        allow_mismatch=allow_mismatch,
        calibration_samples=samples,
        judge_samples=judge,
    )
    with Display() as display:
        cells = export_model(
            request,
            out,
            lambda cell: display.say(f"  {cell.status.value:<11} {cell.key}{' (kept)' if cell.kept else ''}"),
            lambda done, total, note: display.progress(note or "export", done, total),
        )
    if as_json:
        click.echo(json.dumps([cell.model_dump(mode="json") for cell in cells], indent=1))
    else:
        print_exported([cell for cell in cells if cell.artifact])
        print_remarks([(cell.key, cell.status.value, text) for cell in cells for text in (cell.reason, cell.note) if text])
    if failed := [cell for cell in cells if cell.status is Status.FAILED and cell.artifact is None]:
        more = f" ({len(failed)} of {len(cells)} cells failed)" if len(failed) > 1 else ""
        raise CheckFailed(f"{failed[0].key}: {failed[0].reason}{more}")
    asked_by_name = formats and precisions
    # a processor cannot be asked for by name: one of them is enough
    made = {(cell.format, cell.precision) for cell in cells if cell.artifact}
    missing = [cell for cell in cells if cell.artifact is None and (cell.format, cell.precision) not in made]
    if asked_by_name and missing:
        raise Unsupported(f"{missing[0].key}: {missing[0].reason}")
