"""How figures are shown, in the terminal and on the page: the columns of the table, and numbers for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.bench.results import Cell
from edge.vocabulary import Measurement, Precision, absent

NONE = absent("", "not in these results")
#: Meter or model -> what it covers.
METERS = {
    "rapl": "measured at the processor's package, idle power subtracted",
    "ina3221": "measured at the board's supply, idle power subtracted",
    "pmic": "measured by the power controller, idle power subtracted",
    "battery": "measured at the battery, idle power subtracted",
    "nvml": "measured by the graphics card, idle power subtracted",
    "meter": "measured by an external meter",
    "modelled": "modelled: multiplications and bytes moved, at 45 nm",
}


@dataclass(frozen=True)
class Column:
    """A column: its heading with the unit, what stands in a row, and one line of explanation for the page."""

    head: str
    text: Callable[[Cell], str]
    about: str


def number(figure: Measurement, scale: float = 1.0, digits: int = 3) -> str:
    """A figure in ``digits`` significant digits, or a dash where it is null."""
    if figure.value is None:
        return "–"
    value = figure.value * scale
    if value == 0 or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def fixed(figure: Measurement, digits: int = 2) -> str:
    return "–" if figure.value is None else f"{figure.value:.{digits}f}"


def kernels(cell: Cell) -> str:
    """``2/4`` compute nodes in the reduced precision; a dash for fp32 and where nobody could look."""
    if cell.precision is Precision.FP32 or cell.kernels.reduced is None:
        return "–"
    return f"{cell.kernels.reduced}/{cell.kernels.total}"


MIB, KIB = 1 / (1 << 20), 1 / (1 << 10)

#: What a cell was asked for with; shown where the cells differ in it.
SETTINGS = (
    Column("target", lambda c: c.target, "how it was run"),
    Column("device", lambda c: c.device, "the machine, or the device that it stood for"),
    Column("scenario", lambda c: c.scenario, "how inferences were asked for"),
    Column("threads", lambda c: str(c.threads), "that the runtime was given"),
    Column("batch", lambda c: str(c.batch), "samples in one call"),
    Column("CPUs", lambda c: "all" if c.affinity is None else ",".join(map(str, c.affinity)), "that the worker could run on"),
    Column(
        "shape", lambda c: ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in c.shapes.items()) or "as judged", "of the inputs, without the batch"
    ),
)
COLUMNS = (
    Column("artifact", lambda c: c.label, "format, precision, and the architecture where the file is made for one"),
    Column("status", lambda c: c.status.value, "ok, exported (made, no runtime here can run it), failed, unsupported, unavailable"),
    Column("top-1 %", lambda c: fixed(c.accuracy.top1), "share of the test images classified correctly"),
    Column("agree %", lambda c: fixed(c.agreement.top1), "share of the test images with the same class as the Paddle model"),
    Column("p50 ms", lambda c: number(c.latency.p50), "median latency, host array in to host array out, batch and threads as stated"),
    Column("p90 ms", lambda c: number(c.latency.p90), "90th percentile"),
    Column("p99 ms", lambda c: number(c.latency.p99), "99th percentile"),
    Column("min ms", lambda c: number(c.latency.min), "fastest call"),
    Column("n", lambda c: fixed(c.latency.count, 0), "timed calls, of all processes"),
    Column("per s", lambda c: number(c.throughput), "samples a second, over the whole time of the loop"),
    Column("load ms", lambda c: number(c.latency.load), "making the model ready, after the runtime is imported"),
    Column("first ms", lambda c: number(c.latency.first), "the first inference"),
    Column("peak MiB", lambda c: number(c.memory.peak_rss, MIB), "peak resident memory of the process"),
    Column("base MiB", lambda c: number(c.memory.baseline_rss, MIB), "of that, the runtime imported and no model"),
    Column("model MiB", lambda c: number(c.memory.model_rss, MIB), "what the loaded, warm model adds"),
    Column("cpu ms", lambda c: number(c.energy["cpu_time"], 1e3), "CPU time of all threads per inference, a proxy of energy"),
    Column("M instr", lambda c: number(c.energy.get("instructions", NONE), 1e-6), "millions of instructions per inference, counted"),
    *(
        Column(f"{name} mJ", lambda c, key=f"energy_{name}": number(c.energy.get(key, NONE)), f"energy per inference, {about}")  # type: ignore[misc]
        for name, about in METERS.items()
    ),
    Column("M MACs", lambda c: number(c.macs, 1e-6), "millions of multiplications with their additions for one sample, counted"),
    Column("size KiB", lambda c: number(c.size, KIB), "model files on disk"),
    Column("kernels", kernels, "compute nodes that ran in the reduced precision, of all"),
)


def filled_columns(cells: Sequence[Cell]) -> list[Column]:
    """The columns in which a cell has a figure, and the settings in which the cells differ."""
    settings = [column for column in SETTINGS if len({column.text(cell) for cell in cells}) > 1]
    found = [column for column in (*COLUMNS[2:], *_own(cells)) if any(column.text(cell) != "–" for cell in cells)]
    return [*COLUMNS[:2], *settings, *found]


def _own(cells: Sequence[Cell]) -> list[Column]:
    def column(head: str, group: Callable[[Cell], dict[str, Measurement]], name: str, about: str) -> Column:
        return Column(head, lambda c: number(group(c).get(name, NONE)), about)

    units = {name: figure.unit for cell in cells for name, figure in cell.figures.items()}
    metrics = {name for cell in cells for name in cell.accuracy.metrics}
    heads = {name: name.replace("_", " ") + ("" if unit in ("1", "count", "quanta") else f" {unit}") for name, unit in units.items()}
    figures = [column(head, lambda c: c.figures, name, "of the scenario or the target") for name, head in heads.items()]
    return [*(column(name, lambda c: c.accuracy.metrics, name, "a metric of the user's") for name in sorted(metrics)), *figures]
