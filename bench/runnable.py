"""Can a target run an artifact? If not, why not: its status is then ``exported`` and no figure is invented for it."""

from __future__ import annotations

from edge.artifact import Artifact
from edge.devices.target import Target
from edge.export.support import cell_of
from edge.vocabulary import Arch, Format, Precision


def why_not_runnable(artifact: Artifact, target: Target) -> str | None:
    """None when it runs there, else one sentence."""
    manifest = artifact.manifest
    return why_not(manifest.format, manifest.precision, manifest.target_arch, target)


def why_not(format: Format, precision: Precision, arch: Arch, target: Target) -> str | None:
    """None when an artifact of this cell runs there, else one sentence."""
    if arch is not Arch.ANY and arch.value != target.arch:
        board = f": it runs on a board{' that has paddlelite' * (format is Format.PADDLE_LITE)}" if arch is Arch.ARM else ""
        return f"made for {arch.value}, {'this machine' if target.name == 'local' else target.device} is {target.arch}{board}"
    if lack := target.lacks(format):
        return lack
    cell = cell_of(format, precision, arch)
    if target.name != "gpu" and cell and cell.cpu_flags and not target.flags & set(cell.cpu_flags):
        return f"{cell.reason}: the processor has none of {', '.join(cell.cpu_flags)}"
    return None
