"""Two results files, cell by cell: the ratio, its confidence interval, and whether the difference is more than noise.

The unit that is compared is the process. Samples of one process share its memory layout, its frequency and its minute; taken for independent
they call every drift significant (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time"). So each process gives one figure, and the
logarithms of A's and B's are set against each other by Welch's t test. Over many cells the p values are adjusted (Benjamini and Hochberg 1995).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.bench.results import Cell, Process, Results
from edge.errors import BadInput
from edge.vocabulary import Frozen, Measurement, Status, absent

Verdict = Literal["worse", "better", "same", "failed", "unknown"]
#: Largest probability of a difference at least so large between equal cells.
SIGNIFICANCE = 0.05
MORE_PROCESSES = "a test needs 2 processes or more on both sides: edge bench --repeats 5"


class Figure(Frozen):
    """What is compared: its unit, and whether more of it is better."""

    name: str
    unit: str
    more_is_better: bool = False


FIGURES = {
    **{name: Figure(name=name, unit="ms") for name in ("p50", "p90", "p99", "mean", "load", "first")},
    "throughput": Figure(name="throughput", unit="1/s", more_is_better=True),
    "cpu_time": Figure(name="cpu_time", unit="s"),
}


class Comparison(Frozen):
    """One cell of both files.

    Attributes:
        a, b: the median over the processes. ratio: B over A, with its interval.
        p: adjusted probability of such a difference between equal cells; None without a test.
        verdict: ``worse`` and ``better`` are significant; ``failed``: B's cell is not there or was not measured; ``unknown``: no test.
    """

    cell: str
    a: Measurement
    b: Measurement
    ratio: Measurement
    p: float | None
    verdict: Verdict
    reason: str | None = None

    def regression(self, share: float) -> bool:
        """Significantly worse by more than ``share``, or gone."""
        if self.verdict != "worse" or self.ratio.value is None:
            return self.verdict == "failed"
        return max(self.ratio.value, 1 / self.ratio.value) - 1 > share


def compare_results(a: Results, b: Results, figure: Figure) -> list[Comparison]:
    """Every cell of A that was measured, with its counterpart in B; one that B does not have has failed there.

    Raises:
        BadInput: the files have no measured cell in common, or one of them has a cell twice.
    """
    unsaid: dict[str, Any] = {}
    if all(len({cell.device for cell in results.cells}) <= 1 for results in (a, b)):
        unsaid["device"] = ""  # one machine each: set against each other, whatever their names
    if any(cell.artifact and not cell.settings for results in (a, b) for cell in results.cells):
        unsaid["settings"] = {}  # results of version 1 do not have them
    left, right = (_by_key(results, unsaid) for results in (a, b))
    measured = {key: cell for key, cell in left.items() if cell.status is Status.OK}
    if not measured.keys() & right.keys():
        raise BadInput("the two files have no measured cell in common", hint="a cell is its model, artifact, target, scenario, threads and batch")
    found = [_compared(cell, right.get(key), figure) for key, cell in measured.items()]
    return _adjusted(found, figure)


def different_machines(a: Results, b: Results) -> str | None:
    """A sentence when the files' processors differ: their ratio is then one of machines."""
    left, right = ({str(cell.environment.get("cpu")) for cell in results.cells if cell.processes} for results in (a, b))
    return None if left == right else f"measured on different processors: {', '.join(sorted(left))} and {', '.join(sorted(right))}"


def _by_key(results: Results, unsaid: dict[str, Any]) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for cell in results.cells:
        if cell.artifact is None:
            continue
        key = cell.model_copy(update=unsaid).key
        if key in found:
            raise BadInput(f"{cell.model} {cell.label} stands twice in one file", hint="compare files with one row a cell")
        found[key] = cell
    return found


def _compared(one: Cell, other: Cell | None, figure: Figure) -> Comparison:
    name = f"{one.model} {one.label}, {one.asked}"
    x = process_values(one, figure)
    a = _median(x, figure.unit)
    if other is None or other.status is not Status.OK:
        gone = f"{other.status.value}: {other.reason}" if other else "not in the second file"
        return Comparison(cell=name, a=a, b=absent(figure.unit, gone), ratio=absent("1", gone), p=None, verdict="failed", reason=gone)
    y = process_values(other, figure)
    b = _median(y, figure.unit)
    if not len(x) or not len(y) or min(x.min(), y.min()) <= 0:
        why = f"no {figure.name} of single processes"
        return Comparison(cell=name, a=a, b=b, ratio=absent("1", why), p=None, verdict="unknown", reason=why)
    ratio = ratio_of(x, y)
    if min(len(x), len(y)) < 2:
        return Comparison(cell=name, a=a, b=b, ratio=Measurement(value=ratio, unit="1"), p=None, verdict="unknown", reason=MORE_PROCESSES)
    low, high, p = ratio_test(x, y)
    return Comparison(cell=name, a=a, b=b, ratio=Measurement(value=ratio, unit="1", interval=(low, high)), p=p, verdict="same")


def ratio_of(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """y over x: of the geometric means of positive figures of processes."""
    return float(np.exp(np.mean(np.log(y)) - np.mean(np.log(x))))


def ratio_test(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """95 % interval of the ratio of y over x, and the p value of their being equal: Welch's t test of the logarithms.

    Args:
        x, y: positive figures of the processes, two or more each.
    """
    from scipy.stats import ttest_ind

    a, b = np.log(x), np.log(y)
    if np.ptp(a) == 0 and np.ptp(b) == 0:  # no spread to test against
        ratio = float(np.exp(b[0] - a[0]))
        return ratio, ratio, float(a[0] == b[0])
    found = ttest_ind(b, a, equal_var=False)
    interval = found.confidence_interval(1 - SIGNIFICANCE)
    return float(np.exp(interval.low)), float(np.exp(interval.high)), float(found.pvalue)


def _adjusted(found: Sequence[Comparison], figure: Figure) -> list[Comparison]:
    from scipy.stats import false_discovery_control

    tested = [number for number, one in enumerate(found) if one.p is not None]
    adjusted = dict(zip(tested, false_discovery_control([float(found[n].p or 0) for n in tested]), strict=True)) if tested else {}
    return [one if n not in adjusted else one.model_copy(update=_judged(one, float(adjusted[n]), figure)) for n, one in enumerate(found)]


def _judged(one: Comparison, p: float, figure: Figure) -> dict[str, object]:
    if p >= SIGNIFICANCE or one.ratio.value is None:
        return {"p": p, "verdict": "same"}
    return {"p": p, "verdict": "better" if (one.ratio.value > 1) is figure.more_is_better else "worse"}


def process_values(cell: Cell, figure: Figure) -> NDArray[np.float64]:
    """One value a process, [processes]; none where a process has no such figure."""
    read: dict[str, Callable[[Process], float]] = {
        "load": lambda process: process.load_ms,
        "first": lambda process: process.first_ms,
        "throughput": lambda process: process.inferences * cell.batch / process.wall_s,
        "cpu_time": lambda process: process.cpu_s / (process.inferences * cell.batch),
        "mean": lambda process: float(np.mean(process.samples.milliseconds())),
        **{f"p{q}": lambda process, q=q: float(np.percentile(process.samples.milliseconds(), q)) for q in (50, 90, 99)},  # type: ignore[misc]
    }
    timed = figure.name in ("load", "first", "throughput", "cpu_time")
    return np.array([read[figure.name](process) for process in cell.processes if timed or process.samples.count])


def _median(values: NDArray[np.float64], unit: str) -> Measurement:
    return Measurement(value=float(np.median(values)), unit=unit) if len(values) else absent(unit, "no processes in the results")
