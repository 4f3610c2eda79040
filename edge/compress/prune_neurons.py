"""Neurons of linear layers are removed with everything that belongs to them: see `edge.compress.prune_channels`."""

from __future__ import annotations

from typing import ClassVar, Literal

from edge.compress.prune_channels import PruneChannels
from edge.compress.structure import rebuild

__all__ = ["PruneNeurons", "rebuild"]


class PruneNeurons(PruneChannels):
    """Channels that linear layers alone make."""

    kind: ClassVar[str] = "linear"
    step: Literal["prune-neurons"] = "prune-neurons"
