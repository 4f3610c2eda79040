"""Filters of convolutions are removed with everything that belongs to them: see `edge.compress.prune_channels`."""

from __future__ import annotations

from typing import ClassVar, Literal

from edge.compress.prune_channels import PruneChannels
from edge.compress.structure import rebuild

__all__ = ["PruneFilters", "rebuild"]


class PruneFilters(PruneChannels):
    """Channels that a convolution makes."""

    kind: ClassVar[str] = "conv"
    step: Literal["prune-filters"] = "prune-filters"
