"""The scenarios a user can ask for: what each is called, its settings with their units, and how one is read from the command line.

The worker runs them (`bench/worker/scenarios`, one file each). Their names and meanings are those of MLPerf Inference (Reddi et al. 2020,
arXiv:1911.02549) where it has them; ``camera`` and ``sustained`` are this tool's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from edge.errors import BadInput
from edge.vocabulary import Frozen


class Base(Frozen):
    """Settings that all scenarios share. A loop goes on for ``min_seconds`` and ``min_count`` queries, and ends at ``max_seconds``."""

    min_seconds: float = Field(2.0, gt=0, le=86_400)
    min_count: int = Field(100, ge=1)
    max_seconds: float = Field(60.0, gt=0, le=86_400)

    @model_validator(mode="after")
    def _the_longest_is_no_shorter(self) -> Base:
        if self.max_seconds < self.min_seconds:
            raise ValueError(f"max_seconds, {self.max_seconds:g}, is shorter than min_seconds, {self.min_seconds:g}")
        return self

    @property
    def seconds(self) -> float:
        """About how long it takes once the model is warm, if calls are fast."""
        return self.min_seconds


class SingleStream(Base):
    """One query after another."""

    name: Literal["single-stream"] = "single-stream"


class LoadGen(Base):
    """One query after another, asked and timed by MLPerf LoadGen (scenario SingleStream); needs the package mlcommons-loadgen."""

    name: Literal["loadgen"] = "loadgen"


class MultiStream(Base):
    """Queries of ``streams`` samples each; a query's time is that of all its samples."""

    name: Literal["multi-stream"] = "multi-stream"
    streams: int = Field(8, ge=1, le=1024)


class Offline(Base):
    """All samples are there from the start: throughput only."""

    name: Literal["offline"] = "offline"


class Server(Base):
    """Poisson arrivals at ``rate`` queries a second; a query should be answered within ``bound_ms`` after its arrival."""

    name: Literal["server"] = "server"
    rate: float = Field(gt=0, le=1e6)
    bound_ms: float = Field(100.0, gt=0)
    seed: int = Field(0, ge=0)
    min_seconds: float = Field(10.0, gt=0, le=86_400)


class Camera(Base):
    """Frames at ``fps``; a result is due before the next frame, or ``deadline_ms`` after its own.

    The energy of a day and, with ``battery_mwh``, the life of a battery are worked out: from what a meter has measured, else from the CPU time and
    the device's power, ``idle_mw`` and ``busy_mw`` with one core busy, else from the counted work.
    """

    name: Literal["camera"] = "camera"
    fps: float = Field(15.0, gt=0, le=10_000)
    deadline_ms: float | None = Field(None, gt=0)
    idle_mw: float | None = Field(None, ge=0)
    busy_mw: float | None = Field(None, gt=0)
    battery_mwh: float | None = Field(None, gt=0)
    min_seconds: float = Field(10.0, gt=0, le=86_400)

    @model_validator(mode="after")
    def _busy_draws_more(self) -> Camera:
        if self.busy_mw is not None and self.busy_mw < (self.idle_mw or 0.0):
            raise ValueError(f"busy_mw, {self.busy_mw:g}, is less than idle_mw, {self.idle_mw:g}")
        return self


class Sustained(Base):
    """``minutes`` rows of full load, each ``minute_seconds`` long."""

    name: Literal["sustained"] = "sustained"
    minutes: int = Field(10, ge=1, le=24 * 60)
    minute_seconds: float = Field(60.0, gt=0, le=60)

    @property
    def seconds(self) -> float:
        return self.minutes * self.minute_seconds


Scenario = Annotated[SingleStream | LoadGen | MultiStream | Offline | Server | Camera | Sustained, Field(discriminator="name")]
SCENARIOS: TypeAdapter[Any] = TypeAdapter(Scenario)
NAMES = ("single-stream", "multi-stream", "offline", "server", "camera", "sustained", "loadgen")


def timing(scenario: Scenario, warmup: tuple[float, float] = (0.3, 5.0)) -> dict[str, Any]:
    """What the worker's task ``latency`` is told of it; ``warmup`` is (shortest, longest) in seconds."""
    return {"scenario": scenario.model_dump(), "warmup": {"min_seconds": warmup[0], "max_seconds": warmup[1]}}


def parse_scenario(text: str) -> Scenario:
    """``camera`` or ``camera:fps=25,min_seconds=30``.

    Raises:
        BadInput: an unknown scenario or setting, or a value that it does not take.
    """
    name, _, settings = text.partition(":")
    raw: dict[str, str] = {"name": name}
    for part in settings.split(",") if settings else ():
        key, equals, value = part.partition("=")
        if not equals or key.strip() in raw:
            raise BadInput(f"scenario {text!r}: {part!r} is not KEY=VALUE once", hint="write e.g. camera:fps=15,min_seconds=30")
        raw[key.strip()] = value.strip()
    return checked_scenario(raw, f"scenario {text!r}")


def checked_scenario(raw: dict[str, Any], what: str) -> Scenario:
    """The scenario that ``raw`` describes, by its ``name``; see `parse_scenario`."""
    if raw.get("name") not in NAMES:
        raise BadInput(f"{what}: there is no scenario {raw.get('name')!r}", hint=f"there are: {', '.join(NAMES)}")
    try:
        scenario: Scenario = SCENARIOS.validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        places = [str(part) for part in first["loc"][1:]]
        raise BadInput(": ".join([what, *places, first["msg"].removeprefix("Value error, ")]), hint="edge bench --help names the settings") from error
    return scenario
