"""``edge pack``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", required=True, metavar="NAME", help="As `edge devices` lists them, or your own .toml file.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The bundle: NAME.bundle.tar.zst, or .tar.gz where the device has no zstd."
)
@click.option("--results", multiple=True, type=click.Path(path_type=Path), help="What edge bench has measured, for the verdict; repeatable.")
@click.option("--preprocess", metavar="HOW", help="How a picture becomes an input, as of edge export.  [default: that of the data set that judged]")
@click.option("--labels", type=click.Path(path_type=Path), help="Names of the classes, a line each.")
@click.option("--wheels", type=click.Path(path_type=Path), help="A folder of the runtime's wheels for the device, which go along.")
@click.option("--licence", "licences", multiple=True, type=click.Path(path_type=Path), help="Of the model; goes along; repeatable.")
@click.option("--sign", "key", type=click.Path(path_type=Path), metavar="KEY.pem", help="Sign with an Ed25519 key: writes OUT.sig.")
@click.option("--plain", is_flag=True, help="Model files as the runtime loads them, for a device without Python.")
@click.option(
    "--force",
    is_flag=True,
    help="Pack also what failed its parity gate or its verdict, and mark the bundle. Its self-test holds to the gate all the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was packed on stdout as JSON.")
def pack(
    artifacts: tuple[Path, ...], device: str, out: Path, results: tuple[Path, ...], preprocess: str | None, labels: Path | None,
    wheels: Path | None, licences: tuple[Path, ...], key: Path | None, plain: bool, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Pack ARTIFACTS into a bundle that proves itself on the device.

    In it are the models (packed without loss), the worker, samples with their expected outputs, what the desk has found, and the runtime's
    requirements with hashes. The same content gives the same bytes. An artifact that failed its parity gate or its verdict is refused.

    \b
    Example:
      edge pack out/artifacts/student-onnx-int8 --device camera --results out/results.json --out camera.bundle.tar.zst
      tar --zstd -xf camera.bundle.tar.zst && cd camera && python3 -m run self-test    # on the device
    """
    from edge.cli.display import Display
    from edge.datasets.samples import parse_preprocessing
    from edge.workflows.pack import PackRequest
    from edge.workflows.pack import pack as run

    how = parse_preprocessing(preprocess) if preprocess else None
    request = PackRequest(artifacts, device, out, results, how, labels, wheels, licences, key, not plain, force)
    with Display() as display:
        packed = run(request, lambda done, total, note: display.progress("pack", done, total, note))
    if as_json:
        click.echo(packed.bundle.model_dump_json(indent=1))
        return
    from edge.cli.inspect import print_bundle

    print_bundle(packed.bundle, packed.bytes)
    click.echo(f"{packed.path}: {packed.bytes:,} bytes")
    if packed.signature:
        click.echo(f"{packed.signature}: signed")
