"""Results of recipes for the page: a table and a trade-off plot for each group, like the charts of Blalock et al. 2020, "What is the State of Neural
Network Pruning?" (arXiv 2003.03033): size against accuracy, and measured speed against accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.bench.plot import drawing, svg_of
from edge.bench.present import number
from edge.compress.result import Result
from edge.vocabulary import Format

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour-blind safe (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
NONE = "–"
#: The row of the net that nothing was done to.
DENSE = "dense"
#: An interval whose ends are so many times apart is said; and so many times as fast or as slow as was measured it is drawn at most.
WIDE, FURTHEST = 1.25, 3.0
#: Sizes or speeds that are less than this apart are no axis.
SAME = 1.05
#: Points of accuracy behind the best, and so many times as far behind as the next: who lost more is no choice.
LOST, APART = 2.0, 2.5
RUNTIMES = {Format.ONNX: "onnxruntime", Format.PADDLE_INFERENCE: "Paddle Inference", Format.PADDLE_LITE: "Paddle Lite"}


@dataclass(frozen=True)
class Column:
    """As `edge.bench.present.Column`, of a result of a recipe."""

    head: str
    text: Callable[[Result], str]
    about: str


@dataclass(frozen=True)
class Table:
    """Results that belong together; ``timed``: on which machines."""

    name: str
    beside: tuple[str, ...]
    rows: tuple[Result, ...]
    timed: str
    parts: tuple[tuple[Column, ...], ...]
    plot: str | None


def error_text(result: Result) -> str:
    """Of the seed that is shown, or mean, standard deviation and range of several."""
    found = result.errors()
    if len(found) < 2:
        return NONE if result.error_after is None else f"{result.error_after:.2f}"
    return f"{statistics.mean(found):.2f} ± {statistics.stdev(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def speed_text(result: Result, runtime: Format) -> str:
    """``0.123, 2.10x``, with the interval of the ratio, over processes, where it is wide, and ``(no gain)`` where it does not lie above 1."""
    found = result.speed.get(runtime.value)
    if found is None or found.speedup.value is None:
        return NONE
    interval, remarks = found.speedup.interval, ""
    if interval and interval[1] > WIDE * interval[0]:
        remarks += f" ({interval[0]:.2f} to {interval[1]:.2f})"
    if interval and interval[0] <= 1:
        remarks += " (no gain)"
    return f"{number(found.compressed)}, {float(found.speedup.value):.2f}x{remarks}"


TIMED = "median, fp32, 1 thread, batch 1, and dense over it, with its 95 % interval where that is wide; (no gain): it does not lie above 1"
ROW = Column("row", lambda r: r.row or r.name, "what was done; the recipe has the steps")
SIZE = (
    Column("recipe", lambda r: r.name, "its file, without .toml"),
    Column("seeds", lambda r: str(len(r.seeds)), "runs from different initial weights"),
    Column("error % dense", lambda r: NONE if r.error_before is None else f"{r.error_before:.2f}", "wrong test images before, of the seed shown"),
    Column("error %", error_text, "wrong test images after: mean ± standard deviation (range) of the seeds"),
    Column("weights left", lambda r: f"{r.parameters:,}", "parameters that are not zero"),
    Column("pruned", lambda r: f"{r.parameters_before / max(r.parameters, 1):.1f}x", "parameters of the dense net over those left"),
    Column(
        "M MACs", lambda r: f"{r.macs / 1e6:.3g}", "millions of multiplications that a runtime executes; zeros among the weights are multiplied too"
    ),
    Column("float32 KiB", lambda r: f"{r.plain_bytes / 1024:,.1f}", "what is left as float32, as a runtime loads it"),
    Column("packed KiB", lambda r: f"{r.packed_bytes / 1024:,.1f}", "packed file, with indices, codebooks and biases, of the seed shown"),
    Column("ratio", lambda r: f"{r.ratio:,.1f}x", "dense float32 over packed"),
)
SPEED = tuple(
    Column(f"{name} ms", lambda r, runtime=runtime: speed_text(r, runtime), f"{name}: {TIMED}")  # type: ignore[misc]
    for runtime, name in RUNTIMES.items()
)
CHANGES = (
    Column("agree %", lambda r: f"{r.changes.agreement:.2f}" if r.changes else NONE, "test images that both nets see as the same class"),
    Column(
        "broken, mended", lambda r: f"{r.changes.flips.broken}, {r.changes.flips.mended}" if r.changes else NONE, "images: right to wrong, and back"
    ),
    Column("worst class", lambda r: _worst_class(r), "the class whose accuracy fell most, points"),
    Column("calibration %", lambda r: _pair(r.changes.calibration if r.changes else None), "expected calibration error"),
    Column("saliency", lambda r: _saliency(r), "rank correlation of the maps of gradient times input"),
    *(
        Column(head, lambda r, name=name: _robust(r, name), about)  # type: ignore[misc]
        for head, name, about in (
            ("noise %", "noise", "accuracy on noisy images"),
            ("blur %", "blur", "accuracy on blurred images"),
            ("shift %", "shift", "accuracy on images moved by 2 pixels"),
            ("attack %", "pgd", "accuracy under the weaker PGD attack"),
        )
    ),
    Column(
        "recall@1 %",
        lambda r: "; ".join(f"{e.direction}{f' without {e.blank}' if e.blank else ''} {_pair(e)}" for e in r.recall) or NONE,
        "of a model of captions",
    ),
)


def tables_of(results: Sequence[Result]) -> list[Table]:
    """In the order of their first rows; of each, the dense net first and then by the ratio."""
    names = dict.fromkeys(result.table or result.name for result in results)
    return [_table(name, [result for result in results if (result.table or result.name) == name]) for name in names]


def _table(name: str, rows: Sequence[Result]) -> Table:
    rows = sorted(rows, key=lambda row: (row.row != DENSE, row.ratio))
    filled = [tuple(column for column in part if any(column.text(row) != NONE for row in rows)) for part in (SIZE, SPEED, CHANGES)]
    beside = tuple(dict.fromkeys(row.beside for row in rows if row.beside))
    return Table(name, beside, tuple(rows), _timed_on(rows), tuple((ROW, *part) for part in filled if part), trade_off_svg(rows))


def _timed_on(rows: Sequence[Result]) -> str:
    """The machine of most rows, then each other one with its rows: milliseconds of two machines are not to be compared."""
    timed: dict[str, list[str]] = {}
    for row in rows:
        if row.speed:
            timed.setdefault(_machine(row), []).append(row.name)
    most, *others = sorted(timed, key=lambda machine: -len(timed[machine])) or ["no machine yet"]
    return "; ".join([most, *(f"on {machine}: {', '.join(timed[machine])}" for machine in others)])


def _machine(row: Result) -> str:
    """The processor, with its features that decide which kernels run."""
    found = row.environment
    isa = found.get("isa")
    features = f" ({', '.join(map(str, isa))})" if isinstance(isa, list) else ""  # a stranger's may be anything
    return f"{found.get('cores')} cores of {found.get('cpu')}{features}"


def trade_off_svg(rows: Sequence[Result]) -> str | None:
    """Accuracy against size and against speed, where those differ, else row by row; None where fewer than two rows have an error."""
    shown = [row for row in rows if row.errors()]
    if len(shown) < 2:
        return None
    axes_of: list[tuple[Callable[[Result], float | None], str]] = [
        (lambda row: row.ratio, "times smaller, packed (log)"),
        (_speedup, "times faster, onnxruntime, measured (log)"),
    ]
    different = [(x_of, label) for x_of, label in axes_of if _differ([x for row in shown if (x := x_of(row)) is not None])]
    with drawing() as figure:
        panels = figure.subplots(1, max(len(different), 1), sharey=True, squeeze=False)[0]
        if not different:
            _row_by_row(panels[0], shown)
            return svg_of(figure)
        looks, edge = _looks(shown), _lower_edge(shown)
        for axes, (x_of, label) in zip(panels, different, strict=True):
            _panel(axes, [(x, row) for row in shown if (x := x_of(row)) is not None], looks, edge)
            if x_of is _speedup:
                _intervals(axes, shown, looks, edge)
            axes.set_xlabel(label)
        panels[0].set_ylabel("test accuracy, % (up is better)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=8, loc="outside right center")
        return svg_of(figure)


def _differ(values: Sequence[float]) -> bool:
    return bool(values) and max(values) > SAME * min(values)


def _lower_edge(rows: Sequence[Result]) -> float:
    """The accuracy under which a net is drawn at the edge, so that those which are a choice can be told apart."""
    best, *others = sorted(map(_accuracy, rows), reverse=True)
    losses = [best - accuracy for accuracy in others]
    while len(losses) > 1 and losses[-1] > max(LOST, APART * losses[-2]):
        losses.pop()
    return best - 1.1 * (losses[-1] or 1.0)


def _row_by_row(axes: Axes, rows: Sequence[Result]) -> None:
    rows = sorted(rows, key=_accuracy)
    names = [row.row or row.name for row in rows]
    axes.errorbar([_accuracy(row) for row in rows], names, xerr=_spread(rows), color=COLOURS[0], marker="o", markersize=7, capsize=3, ls="")
    _dense_line(rows, axes.axvline)
    axes.set_xlabel("test accuracy, % (right is better)")
    axes.grid(alpha=0.25)
    axes.margins(x=0.12, y=0.1)


def _panel(axes: Axes, points: Sequence[tuple[float, Result]], looks: dict[str, tuple[str, str]], edge: float) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    rows = [row for _, row in points]
    for name in dict.fromkeys(map(_curve, rows)):
        mine = sorted(((x, row) for x, row in points if _curve(row) == name), key=lambda point: point[0])
        colour, marker = looks[name]
        xs, ys = [x for x, _ in mine], [max(_accuracy(row), edge) for _, row in mine]
        spread = _spread([row for _, row in mine])
        axes.errorbar(xs, ys, yerr=spread, color=colour, marker=marker, markersize=7, capsize=3, ls="-" if len(mine) > 1 else "", lw=1, label=name)
        for x, y, (_, row) in zip(xs, ys, mine, strict=True):
            below = f"↓ {_accuracy(row):.1f} %" if _accuracy(row) < edge else ""
            if text := " ".join(filter(None, (row.row.partition(": ")[2], below))):
                axes.annotate(text, (x, y), xytext=(7, 4), textcoords="offset points", fontsize=7).set_in_layout(False)
    _dense_line(rows, axes.axhline)
    axes.set_xscale("log")
    axes.grid(alpha=0.25, which="both")
    axes.margins(x=0.12, y=0.15)
    low, high = axes.get_xlim()
    decade = (1, 1.5, 2, 3, 5, 7) if high / low < 12 else (1, 2, 5) if high / low < 300 else (1, 3)
    axes.xaxis.set_major_locator(LogLocator(subs=decade) if high / low > 3 else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _intervals(axes: Axes, rows: Sequence[Result], looks: dict[str, tuple[str, str]], edge: float) -> None:
    """How far a busy machine leaves a speed-up open."""
    for row in rows:
        if (x := _speedup(row)) is not None and (interval := row.speed[Format.ONNX.value].speedup.interval):
            ends = max(interval[0], x / FURTHEST), min(interval[1], x * FURTHEST)
            axes.plot(ends, [max(_accuracy(row), edge)] * 2, color=looks[_curve(row)][0], lw=1, alpha=0.4)


def _dense_line(rows: Sequence[Result], line: Callable[..., object]) -> None:
    """Where the dense net lies: the mean of its seeds where it has a row."""
    dense = [_accuracy(row) for row in rows if row.row == DENSE] or [100 - row.error_before for row in rows if row.error_before is not None]
    if dense:
        line(statistics.mean(dense), color="#888", lw=0.8, ls="--")


def _accuracy(row: Result) -> float:
    return 100 - statistics.mean(row.errors())


def _spread(rows: Sequence[Result]) -> list[list[float]]:
    """How far the worst and the best seed of each are from their mean."""
    errors = [row.errors() for row in rows]
    return [[max(found) - statistics.mean(found) for found in errors], [statistics.mean(found) - min(found) for found in errors]]


def _curve(row: Result) -> str:
    """Rows called ``NAME: SETTING`` are points of one curve."""
    return (row.row or row.name).partition(": ")[0]


def _looks(rows: Sequence[Result]) -> dict[str, tuple[str, str]]:
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(dict.fromkeys(map(_curve, rows)))}


def _speedup(row: Result) -> float | None:
    found = row.speed.get(Format.ONNX.value)
    return None if found is None or found.speedup.value is None else float(found.speedup.value)


def _pair(found: object) -> str:
    before, after = getattr(found, "before", None), getattr(found, "after", None)
    return NONE if before is None or after is None else f"{before:.1f} → {after:.1f}"


def _worst_class(row: Result) -> str:
    if not row.changes:
        return NONE
    worst = min(row.changes.by_class, key=lambda each: each.after - each.before)
    return f"{worst.label}: {worst.after - worst.before:+.1f}"


def _saliency(row: Result) -> str:
    found = row.changes.saliency if row.changes else None
    return NONE if found is None or found.correlation is None else f"{found.correlation:.2f}"


def _robust(row: Result, name: str) -> str:
    return next((_pair(each) for each in (row.changes.robustness if row.changes else ()) if each.name == name), NONE)
