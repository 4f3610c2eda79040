"""``edge deploy``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.errors import BadInput, EdgeError

if TYPE_CHECKING:
    from edge.devices.ssh import Installed, SshTarget


@click.command()
@click.argument("bundle")
@click.option("--target", required=True, metavar="T", help="ssh:USER@HOST[:PORT].")
@click.option("--into", default="~/edge-bundles", show_default=True, help="Folder of bundles on the device; ~ is the home of whoever logs in.")
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pub.pem", help="Verify the signature BUNDLE.sig before anything is unpacked.")
@click.option("--python", default="python3", show_default=True, help="The interpreter on the device.")
@click.option("--bench", "measured", type=click.Path(path_type=Path), metavar="FILE.json", help="Then measure there, and bring the results back.")
@click.option("--rollback", is_flag=True, help="Make the version before the current one again; BUNDLE is its name.")
@click.option("--json", "as_json", is_flag=True, help="Print where it is, and what its self-test said, as JSON.")
def deploy(bundle: str, target: str, into: str, key: Path | None, python: str, measured: Path | None, rollback: bool, as_json: bool) -> None:
    """Install BUNDLE on a device over ssh, where it proves itself before it is used.

    It is checked here, copied, decoded into INTO/NAME/versions/VERSION, and runs its self-test there. Only when that passes does the link
    INTO/NAME/current name it, in one step. The version before stays, for --rollback. A failed self-test, a full disk or Ctrl-C leave what
    was current as it was, and a Ctrl-C that comes too late for that says so; after a lost link it is that, or the new version, proven. Run the
    same command again.

    \b
    Example:
      edge deploy camera.bundle.tar.zst --target ssh:pi@camera.local
      edge deploy camera.bundle.tar.zst --target ssh:pi@camera.local --bench pi.json && edge report pi.json
      edge deploy camera --target ssh:pi@camera.local --rollback
    """
    from edge.devices.ssh import SshTarget
    from edge.files import check_place

    if not target.startswith("ssh:"):
        raise BadInput(f"{target}: bundles are deployed over ssh", hint="--target ssh:USER@HOST")
    if rollback and (key or bundle.endswith((".zst", ".gz"))):
        raise BadInput("--rollback takes the name of a bundle that is there, and no key", hint="edge deploy camera --target T --rollback")
    if measured:
        check_place(measured, "--bench there.json")
    there = SshTarget(target, python=python)
    try:
        found = _switched(there, bundle, into, key, rollback)
        if measured:
            click.echo("\n".join([*found.said, "measuring there"]), err=True)
            _measure(there, Path(found.place).parent.name, into, measured, rollback)
        there.close()
        _print(found, target, measured, as_json)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # for the seconds in which the board says what is current
        # the same command would take up again what was rolled back
        raise there.let_go(None if rollback else "run the same command to go on") from None
    finally:
        there.close()


def _switched(there: SshTarget, bundle: str, into: str, key: Path | None, rollback: bool) -> Installed:
    from edge.workflows.deploy import deploy as run

    return there.roll_back(bundle, into) if rollback else run(Path(bundle), there, into, key, lambda text: click.echo(text, err=True))


def _measure(there: SshTarget, name: str, into: str, measured: Path, rollback: bool) -> None:
    try:
        there.bench(name, into, measured)
    except EdgeError as error:
        if rollback:
            error.hint = "it is rolled back; to measure it, deploy the bundle of that version with --bench"
        raise


def _print(found: Installed, target: str, measured: Path | None, as_json: bool) -> None:
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    click.echo("\n".join(found.said))
    before = f"; before it: {found.previous}, --rollback takes it up again" if found.previous else ""
    if measured:
        click.echo(f"{measured}: measured there; next: edge report {measured}")
    click.echo(f"{found.place} on {target.removeprefix('ssh:')} is it{before}")
