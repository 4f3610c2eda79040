"""Can this machine run an artifact? If not, why not: its status is then ``exported`` and no figure is invented for it."""

from __future__ import annotations

from edge.artifact import Artifact
from edge.environments import cpu_flags, machine_arch
from edge.export.support import cell_of
from edge.vocabulary import Arch, Format, Precision


def why_not_runnable(artifact: Artifact) -> str | None:
    """None when it runs here, else one sentence."""
    manifest = artifact.manifest
    return why_not(manifest.format, manifest.precision, manifest.target_arch)


def why_not(format: Format, precision: Precision, arch: Arch) -> str | None:
    """None when an artifact of this cell runs here, else one sentence."""
    here = machine_arch()
    if arch is not Arch.ANY and arch.value != here:
        board = " that has paddlelite" if format is Format.PADDLE_LITE else ""
        return f"made for {arch.value}, this machine is {here}: it runs on a board{board}"
    cell = cell_of(format, precision, arch)
    if cell and cell.cpu_flags and not cpu_flags() & set(cell.cpu_flags):
        return f"{cell.reason}: this processor has none of {', '.join(cell.cpu_flags)}"
    return None
