"""A bundle onto a board over ssh: checked here, proven there, and current only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge.devices.ssh import Installed, SshTarget
from edge.errors import BadInput
from edge.files import sha256_of
from edge.package.run.bundle import SUMS
from edge.workflows.inspect import checked_bundle, unpacked, unverified


def deploy(path: Path, target: SshTarget, into: str, key: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Installed:
    """Install a bundle there, in a folder named by its checksums; the version before stays for `SshTarget.roll_back`.

    Raises:
        BadInput: no bundle, an unsafe or a damaged one. CheckFailed: a wrong signature, or the self-test failed there.
    """
    with unpacked(path, key) as folder:
        bundle = checked_bundle(folder)
        if bundle.name != folder.name:
            raise BadInput(f"{path}: its folder is {folder.name!r} and its name {bundle.name!r}", hint="it was not made by edge pack")
        if remark := unverified(path, key):
            say(remark)
        for reason in bundle.forced:
            say(f"packed with --force: {reason}")
        say(f"{bundle.name}: checked; copying it to {target.name}")
        return target.install(folder, bundle.name, sha256_of(folder / SUMS)[:12], into)
