"""Device profiles: what a device has, what an application may take of it, and where each figure comes from.

A profile is a TOML file; ours lie in ``profiles/``, a user's own is read in the same way. Profiles are read from strangers: a file that is not
one is answered with one sentence that names the file, the line and the key.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from edge.devices.figures import Bandwidth, Count, Energy, Figure, Frequency, Line, Power, Rate, Share, Size, Table, Time, Work, nearest, wrong
from edge.devices.toml_lines import line_of
from edge.errors import BadInput
from edge.files import read_limited
from edge.vocabulary import Arch, Format, Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A larger file is refused, in bytes.
MAX_PROFILE = 1 << 20
FOLDER = Path(__file__).with_name("profiles")
HINT = "a complete profile to copy from: edge devices show camera --toml"


def _plain(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise wrong("a name has only small letters, digits and single dashes between them, e.g. my-board")
    return name


def _feature(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_.]+", name):
        raise wrong(f"{name[:40]!r} is not the name of a processor feature as /proc/cpuinfo writes it, e.g. asimd")
    return name


def _processor(name: Any) -> Any:
    if name not in (Arch.X86.value, Arch.ARM.value):
        raise wrong("must be 'x86' or 'arm'")
    return name


Feature = Annotated[str, Field(max_length=40), AfterValidator(_feature)]


class OpsPerCycle(Table):
    """Operations per cycle of one core at its peak; a precision that the core does not compute in is left out."""

    fp32: Work
    fp16: Work | None = None
    bf16: Work | None = None
    int8: Work | None = None

    def of(self, precision: Precision) -> Work | None:
        found: Work | None = getattr(self, precision.value)
        return found


class Cluster(Table):
    """Cores of one kind. ``isa``: features as /proc/cpuinfo names them."""

    core: Line
    cores: Count
    clock: Frequency
    isa: tuple[Feature, ...] = Field(max_length=500)
    isa_source: Line
    ops_per_cycle: OpsPerCycle


class Memory(Table):
    """``model_share``: of the total, for the process of a model. ``bandwidth``: sustained, what is read and what is written added up; of one core,
    where its source says nothing else.
    """

    total: Size
    model_share: Share
    bandwidth: Bandwidth


class Storage(Table):
    """``model_share``: of the total, for the files of a model; those of its runtime are not in it."""

    total: Size
    model_share: Share


class PowerDraw(Table):
    """Of the whole device; ``busy_core`` with one core busy, idle included."""

    idle: Power
    busy_core: Power

    @field_validator("busy_core")
    @classmethod
    def _not_below_idle(cls, busy: Power, info: ValidationInfo) -> Power:
        idle = info.data.get("idle")
        if idle is not None and busy.base < idle.base:
            raise wrong(f"{busy.text} is less than the idle power, {idle.text}")
        return busy


class Budgets(Table):
    """What an application asks for; a budget that is left out is not checked.

    Attributes:
        frame_rate: inferences per second, at least.
        energy_per_day: of the inferences, above idle power, at most.
        battery_capacity, battery_life: with this battery, at least this long.
    """

    frame_rate: Rate | None = None
    latency_p99: Time | None = None
    energy_per_day: Energy | None = None
    battery_capacity: Energy | None = None
    battery_life: Time | None = None

    @model_validator(mode="after")
    def _life_needs_a_battery(self) -> Budgets:
        if self.battery_life and not self.battery_capacity:
            raise wrong("battery_life without battery_capacity cannot be checked, state both")
        return self


class Runtime(Table):
    """A format that makes sense on the device, and the precisions in it."""

    format: Format
    precisions: tuple[Precision, ...] = Field(min_length=1, max_length=len(Precision))
    source: Line


class Gpu(Table):
    """``compute_capability``: as CUDA names it, e.g. 8.7. ``power``: the most that the card draws."""

    name: Line
    memory: Size
    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,2}$")]
    compute_capability_source: Line
    bandwidth: Bandwidth | None = None
    power: Power | None = None


class Profile(Table):
    """A device.

    Attributes:
        identity: pieces of /proc/device-tree/model, or of the processor's name, by which such a device is recognised.
        qemu_cpu: the processor that qemu's user emulation takes for it.
        clusters: the first is the one that models run on.
    """

    schema_version: Literal[1]
    name: Annotated[str, Field(max_length=60), AfterValidator(_plain)]
    title: Line
    arch: Annotated[Arch, BeforeValidator(_processor)]
    clusters: tuple[Cluster, ...] = Field(min_length=1, max_length=16)
    memory: Memory
    storage: Storage
    identity: tuple[Line, ...] = Field((), max_length=50)
    qemu_cpu: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,=-]{1,100}$")] | None = None
    power: PowerDraw | None = None
    budgets: Budgets = Budgets()
    runtimes: tuple[Runtime, ...] = Field((), max_length=50)
    gpu: Gpu | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_known_version(cls, raw: Any) -> Any:
        # before the keys are looked at: another version has others
        if isinstance(raw, dict) and (version := raw.get("schema_version", 1)) != 1:
            raise wrong(f"version {str(version)[:20]!r} is unknown, this tool reads 1", "schema_version")
        return raw

    @property
    def cluster(self) -> Cluster:
        return self.clusters[0]

    @property
    def memory_limit(self) -> int:
        """What the process of a model may take, in B."""
        return int(self.memory.total.base * self.memory.model_share.base)

    @property
    def storage_limit(self) -> int:
        """What a model may take of the storage, in B."""
        return int(self.storage.total.base * self.storage.model_share.base)

    def is_named_in(self, names: str) -> bool:
        """Whether a machine is such a device, by what it says of itself."""
        return any(piece in names for piece in self.identity)

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """(key, figure) of every figure, e.g. ``clusters[0].clock``."""
        return _figures((), self)


def profile_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def profile_path(text: str) -> Path:
    """The file of one of our profiles, by its name, or the user's own, by its path.

    Raises:
        BadInput: neither a known name nor a path of a TOML file.
    """
    names = profile_names()
    if text in names:
        return FOLDER / f"{text}.toml"
    if text.endswith(".toml") or "/" in text:
        return Path(text)
    close = nearest(text, names)
    start = f"did you mean {close}? " if close else ""
    raise BadInput(f"unknown device {text[:100]!r}", hint=f"{start}known: {', '.join(names)}; or the path of a .toml file of your own")


def load_profile(text: str) -> Profile:
    """A profile by name, or from a user's own file.

    Raises:
        BadInput: an unknown name; a file that is missing, too large, not TOML, or not a profile.
    """
    path = profile_path(text)
    content = read_limited(path, MAX_PROFILE, "device profile")
    try:
        return Profile.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = (*first["loc"], *first.get("ctx", {}).get("key", ()))
        message = first["msg"].replace("Input should be", "must be").replace("valid tuple", "list").replace("String should", "should")
        raise BadInput(_sentence(path, line_of(content.decode(), key), key, message), hint=HINT) from error
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor TOML, or nested too deeply
        message, place = str(error), re.search(r" \(at line (\d+), column \d+\)", str(error))
        told = f"not a TOML file: {message.replace(place[0], '') if place else message}"
        raise BadInput(_sentence(path, int(place[1]) if place else None, (), told), hint=HINT) from error


def _figures(path: Sequence[str | int], node: object) -> Iterator[tuple[str, Figure]]:
    if isinstance(node, Figure):
        yield _dotted(path), node
    elif isinstance(node, BaseModel):
        for name in type(node).model_fields:
            yield from _figures((*path, name), getattr(node, name))
    elif isinstance(node, tuple):
        for index, item in enumerate(node):
            yield from _figures((*path, index), item)


def _dotted(path: Sequence[str | int]) -> str:
    """``clusters[0].clock``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _sentence(path: Path, line: int | None, key: Sequence[str | int], message: str) -> str:
    """One sentence: file, line where it is known, key, what is wrong. A key may be anything: it is cut, and its control characters are left out."""
    place = str(path) if line is None else f"{path}:{line}"
    named = "".join(filter(str.isprintable, _dotted(key)))[:200]
    return f"{place}: {named}: {message}" if key else f"{place}: {message}"
