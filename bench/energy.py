"""Energy from counted work, by a published table of picojoules, and what it comes to in a day and on a battery.

All of it is modelled: figures of one process from one paper, for the arithmetic and the memory alone. What a processor spends on fetching and
decoding instructions, which is most of its energy (Horowitz 2014), is not in them. They rank cells and say where the energy goes; they are no
measurement of a board.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from edge.artifact import LayerWork, Work
from edge.vocabulary import Measurement, Precision, Provenance

#: What is taken for the way that data comes, see `EnergyTable.per_byte`.
Case = Literal["low", "usual", "high"]
CASES: tuple[Case, ...] = ("low", "usual", "high")
#: From the weakest to the strongest.
STRENGTH: tuple[Provenance, ...] = ("modelled", "counted", "measured")
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Arithmetic:
    """Of one precision: pJ for a multiplication, pJ for the addition to its sum, bytes of an element."""

    multiply: float
    add: float
    bytes: int

    @property
    def mac(self) -> float:
        """pJ."""
        return self.multiply + self.add


@dataclass(frozen=True)
class EnergyTable:
    """Energies of operations, and of a byte from memory in pJ.

    Attributes:
        on_chip: from SRAM. off_chip: from DRAM; off_chip_most is the upper end of its range.
    """

    source: str
    arithmetic: Mapping[Precision, Arithmetic]
    on_chip: float
    off_chip: float
    off_chip_most: float

    def per_byte(self, case: Case) -> tuple[float, float]:
        """pJ for a byte of the weights and of the activations.

        ``usual``: the weights come from DRAM, once an inference, and the activations stay on the chip. ``low``: the weights stay there too, as
        those of a small net do from one inference to the next. ``high``: both come from DRAM, at the upper end of its range.
        """
        if case == "high":
            return self.off_chip_most, self.off_chip_most
        return (self.on_chip if case == "low" else self.off_chip), self.on_chip


#: 45 nm, 0.9 V. The paper's table gives, in pJ: integer add 0.03 (8 bit), 0.1 (32 bit); integer multiply 0.2 (8 bit); float add 0.4 (16 bit),
#: 0.9 (32 bit); float multiply 1.1 (16 bit), 3.7 (32 bit); 64 bits from an 8 KB cache 10; 64 bits from DRAM 1300 to 2600. Han et al. 2016 ("EIE",
#: table I) have 5 for 32 bits of SRAM and 640 for 32 bits of DRAM. int8 products are added up in 32 bits, so theirs is that addition. bf16 is not
#: in the paper: its multiplication is taken as that of fp16, which has a wider multiplier, and its addition as that of fp32.
HOROWITZ_2014 = EnergyTable(
    source="M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, 45 nm; quoted second-hand",
    arithmetic={
        Precision.FP32: Arithmetic(multiply=3.7, add=0.9, bytes=4),
        Precision.FP16: Arithmetic(multiply=1.1, add=0.4, bytes=2),
        Precision.BF16: Arithmetic(multiply=1.1, add=0.9, bytes=2),
        Precision.INT8: Arithmetic(multiply=0.2, add=0.1, bytes=1),
    },
    on_chip=5 / 4,
    off_chip=640 / 4,
    off_chip_most=2600 / 8,
)


def model_energy(
    work: Work | None,
    precision: Precision,
    table: EnergyTable = HOROWITZ_2014,
    *,
    float_layers: Collection[str] = (),
) -> Measurement:
    """Energy of one inference of one sample in mJ, modelled: MACs and bytes moved, each times its pJ in the table. Its interval is that of the cases.

    Every operator reads its weights once. Elements that no layer moves, and biases, are taken to have the artifact's precision.

    Args:
        work: of the manifest; None gives null.
        float_layers: weights of the layers that an int8 artifact computes in fp32, `edge.artifact.Int8.float_layers`.
    """
    if work is None:
        return Measurement(value=None, unit="mJ", provenance="modelled", reason="the work of the model was not counted when it was exported")
    low, usual, high = (_energy(work, precision, table.per_byte(case), table, float_layers) for case in CASES)
    return Measurement(value=usual, unit="mJ", provenance="modelled", interval=(low, high))


def _energy(work: Work, precision: Precision, per_byte: tuple[float, float], table: EnergyTable, float_layers: Collection[str]) -> float:
    """mJ."""
    weight_pj, activation_pj = per_byte
    picojoules = 0.0
    for layer in (*work.layers, _beside_the_layers(work)):
        element = table.arithmetic[Precision.FP32 if layer.name in float_layers else precision]
        moved = layer.weight_elements * weight_pj + (layer.input_elements + layer.output_elements) * activation_pj
        picojoules += layer.macs * element.mac + moved * element.bytes
    return picojoules * 1e-9


def _beside_the_layers(work: Work) -> LayerWork:
    """What the operators that are no layers move; reads and writes together, as ``input_elements``."""
    return LayerWork(
        name="",
        kind="",
        macs=0,
        weight_elements=work.weight_elements - sum(layer.weight_elements for layer in work.layers),
        input_elements=work.activation_elements - sum(layer.input_elements + layer.output_elements for layer in work.layers),
        output_elements=0,
    )


def device_power_energy(cpu_seconds: Measurement, idle_w: float, busy_w_per_core: float) -> Measurement:
    """Energy that one inference adds to what the device draws anyway, in mJ, modelled.

    Args:
        cpu_seconds: of all threads, per inference, in s.
        idle_w: what the device draws idle, in W. busy_w_per_core: what it draws with one core busy, the idle power included, in W.

    Raises:
        ValueError: a power that is negative, or less busy than idle; another unit.
    """
    if not 0 <= idle_w <= busy_w_per_core < float("inf"):
        raise ValueError(f"a device that draws {idle_w} W idle and {busy_w_per_core} W with a core busy")
    seconds = _value(cpu_seconds, "s")
    value = None if seconds is None else seconds * (busy_w_per_core - idle_w) * 1e3
    return Measurement(value=value, unit="mJ", provenance="modelled", reason=cpu_seconds.reason if value is None else None)


def per_day(energy: Measurement, frames_per_second: float, idle: Measurement | None = None) -> Measurement:
    """Energy of a camera in a day, in J; null where one of the two is.

    Args:
        energy: of one inference, in mJ, without the idle power. frames_per_second: one inference each.
        idle: power that the device draws anyway, in mW; without it the energy is that of the inferences alone.

    Raises:
        ValueError: a figure that is negative or has another unit.
    """
    power = _mean_power(energy, frames_per_second, idle)
    return power.model_copy(update={"unit": "J", "value": None if power.value is None else power.value * SECONDS_PER_DAY / 1e3})


def battery_hours(capacity_mwh: float, energy: Measurement, frames_per_second: float, idle: Measurement | None = None) -> Measurement:
    """Hours that a battery lasts, in h; null where the energy or the idle power is, or nothing draws any. The arguments are those of `per_day`.

    Args:
        capacity_mwh: what the battery gives, in mWh: its capacity in mAh times its voltage, less what its converter loses.

    Raises:
        ValueError: a figure that is negative or has another unit.
    """
    if not 0 <= capacity_mwh < float("inf"):
        raise ValueError(f"a battery of {capacity_mwh} mWh")
    power = _mean_power(energy, frames_per_second, idle)
    hours = capacity_mwh / power.value if power.value else None
    reason = "nothing draws power" if power.value == 0 else power.reason
    return power.model_copy(update={"unit": "h", "value": hours, "reason": reason})


def weakest(*figures: Measurement) -> Provenance:
    """The provenance of what is computed from the figures: modelled before counted before measured."""
    return min((figure.provenance for figure in figures), key=STRENGTH.index)


def _mean_power(energy: Measurement, frames_per_second: float, idle: Measurement | None) -> Measurement:
    """mW: of so many inferences a second, and idle."""
    if not 0 <= frames_per_second < float("inf"):
        raise ValueError(f"{frames_per_second} frames a second")
    figures = (energy,) if idle is None else (energy, idle)
    inference, anyway = _value(energy, "mJ"), 0.0 if idle is None else _value(idle, "mW")
    value = None if inference is None or anyway is None else inference * frames_per_second + anyway
    reasons = [figure.reason for figure in figures if figure.value is None]
    return Measurement(value=value, unit="mW", provenance=weakest(*figures), reason=reasons[0] if reasons else None)


def _value(figure: Measurement, unit: str) -> float | None:
    if figure.unit != unit or (figure.value is not None and not (isfinite(figure.value) and figure.value >= 0)):
        raise ValueError(f"{figure.value} {figure.unit}, where {unit} of 0 or more are needed")
    return figure.value
