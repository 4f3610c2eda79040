"""The accuracy-latency-size plot, as inline SVG that needs no network and no script."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.bench.results import Cell
from edge.vocabulary import Format, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colour-blind safe (Okabe and Ito 2008): hue is the format, marker the precision.
COLOURS = {Format.ONNX: "#0072B2", Format.PADDLE_INFERENCE: "#D55E00", Format.PADDLE_LITE: "#009E73"}
MARKERS = {"fp32": "o", "fp16": "s", "bf16": "^", "int8": "D"}
#: Marker area in points^2 for the largest and the smallest file.
AREA_LARGE, AREA_SMALL = 420.0, 60.0
#: Smallest height of the plot, in points of accuracy.
MIN_SPAN = 1.0
#: Heights of the labels over or under their point, in typographic points.
LABEL_OFFSETS = (14, -14, 44, -44)


@dataclass(frozen=True)
class _Point:
    """A cell with latency in ms, top-1 in % and size in bytes."""

    cell: Cell
    latency: float
    top1: float
    size: float


def trade_off_svg(cells: Sequence[Cell]) -> str | None:
    """Latency against top-1, marker area by size, of the cells measured as the first one was; None when none has all three figures."""
    points = [point for cell in cells if (point := _point(cell))]
    shown = [point for point in points if _setting(point.cell) == _setting(points[0].cell)]
    if not shown:
        return None
    from matplotlib.ticker import FormatStrFormatter

    with drawing() as figure:
        axes = figure.subplots()
        largest = max(point.size for point in shown)
        for p in shown:
            area = max(AREA_SMALL, AREA_LARGE * p.size / largest)
            colour, marker = COLOURS[p.cell.format], MARKERS[p.cell.precision.value]
            axes.scatter(p.latency, p.top1, s=area, c=colour, marker=marker, alpha=0.85, edgecolors="white", linewidths=0.8)
        _labels(axes, shown)
        axes.set_xscale("log")
        axes.set_xlabel("median latency, ms (log scale; left is better)")
        axes.set_ylabel("top-1 accuracy, % (up is better)")
        axes.grid(alpha=0.25, which="both")
        axes.margins(x=0.22, y=0.25)
        _widen(axes)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
        axes.tick_params(axis="x", which="minor", labelsize=8)
        _legend(axes, [p.cell for p in shown])
        return svg_of(figure)


@contextlib.contextmanager
def drawing() -> Iterator[Figure]:
    """An empty figure in the style of the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "edge", "text.parse_math": False}):
        yield Figure(figsize=(9, 4.8), layout="constrained")


def svg_of(figure: Figure) -> str:
    """Within `drawing`: the same figure gives the same bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)


def _point(cell: Cell) -> _Point | None:
    latency, top1, size = cell.latency.p50.value, cell.accuracy.top1.value, cell.size.value
    if cell.status is not Status.OK or not latency or top1 is None or not size:
        return None
    return _Point(cell, float(latency), float(top1), float(size))


def _setting(cell: Cell) -> tuple[object, ...]:
    return cell.target, cell.device, cell.scenario, cell.threads, cell.batch, cell.affinity, tuple(cell.shapes.items())


def _widen(axes: Axes) -> None:
    """At least one point of accuracy from bottom to top, so that noise does not look like a difference."""
    low, high = axes.get_ylim()
    if high - low < MIN_SPAN:
        middle = (low + high) / 2
        axes.set_ylim(middle - MIN_SPAN / 2, middle + MIN_SPAN / 2)


def _labels(axes: Axes, points: Sequence[_Point]) -> None:
    """Name each point; neighbours in latency take turns at four heights, so that names do not cover each other."""
    for index, p in enumerate(sorted(points, key=lambda p: p.latency)):
        offset = LABEL_OFFSETS[index % len(LABEL_OFFSETS)]
        text = f"{p.cell.label}  {p.size / 1024:,.0f} KiB"
        lead = {"arrowstyle": "-", "lw": 0.5, "color": "#999"} if abs(offset) > 20 else None
        axes.annotate(
            text, (p.latency, p.top1), xytext=(0, offset), textcoords="offset points", ha="center", va="bottom" if offset > 0 else "top",
            fontsize=8, arrowprops=lead,
        )  # fmt: skip


def _legend(axes: Axes, cells: Sequence[Cell]) -> None:
    from matplotlib.lines import Line2D

    formats = [Line2D([], [], marker="o", ls="", color=COLOURS[f], label=f.value) for f in COLOURS if any(c.format is f for c in cells)]
    precisions = [Line2D([], [], marker=m, ls="", color="#555", label=p) for p, m in MARKERS.items() if any(c.precision.value == p for c in cells)]
    axes.legend(handles=[*formats, *precisions], fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), title="area: file size", title_fontsize=8)
