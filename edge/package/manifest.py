"""``bundle.json``: what a bundle holds and for which device. `edge.package.run` reads it on the device, the desk reads a stranger's with care."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edge.artifact import MANIFEST as ARTIFACT_MANIFEST
from edge.artifact import MODEL_NAME, Role
from edge.datasets.preprocessing import Preprocessing
from edge.errors import BadInput
from edge.files import inside, read_limited
from edge.package.run.bundle import MANIFEST, MANIFEST_VERSION
from edge.vocabulary import Arch, Format, Frozen, Precision

#: A larger manifest is refused, in bytes.
MAX_MANIFEST = 4 << 20
MAX_TEXT = 1000
#: Of an artifact on a device, from the best to the worst: see `edge.bench.verdict`.
Outcome = Literal["PASS", "UNKNOWN", "FAIL"]


def _plain(path: str) -> str:
    inside(Path("/nowhere"), path)
    return path


def _printable(text: str) -> str:
    """What a stranger says, without what would steer the terminal."""
    return "".join(filter(str.isprintable, text))


Name = Annotated[str, Field(pattern=MODEL_NAME, max_length=200)]
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_printable)]
#: See `edge.files.inside`.
Relative = Annotated[str, Field(max_length=400), AfterValidator(_plain)]


class PackedFile(Frozen):
    """A model file. ``stored``: its name in the bundle, another one where it is packed; ``bytes`` and ``sha256`` are of the plain file."""

    role: Role
    path: Relative
    stored: Relative
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Limits(Frozen):
    """What the outputs on the device may differ by from those that are expected: as in `edge.export.parity.Threshold`; None sets no bound."""

    max_rel: float | None
    cosine: float
    agreement: float | None


class PackedArtifact(Frozen):
    """An artifact in a bundle.

    Attributes:
        vectors: the file of the samples. inputs: the names of the model's inputs. outputs: their number.
        packages: that it needs, and the versions that it was packed for; none: any. requirements: the file that pip takes.
        any_flag: features of which the processor must have one. verdict, says: of the desk, None and why where there is none.
    """

    name: Name
    folder: Relative
    format: Format
    precision: Precision
    files: tuple[PackedFile, ...] = Field(min_length=1, max_length=10)
    vectors: Relative
    inputs: tuple[Text, ...]
    outputs: int = Field(ge=1, le=1000)
    packages: dict[Text, tuple[Text, ...]]
    requirements: Relative
    any_flag: tuple[Text, ...]
    limits: Limits
    parity: bool | None
    verdict: Outcome | None
    says: Text


class PackedDevice(Frozen):
    """What of a device's profile its processor is held to."""

    name: Name
    title: Text
    arch: Arch
    flags: tuple[Text, ...]
    identity: tuple[Text, ...]


class Sizes(Frozen):
    """In bytes: of the installed bundle without wheels, of the same in a plain tar.gz, and of the best one's fp32 model where it is known."""

    installed: int
    plain_tar_gz: int
    fp32_model: int | None


class Bundle(Frozen):
    """``bundle.json``.

    Attributes:
        best: the artifact that runs where none is named.
        bench: what ``run bench`` asks of the worker. forced: why it should not have been packed. tool: version of this tool.
    """

    schema_version: Literal[1] = 1
    name: Name
    tool: Text
    device: PackedDevice
    artifacts: tuple[PackedArtifact, ...] = Field(min_length=1, max_length=100)
    best: Name
    preprocessing: Preprocessing | None
    labels: tuple[Text, ...] | None = Field(max_length=100_000)
    bench: dict[str, Any]
    forced: tuple[Text, ...]
    sizes: Sizes | None = None

    @model_validator(mode="after")
    def _best_is_one_of_them(self) -> Bundle:
        if self.best not in {artifact.name for artifact in self.artifacts}:
            raise ValueError(f"the best artifact, {self.best}, is not among them")
        return self

    def named_files(self) -> Iterator[str]:
        """Every file that the manifest names."""
        for artifact in self.artifacts:
            yield artifact.requirements
            yield from (f"{artifact.folder}/{name}" for name in (*(entry.stored for entry in artifact.files), artifact.vectors, ARTIFACT_MANIFEST))


def read_bundle(folder: Path) -> Bundle:
    """
    Raises:
        BadInput: no bundle, or a damaged one.
    """
    path = folder / MANIFEST
    raw = read_limited(path, MAX_MANIFEST, "bundle manifest")
    try:
        found = json.loads(raw)
        if isinstance(found, dict) and found.get("schema_version") != MANIFEST_VERSION:
            raise BadInput(f"{path}: version {str(found.get('schema_version'))[:20]} is unknown, this tool reads {MANIFEST_VERSION}")
        return Bundle.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable JSON: {error}") from error
