"""What results say of one artifact on a device: figures from the device itself, from emulating its processor, or a prediction; nothing else counts.

A figure that was measured on another machine never stands for the device's latency, memory or energy. It lends one ratio: how much longer than its
median the tail of a latency is.

Results may be a stranger's: a figure with another unit or provenance than its place asks for, or of an impossible size, is taken as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from edge.bench.energy import SECONDS_PER_DAY
from edge.bench.predict import Prediction, predict_latency
from edge.bench.results import ENERGY_UNITS, Cell
from edge.bench.worker.machine import TELLING_FLAGS
from edge.devices.figures import MOST
from edge.devices.profile import Profile
from edge.environments import arch_of
from edge.vocabulary import Measurement, Provenance, Status, absent

#: Scenarios whose queries are several samples, or have no times; and those that wait for the next query, so that their rate is not the model's.
SEVERAL, PACED = ("multi-stream", "offline"), ("camera", "server")
UNCOUNTED = "not measured on the device, and not counted: {0}"


@dataclass(frozen=True)
class Evidence:
    """All cells of one artifact with one number of threads, all on a graphics card or none, as seen from one device."""

    profile: Profile
    cells: tuple[Cell, ...]

    @cached_property
    def there(self) -> list[Cell]:
        """Measured on the device itself; a failed one says nothing of its processor, and is believed."""
        return [cell for cell in self._named if cell.status is not Status.OK or self._is_alike(cell, kernels=cell.target != "gpu")]

    @property
    def mistaken(self) -> list[Cell]:
        """They carry the device's name, and were measured on another processor."""
        return [cell for cell in self._named if cell not in self.there]

    @property
    def _named(self) -> list[Cell]:
        itself = ("local", "gpu")
        return [cell for cell in self.cells if cell.device == self.profile.name and (cell.target in itself or cell.target.startswith("ssh:"))]

    @property
    def next_command(self) -> str:
        """What gives figures of this device: its processor emulated, where there is an emulator of it, else the device."""
        target = "qemu" if self.profile.qemu_cpu else "ssh:HOST"
        return f"edge bench ARTIFACT --target {target} --device {self.profile.name}"

    @property
    def on_card(self) -> bool:
        return self.cells[0].target == "gpu"

    @cached_property
    def emulated(self) -> list[Cell]:
        """Run under emulation of a processor with the same features: the same instructions, and the same memory."""
        return [cell for cell in self.cells if cell.target == "qemu" and (cell.device == self.profile.name or self._is_alike(cell))]

    @cached_property
    def limited(self) -> list[Cell]:
        """Run on another machine, within the memory that the profile gives a model now: a profile may have changed since."""
        mine = [cell for cell in self.cells if cell.target == "limited" and cell.device == self.profile.name]
        limits = [cell.settings.get("limits") for cell in mine]
        return [cell for cell, each in zip(mine, limits, strict=True) if isinstance(each, dict) and each.get("memory") == self.profile.memory_limit]

    @cached_property
    def latency(self) -> Prediction:
        """The median in ms, measured on the device or modelled."""
        measured = self._longest("p50")
        if measured.value is not None:
            return Prediction(measured, "measured on the device")
        first, work = self.cells[0], next((cell.work for cell in self.cells if cell.work), None)
        return predict_latency(self.profile, first.format, first.precision, threads=first.threads, work=work, instructions=self.instructions)

    @property
    def instructions(self) -> Measurement:
        """Per inference, counted under emulation."""
        found = _largest((cell.energy.get("instructions") for cell in _ok(self.emulated)), "count", "counted")
        return found if found.value is not None else absent("count", UNCOUNTED.format(self.next_command))

    @property
    def latency_p99(self) -> Measurement:
        """In ms. Of a prediction, the tail is as much longer than the median as it is where the artifact was measured."""
        measured = self._longest("p99")
        if measured.value is not None:
            return measured
        predicted, tail = self.latency.latency, self.tail
        if predicted.value is None or predicted.provenance == "measured":
            return absent("ms", predicted.reason or "too few samples were timed on the device: raise min_count")
        if tail is None:  # no tail is shorter than its median
            low = predicted.interval[0] if predicted.interval else predicted.value
            return predicted.model_copy(update={"interval": (low, float("inf"))})
        return _over(predicted, lambda median: median * tail, lowest=predicted.interval and predicted.interval[0])

    @property
    def frame_rate(self) -> Measurement:
        """Single inferences a second."""
        measured = _sound((cell.throughput for cell in _ok(self.there) if cell.scenario not in PACED), "1/s", "measured")
        if measured:
            return min(measured, key=_value)
        return _over(self.latency.latency, lambda median: 1e3 / median, unit="1/s")

    @property
    def memory(self) -> Measurement:
        """Peak resident memory of the process, B."""
        measured = _largest((cell.memory.peak_rss for cell in _ok(self.there)), "B", "measured")
        if measured.value is not None:
            return measured
        counted = _largest((cell.memory.peak_rss for cell in _ok(self.emulated)), "B", "counted")
        return counted if counted.value is not None else absent("B", UNCOUNTED.format(self.next_command))

    @property
    def storage(self) -> Measurement:
        """B of the files, the same everywhere."""
        found = _largest((cell.size for cell in self.cells), "B", "counted")
        return found if found.value is not None else absent("B", "its size is not in the results")

    @property
    def energy_per_day(self) -> Measurement:
        """J above what the device draws idle, at the frame rate that is asked for, or as many frames as it manages."""
        return self._per_day(lambda power_mw: power_mw * SECONDS_PER_DAY / 1e3, "J")

    @property
    def battery_life(self) -> Measurement:
        """Hours on the device's battery, idle power included."""
        power, battery = self.profile.power, self.profile.budgets.battery_capacity
        if power is None or battery is None:
            return absent("h", "the profile states no power or no battery")
        idle_mw, capacity_mwh = power.idle.base * 1e3, battery.base / 3.6
        return self._per_day(lambda power_mw: capacity_mwh / (idle_mw + power_mw), "h")

    def _per_day(self, of_mean_power: Callable[[float], float], unit: str) -> Measurement:
        """A function of the mean power in mW that inferences add."""
        wanted, power = self.profile.budgets.frame_rate, self.profile.power
        if wanted is None:
            return absent(unit, "the profile asks for no frame rate")
        metered = self._metered
        if metered.value is not None:
            return _over(metered, lambda mj: of_mean_power(mj * self._kept_up(wanted.base)), unit=unit)
        if power is None or self.on_card:
            what = "states no power" if power is None else "states the power of processor cores, not of its graphics card"
            return absent(unit, f"no meter answered on the device, and the profile {what}")
        above_idle_mw = (power.busy_core.base - power.idle.base) * 1e3
        return _over(self._busy_cores(wanted.base), lambda cores: of_mean_power(above_idle_mw * cores), unit=unit, provenance="modelled")

    @property
    def _metered(self) -> Measurement:
        """mJ of an inference above idle, by a meter on the device."""
        names = [name for name in ENERGY_UNITS if name.startswith("energy_") and name != "energy_modelled"]
        return _largest((cell.energy.get(name) for cell in _ok(self.there) for name in names), "mJ", "measured")

    def _kept_up(self, wanted: float) -> float:
        """Inferences a second, of those that are asked for."""
        return min(wanted, self.frame_rate.value or wanted)

    def _busy_cores(self, wanted: float) -> Measurement:
        """On average, at ``wanted`` inferences a second or as many as it manages; predicted, all its threads are busy for the whole latency."""
        measured = _largest((cell.energy.get("cpu_time") for cell in _ok(self.there)), "s", "measured")
        if measured.value is not None:
            return _over(measured, lambda seconds: seconds * self._kept_up(wanted), unit="1")
        return _over(self.latency.latency, lambda ms: self.cells[0].threads * min(1.0, wanted * ms / 1e3), unit="1")

    @property
    def tail(self) -> float | None:
        """p99 over p50 of single inferences, the largest that was measured anywhere."""
        ratios = (_value(p99) / _value(p50) for cell in _single(self.cells) for p50 in _times(cell, "p50") for p99 in _times(cell, "p99"))
        return max((ratio for ratio in ratios if ratio >= 1), default=None)

    def _longest(self, name: str) -> Measurement:
        return _largest((figure for cell in _single(self.there) for figure in _times(cell, name)), "ms", "measured")

    def _is_alike(self, cell: Cell, kernels: bool = True) -> bool:
        """Whether it ran on such a processor; with ``kernels`` on one with the same features, as far as kernels are chosen by them."""
        machine = cell.environment.get("machine")
        return isinstance(machine, str) and arch_of(machine) == self.profile.arch and not (kernels and self._differences(cell))

    def _differences(self, cell: Cell) -> str:
        """In which features its processor differs from the profile's, in words; empty where in none."""
        isa = cell.environment.get("isa")
        if not isinstance(isa, list):
            return "does not say what it has"
        has, wanted = {*map(str, isa)}, {*self.profile.cluster.isa} & {*TELLING_FLAGS}
        sides = {"has": sorted(has - wanted), "lacks": sorted(wanted - has)}
        return " and ".join(f"{verb} {', '.join(names)[:200]}" for verb, names in sides.items() if names)

    def unlike(self, cell: Cell) -> str:
        """In what it is another processor, in words."""
        return self._differences(cell) or "is of another architecture"


def _ok(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.status is Status.OK]


def _single(cells: Iterable[Cell]) -> list[Cell]:
    """Whose times are those of one sample."""
    return [cell for cell in _ok(cells) if cell.scenario not in SEVERAL]


def _times(cell: Cell, name: str) -> list[Measurement]:
    return _sound([getattr(cell.latency, name)], "ms", "measured")


def _sound(figures: Iterable[Measurement | None], unit: str, provenance: Provenance) -> list[Measurement]:
    """Those that are what they should be, without the intervals, which decide nothing of what was obtained."""
    return [
        figure.model_copy(update={"interval": None})
        for figure in figures
        if figure and figure.value is not None and (figure.unit, figure.provenance) == (unit, provenance) and 1 / MOST <= figure.value <= MOST
    ]


def _value(figure: Measurement) -> float:
    return figure.value or 0.0


def _largest(figures: Iterable[Measurement | None], unit: str, provenance: Provenance) -> Measurement:
    """The worst case of those that are sound."""
    return max(_sound(figures, unit, provenance), key=_value, default=absent(unit, "not measured on the device"))


def _over(
    figure: Measurement,
    function: Callable[[float], float],
    *,
    unit: str | None = None,
    lowest: float | None = None,
    provenance: Provenance | None = None,
) -> Measurement:
    """A monotone function of a figure and of the ends of its interval. ``lowest``: the lower end, where the function does not give it."""
    change: dict[str, object] = {"unit": unit or figure.unit, "provenance": provenance or figure.provenance}
    if figure.value is not None:
        change["value"] = function(figure.value)
        if figure.interval:
            ends = sorted(function(end) for end in figure.interval)
            change["interval"] = (ends[0] if lowest is None else lowest, ends[1])
    return figure.model_copy(update=change)
