"""Bench: every worker run of a matrix in turn, each kept as soon as it has ended.

Wrong artifacts are found out first and get no times. The cells' processes take turns, so that a machine that drifts hits all alike: first
processes of all cells, then second ones. Parts that are on disk from an interrupted run are not run again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from edge.artifact import Kernels, load_artifact
from edge.bench.journal import Journal
from edge.bench.lock import measuring
from edge.bench.measure import BenchRequest, Part, Plan, load_frames, perform
from edge.bench.meter import PowerLog
from edge.bench.results import Cell, Results, Training, empty_figures, write_results
from edge.bench.rows import row
from edge.errors import BadArtifact, BadInput
from edge.vocabulary import Status
from edge.workflows.export_index import ExportedCell, read_index

#: Called with (what runs now, number of runs done, total, seconds left or None).
RunProgress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class Run:
    """One worker run of a cell."""

    plan: Plan
    part: Part
    repeat: int = 0

    @property
    def key(self) -> dict[str, Any]:
        return self.plan.key(self.part, self.repeat)


@dataclass
class Matrix:
    """The cells to measure, and rows that stand in the results without being measured.

    Attributes:
        rows: in the order of the results: a plan, or a row that is known already.
    """

    rows: list[Plan | Cell] = field(default_factory=list)

    @property
    def plans(self) -> list[Plan]:
        return [entry for entry in self.rows if isinstance(entry, Plan)]

    def runs(self) -> list[Run]:
        """In the order in which they run."""
        plans = [plan for plan in self.plans if not plan.blocked]
        repeats = max((plan.request.repeats for plan in plans), default=0)
        first = [Run(plan, "accuracy") for plan in plans if "accuracy" in plan.parts]
        times = [Run(plan, "latency", n) for n in range(repeats) for plan in plans if "latency" in plan.parts and n < plan.request.repeats]
        last = [Run(plan, part) for part in ("memory", "profile", "count") for plan in plans if part in plan.parts]
        return [*first, *times, *last]

    def seconds(self) -> float:
        """About how long all of it takes."""
        return sum(run.plan.seconds(run.part) for run in self.runs())


def plan_cells(artifacts: Iterable[str | Path], request: BenchRequest) -> list[Plan | Cell]:
    """Each artifact with each combination of the request's axes; a damaged artifact is a failed row.

    Args:
        artifacts: artifact folders, or folders of artifacts.

    Raises:
        BadInput: a folder that is not there, or of which nothing is known.
    """
    found: list[Plan | Cell] = []
    for folder in (folder for given in artifacts for folder in _expand(Path(given))):
        try:
            artifact = load_artifact(folder)
        except BadArtifact as error:
            found.append(_damaged(folder, error, request))
            continue
        frames = load_frames(request, artifact.manifest.inputs)
        for threads, batch, affinity, shapes in product(request.threads, request.batches, request.affinities, request.shapes):
            mine = tuple((info.name, shapes[info.name]) for info in artifact.manifest.inputs if info.name in shapes)
            found.append(Plan(artifact, request, threads, batch, affinity, mine, frames))
    return found


def run_bench(artifacts: Iterable[str | Path], out: Path, request: BenchRequest, progress: RunProgress = lambda *_: None) -> Results:
    """Measure artifacts into the results file ``out``; see `plan_cells` and `run_matrix`."""
    return run_matrix(Matrix(plan_cells(artifacts, request)), out, progress)


def run_matrix(
    matrix: Matrix,
    out: Path,
    progress: RunProgress = lambda *_: None,
    *,
    say: Callable[[str], None] = lambda _: None,
    training: Iterable[Training] = (),
    power: Callable[[], PowerLog] | None = None,
) -> Results:
    """Measure every cell and write the results to ``out``; when it is interrupted, those of the cells that are timed by then. The targets are closed.

    Args:
        say: called with a sentence when there is something to know: an interrupted run is gone on with, another measurement waited for.
        power: reads the log of an external meter, when everything has been measured.

    Raises:
        BadInput: nothing to measure.
    """
    if not matrix.rows:
        raise BadInput("nothing to measure", hint="name an artifact folder, e.g. edge bench out/demo/artifacts --out results.json")
    journal, findings, tool = Journal(out), _Findings(), _tool()

    def results(log: PowerLog | None = None) -> Results:
        cells = [entry if isinstance(entry, Cell) else row(entry, findings.of(entry), tool, log) for entry in matrix.rows if findings.shows(entry)]
        return Results(cells=tuple(cells), training=tuple(training))

    with contextlib.ExitStack() as closing:
        for target in {id(plan.request.target): plan.request.target for plan in matrix.plans}.values():
            closing.callback(target.close)
        try:
            runs = matrix.runs()
            if there := sum(journal.get(run.key) is not None for run in runs):
                say(f"going on with an interrupted run: {there} of {len(runs)} worker runs are there")
            alone = any(run.plan.request.target.here for run in runs)
            with measuring(say) if alone else contextlib.nullcontext():
                _run_all(runs, journal, findings, progress)
        except BaseException:
            with contextlib.suppress(OSError):  # what stopped the run is said, not that this could not be written either
                if any(findings.shows(plan) for plan in matrix.plans if not plan.blocked):
                    write_results(out, results())
            raise
        finished = results()
        write_results(out, finished)
        if power:  # a log that cannot be read costs no measurement
            finished = results(power())
            write_results(out, finished)
        journal.remove()
        return finished


def _run_all(runs: Sequence[Run], journal: Journal, findings: _Findings, progress: RunProgress) -> None:
    began, measured = time.monotonic(), 0.0
    planned = [run.plan.seconds(run.part) for run in runs]
    for number, run in enumerate(runs):
        rate = (time.monotonic() - began) / measured if measured else 1.0
        progress(f"{run.plan.name}: {run.part}", number, len(runs), rate * sum(planned[number:]))
        if findings.failed(run.plan):
            continue
        record = journal.get(run.key)
        if record is None:
            record = perform(run.plan, run.part)
            measured += planned[number]
            if "failure" not in record:  # what failed is tried again
                journal.put(run.key, record)
        findings.add(run, record)
    progress("done", len(runs), len(runs), None)


class _Findings:
    """What the parts of each plan have found."""

    def __init__(self) -> None:
        self.records: dict[int, dict[Part, list[dict[str, Any]]]] = {}

    def add(self, run: Run, record: dict[str, Any]) -> None:
        self.of(run.plan).setdefault(run.part, []).append(record)

    def of(self, plan: Plan) -> dict[Part, list[dict[str, Any]]]:
        return self.records.setdefault(id(plan), {})

    def failed(self, plan: Plan) -> bool:
        return any("failure" in record for records in self.of(plan).values() for record in records)

    def shows(self, entry: Plan | Cell) -> bool:
        """Whether there is something to say of a row: a cell that an interrupted run has not timed yet is left out."""
        if isinstance(entry, Cell) or entry.blocked or self.failed(entry) or not entry.parts:
            return True
        found = self.of(entry)
        return bool(found.get("latency")) if "latency" in entry.parts else bool(found)


def _tool() -> dict[str, str]:
    """Version of this tool, and the commit where it runs from a checkout."""
    found = {"version": importlib.metadata.version("paddle-edge")}
    folder = Path(__file__).resolve().parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)  # noqa: S607
        if asked.returncode == 0:
            found["commit"] = asked.stdout.strip()
    return found


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


def _damaged(folder: Path, error: BadArtifact, request: BenchRequest) -> Cell:
    """A row for an artifact that the export index knows but that cannot be read.

    Raises:
        BadArtifact: nothing is known of it.
    """
    known = next((cell for cell in read_index(folder.parent).cells if cell.artifact == folder.name), None)
    if known is None:
        raise error
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
        scenario=request.scenario.name,
        threads=request.threads[0],
        batch=request.batches[0],
        status=cell.status,
        reason=reason,
        kernels=Kernels(reduced=None, total=None, reason=reason),
        **empty_figures(reason),
    )
