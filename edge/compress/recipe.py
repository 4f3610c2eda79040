"""A recipe: which model and data, and the steps in their order, in TOML.

schema_version = 1
model = "lenet5_caffe"
data = "mnist"
seeds = [0, 1, 2]
stop_above_error = 5.0          # in % of the held-out images: a run that is worse after a step ends there
table = "LeNet-5"               # where a report shows it, and as what
row = "magnitude"
beside = "39x at 0.74 % (Han et al. 2015)"

[[steps]]
step = "train"
epochs = 10
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from edge.compress.steps import parse_step
from edge.compress.technique import Step
from edge.datasets import known_datasets
from edge.errors import BadInput
from edge.files import read_limited, sha256_of
from edge.models import model_entry
from edge.vocabulary import Frozen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RECIPE = 1 << 20
#: Instead of a data set.
NO_DATA = "none"


class Recipe(Frozen):
    """``steps`` are raw tables here, see `steps_of`: each technique checks its own.

    ``data``: a data set, or ``none``: the weights are random, nothing can be trained or chosen by accuracy, and only size and speed are told.
    ``table``, ``row``: where a report shows it. ``beside``: what others have published.
    """

    schema_version: Literal[1]
    model: str
    data: str
    steps: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=200)
    seeds: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = Field((0,), min_length=1, max_length=20)
    stop_above_error: float = Field(60.0, gt=0, le=100)
    table: str = Field("", max_length=200)
    row: str = Field("", max_length=200)
    beside: str = Field("", max_length=500)


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
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not a TOML file: {error}") from error
    if len({*recipe.seeds}) < len(recipe.seeds):
        raise BadInput(f"{path}: seeds: one stands twice", hint="each seed is a folder of its own")
    model_entry(recipe.model)
    if recipe.data not in (*known_datasets(), NO_DATA):
        raise BadInput(f"{path}: unknown data set {recipe.data!r}", hint=f"known: {', '.join(sorted(known_datasets()))}; {NO_DATA}: random weights")
    steps = steps_of(recipe, str(path))
    if recipe.data == NO_DATA and (training := next((step.step for step in steps if step.trains), None)):
        raise BadInput(f"{path}: {training} trains, and there are no data", hint="name data, or set its epochs to 0")
    fingerprint(recipe, 0, len(recipe.steps))  # a file that a step reads and that is not there is found now, not hours later
    return recipe


def fingerprint(recipe: Recipe, seed: int, done: int, place: str = "") -> str:
    """What decides the outcome of the first ``done`` steps, as a SHA-256: model, data, seed, settings, the files that they read, and the place where
    they measure.

    Args:
        place: empty for this machine as it is.

    Raises:
        BadInput: such a file is not there.
    """
    steps = steps_of(recipe)[:done]
    files = [path for step in steps for path in step.reads()]
    if missing := next((path for path in files if not path.is_file()), None):
        raise BadInput(f"{missing}: a step reads it, and it is not there")
    digests = [sha256_of(path) for path in files]
    decides = [recipe.model, recipe.data, seed, recipe.steps[:done], digests, *([place] if place and any(step.measures for step in steps) else [])]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def steps_of(recipe: Recipe, place: str = "recipe") -> list[Step]:
    """The steps with their settings checked."""
    return [parse_step(raw, f"{place}: step {number}") for number, raw in enumerate(recipe.steps, 1)]
