"""A recipe for one seed, in a child, with the clock for steps that aim at a latency: the core does not know the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.compress.run import run_recipe
from edge.models import model_entry
from edge.workflows.speed import Clock, layer_latency

if TYPE_CHECKING:
    from paddle import nn


def run(recipe: dict[str, Any], seed: int, folder: str, cache: str | None, clock: dict[str, Any] | None, progress: Any) -> dict[str, Any]:
    """See `edge.compress.run.run_recipe`."""

    def latency_of(layer: nn.Layer) -> float:
        return layer_latency(layer, model_entry(recipe["model"]).inputs, Clock(**clock) if clock else Clock())

    return run_recipe(recipe, seed, folder, progress, cache, latency_of, Clock(**clock).place if clock else "")
