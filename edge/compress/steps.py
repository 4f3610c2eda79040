"""The techniques by the names that recipes use, and how a structure that they changed is built anew."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edge.compress.technique import Rebuild, Record, Step
from edge.errors import BadInput

if TYPE_CHECKING:
    from paddle import nn

#: Name in recipes -> its file and class. A file whose technique changes the structure has a function ``rebuild``.
STEPS: dict[str, str] = {
    "train": "train_step:Train",
    "prune-weights": "prune_weights:PruneWeights",
    "prune-filters": "prune_filters:PruneFilters",
    "prune-neurons": "prune_neurons:PruneNeurons",
    "prune-layers": "prune_layers:PruneLayers",
    "share-weights": "share_weights:ShareWeights",
    "low-rank": "low_rank:LowRank",
    "quantize": "quantize:Quantize",
    "adapt": "adapt:Adapt",
    "distill": "distill_step:Distill",
    "mutual": "mutual:Mutual",
    "self-distill": "self_distill:SelfDistill",
    "born-again": "born_again:BornAgain",
}


def step_class(name: str) -> type[Step]:
    """Of a name in `STEPS`."""
    module, _, kind = STEPS[name].partition(":")
    found: type[Step] = getattr(importlib.import_module(f"edge.compress.{module}"), kind)
    return found


def parse_step(raw: Any, place: str) -> Step:
    """One step of a recipe.

    Args:
        place: for the sentence, e.g. ``lenet.toml: step 3``.

    Raises:
        BadInput: no such step, or a setting that it does not have or take.
    """
    name = raw.get("step") if isinstance(raw, dict) else None
    if not isinstance(name, str) or name not in STEPS:
        close = difflib.get_close_matches(str(name)[:100], STEPS, n=1)
        raise BadInput(
            f"{place}: there is no step {str(name)[:100]!r}", hint=f"did you mean {close[0]}?" if close else f"there are: {', '.join(STEPS)}"
        )
    try:
        step = step_class(name).model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        said = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{place}, {name}: {key + ': ' if key else ''}{said}", hint="edge compress --steps shows all settings") from error
    return step


def rebuild(layer: nn.Layer, surgery: list[tuple[str, Record]]) -> nn.Layer:
    """The untouched layer with everything done to its structure done again.

    Raises:
        BadInput: surgery that no step has done to this model.
    """
    for name, details in surgery:
        module = importlib.import_module(f"edge.compress.{STEPS[name].partition(':')[0]}") if name in STEPS else None
        again: Rebuild | None = getattr(module, "rebuild", None)
        if again is None:
            raise BadInput(f"{name[:100]!r} is no step that changes the structure of a model", hint="compress it again")
        try:
            layer = again(layer, details)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadInput(f"{name}: the surgery is damaged, or that of another model: {error}", hint="compress it again") from error
    return layer
