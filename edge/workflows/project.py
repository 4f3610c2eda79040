"""A project file: a whole matrix in TOML. What is exported first, and what is measured how; paths are relative to the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from edge.bench.measure import PARTS, BenchRequest, Part
from edge.bench.scenarios import Scenario, SingleStream
from edge.devices.profile import load_profile
from edge.devices.targets import NAMES, is_target, make_target
from edge.errors import BadInput, CheckFailed
from edge.files import read_limited
from edge.models.source import resolve_model
from edge.vocabulary import Format, Frozen, Precision, Status
from edge.workflows.bench import Matrix, plan_cells
from edge.workflows.export import export_model
from edge.workflows.export_index import ExportedCell
from edge.workflows.export_source import ExportRequest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A larger project file is refused, in bytes.
MAX_PROJECT = 1 << 20

Count = Annotated[int, Field(ge=1)]
Cpu = Annotated[int, Field(ge=0)]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _target(name: str) -> str:
    if not is_target(name):
        raise ValueError(f"there is no target {name!r}, there are: {', '.join(NAMES)}")
    return name


class ExportTable(Frozen):
    """``[[export]]``: as ``edge export``. ``model`` names no factory: a file does not choose code to run."""

    model: str
    out: str
    weights: str | None = None
    calibration: str | None = None
    name: str | None = None
    formats: tuple[Format, ...] = ()
    precisions: tuple[Precision, ...] = ()


class BenchTable(Frozen):
    """``[[bench]]``: as ``edge bench``, each key a list of the values to combine. A scenario is its name, or a table with its name and settings;
    ``device`` is a name, or a path that ends in .toml."""

    artifacts: tuple[str, ...] = Field(min_length=1)
    scenarios: tuple[Annotated[Scenario, BeforeValidator(_named)], ...] = Field((SingleStream(),), min_length=1)
    targets: tuple[Annotated[str, AfterValidator(_target)], ...] = Field(("local",), min_length=1)
    device: str | None = None
    threads: tuple[Count, ...] = Field((1,), min_length=1)
    batch: tuple[Count, ...] = Field((1,), min_length=1)
    affinity: tuple[Annotated[tuple[Cpu, ...], Field(min_length=1)], ...] = ()
    shapes: tuple[dict[str, tuple[Count, ...]], ...] = ()
    repeats: int = Field(3, ge=1, le=1000)
    parts: tuple[Part, ...] = PARTS


class Project(Frozen):
    schema_version: Literal[1]
    out: str
    export: tuple[ExportTable, ...] = ()
    bench: tuple[BenchTable, ...] = Field(min_length=1)


def read_project(path: Path) -> Project:
    """Read and check a project file.

    Raises:
        BadInput: missing, not TOML, of an unknown schema version, or with a key, value or scenario that is not known.
    """
    try:
        raw = tomllib.loads(read_limited(path, MAX_PROJECT, "project file").decode())
        return Project.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint="edge bench --help shows a project file") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise BadInput(f"{path}: not a TOML file: {error}") from error


def exports_of(project: Project, folder: Path) -> list[tuple[ExportRequest, Path]]:
    """What the project asks to be exported, and where to.

    Raises:
        BadInput: a model that is not there, or that is code to run.
    """
    found = []
    for table in project.export:
        source = resolve_model(_model(table.model, folder), weights=folder / table.weights if table.weights else None)
        if source.kind == "factory":
            raise BadInput(f"{table.model}: a project file cannot name code to run", hint="export it with: edge export, and name its artifacts")
        request = ExportRequest(
            source, table.name or source.label, table.calibration,
            formats=frozenset(table.formats) or None, precisions=frozenset(table.precisions) or None,
        )  # fmt: skip
        found.append((request, folder / table.out))
    return found


def export_all(project: Project, folder: Path, done: Callable[[ExportedCell], None], progress: Callable[[int, int, str], None]) -> None:
    """Export what the project asks for; artifacts that are there already are kept.

    Raises:
        BadInput: see `exports_of`.
        CheckFailed: a cell failed.
    """
    for request, out in exports_of(project, folder):
        if failed := [cell for cell in export_model(request, out, done, progress) if cell.status is Status.FAILED]:
            raise CheckFailed(f"{failed[0].key}: {failed[0].reason}")


def not_exported_yet(project: Project, folder: Path) -> list[Path]:
    """Folders that an export would make and that are not there."""
    return [out for _, out in exports_of(project, folder) if not out.is_dir()]


def matrix_of(project: Project, folder: Path, leave_out: Sequence[Path] = ()) -> Matrix:
    """Every cell that the project asks for, of the artifacts that are there.

    Args:
        leave_out: folders that are not there, and of which nothing is known yet.
    """
    matrix = Matrix()
    for table in project.bench:
        device = table.device and str(folder / table.device if table.device.endswith(".toml") else table.device)
        profile = load_profile(device) if device else None
        targets = [make_target(name, profile) for name in table.targets]
        for scenario, target in product(table.scenarios, targets):
            request = BenchRequest(
                target,
                scenario=scenario,
                threads=table.threads,
                batches=table.batch,
                affinities=table.affinity or (None,),
                shapes=table.shapes or ({},),
                repeats=table.repeats,
                parts=table.parts,
            )
            matrix.rows += plan_cells([folder / name for name in table.artifacts if folder / name not in leave_out], request)
    return matrix


def _model(text: str, folder: Path) -> str:
    """A path is relative to the project file; a name is a name."""
    beside = folder / text
    return str(beside) if ":" not in text and (beside.exists() or list(folder.glob(f"{text}.*"))) else text
