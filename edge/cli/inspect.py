"""``edge inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edge.artifact import Artifact
    from edge.package.manifest import Bundle


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pub.pem", help="Verify the signature PATH.sig before anything is unpacked.")
@click.option("--json", "as_json", is_flag=True, help="Print its manifest on stdout.")
def inspect(path: Path, key: Path | None, as_json: bool) -> None:
    """What is inside a bundle or an artifact, without running it.

    PATH is a bundle (.tar.zst, .tar.gz, or the folder that it was unpacked to) or the folder of an artifact. A damaged file in it is an error.

    \b
    Example:
      edge inspect camera.bundle.tar.zst
      edge inspect out/artifacts/student-onnx-int8
    """
    from edge.workflows.inspect import inspect_path, unverified

    found = inspect_path(path, key)
    if as_json:
        manifest = found.bundle or (found.artifact and found.artifact.manifest)
        click.echo(manifest.model_dump_json(indent=1) if manifest else "null")
    elif found.bundle:
        print_bundle(found.bundle, found.bytes)
        if said := "its signature is by this key" if key else unverified(path, key):
            click.echo(said)
    elif found.artifact:
        _print_artifact(found.artifact)


def print_bundle(bundle: Bundle, download: int | None) -> None:
    """Its artifacts, what was found of those that did not pass, and its sizes beside those of the plain files."""
    from edge.cli.display import print_table

    rows = [
        (
            each.name + (" (best)" if each.name == bundle.best else ""),
            f"{sum(entry.bytes for entry in each.files):,}",
            {True: "passed", False: "FAILED", None: "not run on the desk"}[each.parity],
            each.verdict or "not judged",
            "; ".join(f"{package} {' or '.join(versions)}" for package, versions in each.packages.items() if versions),
        )
        for each in bundle.artifacts
    ]
    print_table((f"{bundle.name}, for {bundle.device.name}", "model bytes", "parity", "verdict", "runtime"), rows)
    if sizes := bundle.sizes:
        print_table(
            ("bytes", "download", "installed", "plain tar.gz", "fp32 model"),
            [("", *(f"{size:,}" if size else "–" for size in (download, sizes.installed, sizes.plain_tar_gz, sizes.fp32_model)))],
        )
    click.echo(bundle.device.title)
    for each in bundle.artifacts:
        if each.verdict != "PASS":
            click.echo(f"{each.name}: {each.says}")
    how = "none" if bundle.preprocessing is None else "x".join(map(str, bundle.preprocessing.size)) + f" {bundle.preprocessing.order}"
    click.echo(f"pictures: {how}; labels: {len(bundle.labels) if bundle.labels else 'none'}; made by {bundle.tool}")
    for reason in bundle.forced:
        click.echo(f"packed with --force: {reason}")


def _print_artifact(artifact: Artifact) -> None:
    from edge.cli.display import print_table

    manifest = artifact.manifest
    print_table((artifact.name, "bytes", "role"), [(entry.path, f"{entry.bytes:,}", entry.role) for entry in manifest.files])
    tensors = [
        (kind, tensor.name, " x ".join("?" if side is None else str(side) for side in tensor.shape), tensor.dtype)
        for kind, group in (("input", manifest.inputs), ("output", manifest.outputs))
        for tensor in group
    ]
    print_table(("", "name", "shape", "type"), tensors, left=(0, 1, 2, 3))
    parity = manifest.parity
    said = {True: "passed", False: f"FAILED: {parity.reason}", None: f"not run: {parity.reason}"}[parity.passed]
    click.echo(f"parity: {said}; from {manifest.provenance.source}; {', '.join(f'{name} {version}' for name, version in manifest.tools.items())}")
