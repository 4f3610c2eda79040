"""Export: make every cell that can be made, run each in its own runtime, and keep those that are still the model."""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from pathlib import Path

from edge.artifact import MODEL_NAME
from edge.children import side_by_side
from edge.errors import BadInput
from edge.export.support import Cell, select
from edge.export.workspace import LEGACY, ONE_THREAD, Workspace
from edge.jobs import JobProgress, WarmServers
from edge.vocabulary import Precision
from edge.workflows.export_cell import export_cell
from edge.workflows.export_index import ExportedCell, write_index
from edge.workflows.export_source import ExportRequest, Source
from edge.workflows.training import cores

#: Of a model, in characters: it becomes the name of folders.
MAX_NAME = 100

#: Called with each finished cell.
CellDone = Callable[[ExportedCell], None]


def export_model(
    request: ExportRequest, out: Path, done: CellDone = lambda _: None, progress: JobProgress = lambda done, total, note: None
) -> list[ExportedCell]:
    """Export one model to every cell asked for, two conversions at a time.

    A cell that fails leaves no folder, and an older one as it was; the others go on. One that is there already, made from the same things in
    the same way, is kept: an interrupted export goes on with what is missing. The index ``export.json`` in ``out`` lists them all.

    Returns:
        The cells in the order of the support table.

    Raises:
        BadInput: the model, its name, the data or ``out`` cannot be used.
        Unavailable: not enough disk or memory.
    """
    if not re.fullmatch(MODEL_NAME, request.name) or len(request.name) > MAX_NAME:
        raise BadInput(
            f"{request.name[: MAX_NAME + 1]!r} is no name for a model: it begins with a letter or digit, goes on with those and . _ -, "
            f"and has {MAX_NAME} characters at most",
            hint="give one with --name",
        )
    cells = select(set(request.formats) if request.formats else None, set(request.precisions) if request.precisions else None)
    if request.max_drop is not None and not any(cell.precision is Precision.INT8 for cell in cells):
        raise BadInput("--max-drop bounds what int8 loses, and no int8 cell was asked for", hint="leave it out, or add int8 to --precision")
    with _scratch_in(out) as scratch, WarmServers(ONE_THREAD, LEGACY) as servers, side_by_side(min(2, cores())) as pool:
        workspace = Workspace(scratch / "steps", request.source, servers, request.options, progress=progress)
        source = Source.prepare(request, cells, workspace, scratch, out, pool)
        # fp32 first: the formats' own steps run side by side, and what the other precisions start from is there when they come
        order = sorted(cells, key=lambda cell: cell.precision is not Precision.FP32)
        futures = {pool.submit(export_cell, cell, source, out): cell for cell in order}
        finished: dict[Cell, ExportedCell] = {}
        for future in as_completed(futures):
            finished[futures[future]] = future.result()
            done(future.result())
    ordered = [finished[cell] for cell in cells]
    write_index(out, ordered)
    return ordered


@contextlib.contextmanager
def _scratch_in(out: Path) -> Iterator[Path]:
    """A scratch folder in ``out``, on the same file system as what will be kept; ``out`` is made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out, prefix=".work.")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise BadInput(f"{out}: artifacts cannot be written there: {error.strerror}", hint="name another folder with --out") from error
    with scratch as folder:
        yield Path(folder)
