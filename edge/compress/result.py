"""What a recipe came to over its seeds: ``NAME.result.json``, small enough to stand beside the recipe.

The figures at the top are those of one seed, that of the median error (the lower one of two); ``seeds`` holds those of all.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from edge.compress.changes import Changes, Recall
from edge.compress.folder import Compressed
from edge.compress.recipe import Recipe
from edge.errors import BadInput
from edge.files import read_limited, write_atomic
from edge.vocabulary import Count, Frozen, Measurement, Percent

#: Behind the recipe's name.
SUFFIX = ".result.json"
MAX_RESULT = 4 << 20
#: Fields that come from timing; all others follow from the records.
MEASURED = ("speed", "exports", "environment")


class Outcome(Frozen):
    """Of one seed: sizes in bytes, shares of wrong test images in %, seconds of all its steps."""

    seed: int
    packed_bytes: Count
    error_before: Percent | None
    error_after: Percent | None
    parameters: Count
    macs: Count
    seconds: float


class Speed(Frozen):
    """Median latency of the dense and of the compressed model in one runtime, in the same measurement, and dense over compressed.

    ``reason``: why there is none.
    """

    dense: Measurement
    compressed: Measurement
    speedup: Measurement
    reason: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Speed:
        if any(each.value is not None and not 0 < each.value < 1e9 for each in (self.dense, self.compressed, self.speedup)):
            raise ValueError("a latency or a ratio that cannot be")
        if self.speedup.interval and self.speedup.interval[0] > self.speedup.interval[1]:
            raise ValueError("an interval that ends before it begins")
        return self


class Result(Frozen):
    """``NAME.result.json``.

    Attributes:
        fingerprint: of the recipe and the seed shown, see `edge.compress.recipe.fingerprint`. table, row, beside: see `edge.compress.recipe.Recipe`.
        baseline_bytes: of the dense net as float32. plain_bytes: of what is left of it as float32. packed_bytes: of the packed file.
        error_before, error_after: in % of the test images; None without data.
        parameters_before, parameters: trained ones, and those left that are not zero.
        macs_before, macs: multiplications that a runtime executes for one sample.
        changes: against the dense net, on the test images; the list of flips is left out.
        recall: of a model of captions.
        speed: format -> latency, fp32, 1 thread, batch 1, where it was measured. exports: cell -> ``ok``, or the reason.
        environment: of the machine that measured.
    """

    schema_version: Literal[1] = 1
    kind: Literal["compression"] = "compression"
    name: str = Field(max_length=200)
    fingerprint: str = Field(max_length=64)
    table: str = Field("", max_length=200)
    row: str = Field("", max_length=200)
    beside: str = Field("", max_length=500)
    model: str
    data: str
    baseline_bytes: Count
    plain_bytes: Count
    packed_bytes: Count
    ratio: float = Field(gt=0, lt=1e9)
    error_before: Percent | None
    error_after: Percent | None
    seed: Count
    seconds: float = Field(ge=0)
    parameters_before: Count
    parameters: Count
    macs_before: Count
    macs: Count
    seeds: tuple[Outcome, ...] = Field(min_length=1)
    changes: Changes | None = None
    recall: tuple[Recall, ...] = ()
    speed: dict[str, Speed] = Field(default_factory=dict)
    exports: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agrees(self) -> Result:
        if not math.isclose(self.ratio * self.packed_bytes, self.baseline_bytes, rel_tol=1e-6):
            raise ValueError("ratio is not baseline_bytes over packed_bytes")
        return self

    def errors(self) -> list[float]:
        """Of the seeds, in %; empty without data."""
        return [each.error_after for each in self.seeds if each.error_after is not None]


def result_of(name: str, labels: Recipe | Result, records: Mapping[int, Compressed]) -> Result:
    """The result of a recipe, with no latency yet.

    Args:
        labels: whose table, row and what stands beside it.
    """
    shown = median_seed(records)
    changes = shown.changes.model_copy(update={"flips": shown.changes.flips.model_copy(update={"listed": ()})}) if shown.changes else None
    return Result(
        name=name,
        fingerprint=shown.fingerprint,
        table=labels.table,
        row=labels.row,
        beside=labels.beside,
        model=shown.model,
        data=shown.data,
        baseline_bytes=shown.baseline_bytes,
        plain_bytes=shown.plain_bytes,
        packed_bytes=_packed(shown),
        ratio=shown.ratio,
        error_before=shown.error_before,
        error_after=shown.error_after,
        seed=shown.seed,
        seconds=shown.seconds,
        parameters_before=shown.parameters_before,
        parameters=shown.parameters,
        macs_before=shown.macs_before,
        macs=shown.macs,
        seeds=tuple(Outcome.model_validate(record.model_dump(include=set(Outcome.model_fields))) for record in records.values()),
        changes=changes,
        recall=changes.recall if changes else (),
    )


def _packed(record: Compressed) -> int:
    if record.packed_bytes is None:
        raise BadInput("a dense net is no result: nothing of it is packed")
    return record.packed_bytes


def median_seed(records: Mapping[int, Compressed]) -> Compressed:
    """The record whose error is the median, the lower one of two; without data that of the first seed."""
    errors = [record.error_after for record in records.values() if record.error_after is not None]
    middle = statistics.median_low(errors) if errors else None
    return next(record for record in records.values() if record.error_after == middle)


def keep_speed(path: Path, result: Result) -> Result:
    """The result, with the latencies that the file at ``path`` has of the very same model."""
    try:
        old = read_result(path)
    except BadInput:
        return result
    if any(getattr(old, name) != getattr(result, name) for name in ("fingerprint", "seed", "packed_bytes", "error_after")):
        return result
    return result.model_copy(update={name: getattr(old, name) for name in MEASURED})


def write_result(path: Path, result: Result) -> None:
    write_atomic(path, json.dumps(result.model_dump(mode="json"), indent=1) + "\n")


def read_result(path: Path) -> Result:
    """A result file.

    Raises:
        BadInput: not there, not one, or damaged.
    """
    try:
        return Result.model_validate(json.loads(read_limited(path, MAX_RESULT, "result of a recipe")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise BadInput(f"{path}: {where}{first['msg'].removeprefix('Value error, ')}", hint="edge compress RECIPE --out DIR writes one") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable JSON: {error}") from error
