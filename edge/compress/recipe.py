"""A recipe: which model and data, and the steps in their order, in TOML.

schema_version = 1
model = "lenet5_caffe"
data = "mnist"
seeds = [0, 1, 2]
stop_above_error = 5.0          # in % of the held-out images: a run that is worse after a step ends there

[[steps]]
step = "train"
epochs = 10
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from edge.compress.steps import parse_step
from edge.compress.technique import Step
from edge.datasets import known_datasets
from edge.errors import BadInput
from edge.files import read_limited
from edge.models import model_entry
from edge.vocabulary import Frozen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RECIPE = 1 << 20


class Recipe(Frozen):
    """``steps`` are raw tables here, see `steps_of`: each technique checks its own."""

    schema_version: Literal[1]
    model: str
    data: str
    steps: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=200)
    seeds: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = Field((0,), min_length=1, max_length=20)
    stop_above_error: float = Field(60.0, gt=0, le=100)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe with all its steps.

    Raises:
        BadInput: missing, not TOML, an unknown model, data set, step or setting.
    """
    try:
        recipe = Recipe.model_validate(tomllib.loads(read_limited(path, MAX_RECIPE, "recipe").decode()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint="edge compress --help shows a recipe") from error
    except ValueError as error:
        raise BadInput(f"{path}: not a TOML file: {error}") from error
    model_entry(recipe.model)
    if recipe.data not in known_datasets():
        raise BadInput(f"{path}: unknown data set {recipe.data!r}", hint=f"known: {', '.join(sorted(known_datasets()))}")
    steps_of(recipe, str(path))
    return recipe


def steps_of(recipe: Recipe, place: str = "recipe") -> list[Step]:
    """The steps with their settings checked."""
    return [parse_step(raw, f"{place}: step {number}") for number, raw in enumerate(recipe.steps, 1)]
