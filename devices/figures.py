"""Figures of a device profile: a value, its unit and its source, each of one dimension. Errors in them read as one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from edge.vocabulary import Frozen

#: Unit -> what one of it is in the base unit.
Units = Mapping[str, float]
#: No device has more of anything, in any unit.
MOST = 1e18


def wrong(sentence: str, *key: str) -> PydanticCustomError:
    """What a validator raises: the sentence reaches the user as it is. ``key``: the one meant, within the table that is checked."""
    return PydanticCustomError("profile", "{sentence}", {"sentence": sentence, "key": key})


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that looks most like this one, if any does."""
    return next(iter(difflib.get_close_matches(name[:100], known, n=1, cutoff=0.6)), None)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise wrong("the text holds a line break or a control character")
    return text


#: One line of text.
Line = Annotated[str, Field(min_length=1, max_length=600), AfterValidator(_printable)]


class Table(Frozen):
    """A table of the file: its keys are known, and an unknown one is answered with the nearest."""

    @model_validator(mode="before")
    @classmethod
    def _has_its_keys(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise wrong(f"must be a table{cls.example()}")
        if unknown := next((key for key in raw if key not in cls.model_fields), None):
            close = nearest(unknown, list(cls.model_fields))
            raise wrong(f"unknown key, did you mean {close!r}?" if close else f"unknown key, known are {', '.join(cls.model_fields)}", unknown)
        if missing := next((key for key, field in cls.model_fields.items() if field.is_required() and key not in raw), None):
            raise wrong(f"the {missing} is missing{cls.example()}")
        return raw

    @classmethod
    def example(cls) -> str:
        """The end of a sentence that says what to write."""
        return ""


class Figure(Table):
    """``{ value, unit, source }`` of one dimension: the subclass.

    Attributes:
        value: in `unit`.
        source: the document, publication or measurement that it stands in; ``assumed: ...`` for a choice of ours, ``estimated: ...`` for what
            no public source states.
    """

    #: The base unit comes first.
    units: ClassVar[Units]

    value: int | float
    unit: str
    source: Line

    @classmethod
    def example(cls) -> str:
        return f', write e.g. {{ value = 4, unit = "{list(cls.units)[-1]}", source = "..." }}'

    @property
    def base(self) -> float:
        """The value in the base unit: Hz, 1/s, B, B/s, W, s, J, a fraction of one, a count, op/cycle."""
        return self.value * self.units[self.unit]

    @property
    def text(self) -> str:
        return f"{self.value:,} {self.unit}"

    @field_validator("value", mode="before")
    @classmethod
    def _is_a_positive_number(cls, value: Any) -> int | float:
        if type(value) not in (int, float) or not abs(value) <= MOST:
            raise wrong(f"must be a number up to {MOST:g}")
        if value <= 0:
            raise wrong(f"{value} is not more than zero")
        number: int | float = value
        return number

    @field_validator("unit")
    @classmethod
    def _is_of_the_dimension(cls, unit: str) -> str:
        if unit not in cls.units:
            raise wrong(f"{unit[:40]!r} is not one of {', '.join(cls.units)}")
        return unit


class Frequency(Figure):
    units: ClassVar[Units] = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}


class Rate(Figure):
    units: ClassVar[Units] = {"1/s": 1.0}


class Size(Figure):
    units: ClassVar[Units] = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


class Bandwidth(Figure):
    units: ClassVar[Units] = {"B/s": 1.0, "MB/s": 1e6, "GB/s": 1e9}


class Power(Figure):
    units: ClassVar[Units] = {"W": 1.0, "mW": 1e-3}


class Time(Figure):
    units: ClassVar[Units] = {"s": 1.0, "ms": 1e-3, "h": 3600.0}


class Energy(Figure):
    units: ClassVar[Units] = {"J": 1.0, "kJ": 1e3, "mWh": 3.6, "Wh": 3600.0}


class Work(Figure):
    """Operations per cycle of one core at its peak; a multiply-accumulate counts as two."""

    units: ClassVar[Units] = {"op/cycle": 1.0}


class Count(Figure):
    units: ClassVar[Units] = {"count": 1.0}

    @field_validator("value")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise wrong(f"{value} is not a whole number")
        return value


class Share(Figure):
    units: ClassVar[Units] = {"%": 0.01}

    @field_validator("value")
    @classmethod
    def _part_of_the_whole(cls, value: float) -> float:
        if value > 100:
            raise wrong(f"{value} % is more than all of it")
        return value
