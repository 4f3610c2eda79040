"""Bench: measure artifacts one cell after another; each finished cell is on disk before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edge.artifact import Kernels, load_artifact
from edge.bench.measure import BenchRequest, measure
from edge.bench.results import Cell, Results, Training, empty_figures, write_results
from edge.errors import BadArtifact, BadInput
from edge.vocabulary import Status
from edge.workflows.export_index import ExportedCell, read_index

#: Called with (cell name, step, number, total); step is "done" when the cell has ended.
CellProgress = Callable[[str, str, int, int], None]


def run_bench(
    artifacts: Iterable[str | Path],
    out: Path,
    request: BenchRequest,
    progress: CellProgress = lambda *_: None,
    *,
    also: Iterable[Cell] = (),
    training: Iterable[Training] = (),
) -> Results:
    """Measure artifacts in order and write ``out`` after every cell.

    Args:
        artifacts: artifact folders, or folders of artifacts.
        also: rows that stand in the results without being measured now.

    Raises:
        BadInput: nothing to measure. A damaged artifact is a failed row, not an error.
    """
    folders = [folder for given in artifacts for folder in _expand(Path(given))]
    if not folders and not also:
        raise BadInput("nothing to measure", hint="name an artifact folder, e.g. edge bench out/demo/artifacts --out results.json")
    results = Results(cells=tuple(also), training=tuple(training))
    for number, folder in enumerate(folders):
        try:
            artifact = load_artifact(folder)
        except BadArtifact as error:
            row = _damaged(folder, error, request)
            if row is None:
                raise
            cell = row
        else:
            cell = measure(artifact, request, lambda step, n=number, a=artifact: progress(a.name, step, n, len(folders)))  # type: ignore[misc]
        progress(folder.name, "done", number + 1, len(folders))
        results = results.model_copy(update={"cells": (*results.cells, cell)})
        write_results(out, results)
    if not folders:
        write_results(out, results)
    return results


def rows_not_made(folder: Path, request: BenchRequest, model: str) -> Iterator[Cell]:
    """Rows for the cells of an export that have no artifact: unsupported, unavailable or failed, with the reason."""
    for cell in read_index(folder).cells:
        if cell.model == model and cell.artifact is None:
            yield _row(cell, request)


def _expand(path: Path) -> list[Path]:
    """An artifact folder itself, or the artifact folders directly inside a folder, by name."""
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder", hint="make artifacts with: edge export MODEL --out DIR")
    if (path / "manifest.json").exists():
        return [path]
    inside = sorted(child.parent for child in path.glob("*/manifest.json") if not child.parent.name.startswith("."))
    return inside or [path]


def _damaged(folder: Path, error: BadArtifact, request: BenchRequest) -> Cell | None:
    """A row for an artifact that the export index knows but that cannot be read; None when nothing is known of it."""
    known = next((cell for cell in read_index(folder.parent).cells if cell.artifact == folder.name), None)
    if known is None:
        return None
    return _row(known.model_copy(update={"status": Status.FAILED, "reason": str(error)}), request)


def _row(cell: ExportedCell, request: BenchRequest) -> Cell:
    reason = cell.reason or "no reason was given"
    return Cell(
        model=cell.model,
        format=cell.format,
        precision=cell.precision,
        target_arch=cell.target_arch,
        target=request.target.name,
        device=request.target.device,
        scenario="single-stream",
        threads=request.threads,
        batch=request.batch,
        status=cell.status,
        reason=reason,
        kernels=Kernels(reduced=None, total=None, reason=reason),
        **empty_figures(reason),
    )
