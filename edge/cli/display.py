"""What a person sees: tables on stdout, messages and progress on stderr (bars on a terminal, a line now and then elsewhere)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from edge.bench.present import Column
    from edge.bench.results import Cell
    from edge.workflows.export_index import ExportedCell

#: Seconds between progress lines of one task where there is no terminal.
QUIET_SECONDS = 20.0
VERDICTS = {"PASS": "green", "FAIL": "bold red", "UNKNOWN": "yellow"}
STYLES = {**VERDICTS, "ok": "green", "failed": "bold red", "exported": "cyan", "unsupported": "dim", "unavailable": "yellow"}


class Display:
    """Progress of named tasks, safe to feed from several threads."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=self.console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        with self._lock:
            if self.console.is_terminal:
                if task not in self._tasks:
                    self._tasks[task] = self._bars.add_task(task, total=total, note=note)
                self._bars.update(self._tasks[task], completed=done, total=total, note=note)
            elif time.monotonic() - self._spoken.get(task, float("-inf")) >= QUIET_SECONDS or done == total:
                self._spoken[task] = time.monotonic()
                self.say(f"  {task}: {done}/{total} {note}")


def plain(text: str) -> str:
    """Without control characters, with which a stranger's file could write to the terminal as it likes."""
    return "".join(filter(str.isprintable, text))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0, 1)) -> None:
    """A table on stdout, wide enough for every column even where stdout is no terminal. A cell that is a status has its colour.

    Args:
        left: columns of words.
    """
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index in left else "right", no_wrap=True)
    for texts in rows:
        table.add_row(*(Text(plain(text), style=STYLES.get(text, "")) for text in texts))
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)


def print_cells(cells: Sequence[Cell], columns: Sequence[Column]) -> None:
    """The results table."""
    print_table([column.head for column in columns], [[column.text(cell) for column in columns] for cell in cells])


def print_exported(cells: Sequence[ExportedCell]) -> None:
    """Artifacts with their size, how they compare with the Paddle model, and the kernels that ran in their precision."""
    heads = ("artifact", "status", "size KiB", "of fp32", "max error", "cosine", "agree %", "top-1 %", "samples", "kernels")
    rows = []
    for cell in cells:
        tail = "" if cell.target_arch.value == "any" else f" {cell.target_arch.value}"
        rows.append([f"{cell.format.value} {cell.precision.value}{tail}", cell.status.value, *_exported_figures(cell)])
    print_table(heads, rows)


def _exported_figures(cell: ExportedCell) -> list[str]:
    """Size, size over the fp32 parameters, error over the largest output, cosine, shares, samples (~: random input), kernels (* : of the twin)."""
    p, k = cell.parity, cell.kernels
    assert p is not None and k is not None and cell.size is not None  # noqa: S101 - an artifact has them
    twin = "*" if p.twin else ""
    figures = [(p.max_rel, ".1e"), (p.cosine, ".5f"), (p.top1_agreement, ".2f"), (p.accuracy, ".2f")]
    texts = ["–" if value is None else f"{value:{form}}{twin}" for value, form in figures]
    samples = "–" if not p.samples else f"{'' if p.real else '~'}{p.samples:,}"
    kernels = "–" if k.reduced is None else f"{k.reduced}/{k.total}"
    return [f"{cell.size / 1024:,.0f}", "–" if cell.ratio is None else f"{cell.ratio:.2f}", *texts, samples, kernels]


def print_remarks(remarks: Sequence[tuple[str, str, str]]) -> None:
    """(name, status, why) of cells that have no figures or a remark."""
    console = Console(highlight=False)
    for name, status, why in remarks:
        console.print(f"  [{STYLES[status]}]{status:<11}[/] ", end="")
        console.print(plain(f"{name}: {why}"), markup=False, soft_wrap=True)
