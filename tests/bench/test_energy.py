"""The energy proxy: by hand on small figures, and what must hold for any work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.artifact import LayerWork, Work
from edge.bench.energy import HOROWITZ_2014, Case, battery_hours, device_power_energy, model_energy, per_day, weakest
from edge.vocabulary import Measurement, Precision, Provenance, absent

ELEMENTS = st.integers(0, 10**9)
CASES: list[Case] = ["low", "usual", "high"]


@st.composite
def works(draw: st.DrawFn) -> Work:
    layers = tuple(
        LayerWork(name=f"w{i}", kind="Conv", macs=draw(ELEMENTS), weight_elements=draw(ELEMENTS), input_elements=draw(ELEMENTS), output_elements=7)
        for i in range(draw(st.integers(0, 3)))
    )
    return total(layers, draw(ELEMENTS), draw(ELEMENTS))


def total(layers: tuple[LayerWork, ...], weights: int = 0, activations: int = 0) -> Work:
    """The work of the layers, and elements beside them."""
    return Work(
        macs=sum(layer.macs for layer in layers),
        weight_elements=weights + sum(layer.weight_elements for layer in layers),
        activation_elements=activations + sum(layer.input_elements + layer.output_elements for layer in layers),
        layers=layers,
    )


def layer(name: str = "w", macs: int = 0, weights: int = 0, reads: int = 0, writes: int = 0) -> LayerWork:
    return LayerWork(name=name, kind="Conv", macs=macs, weight_elements=weights, input_elements=reads, output_elements=writes)


def mj(work: Work, precision: Precision = Precision.FP32, case: Case = "usual", float_layers: tuple[str, ...] = ()) -> float:
    found = model_energy(work, precision, float_layers=float_layers)
    assert (found.unit, found.provenance, found.reason) == ("mJ", "modelled", None) and found.value is not None and found.interval is not None
    return {"low": found.interval[0], "usual": found.value, "high": found.interval[1]}[case]


def figure(value: float, unit: str, provenance: Provenance = "measured") -> Measurement:
    return Measurement(value=value, unit=unit, provenance=provenance)


@pytest.mark.parametrize(
    ("precision", "macs", "weights", "activations"),
    [
        (Precision.FP32, 4.6, 640, 5),
        (Precision.FP16, 1.5, 320, 2.5),
        (Precision.BF16, 2.0, 320, 2.5),
        (Precision.INT8, 0.3, 160, 1.25),
    ],
)
def test_the_table_s_picojoules_reach_the_figure(precision: Precision, macs: float, weights: float, activations: float) -> None:
    """In pJ, times 10^9 it is mJ."""
    assert mj(total((layer(macs=10**9),)), precision) == pytest.approx(macs)
    assert mj(total((layer(weights=10**9),)), precision) == pytest.approx(weights)
    assert mj(total((layer(reads=10**9),)), precision) == mj(total((layer(writes=10**9),)), precision) == pytest.approx(activations)
    assert mj(total((), weights=10**9, activations=10**9), precision) == pytest.approx(weights + activations)


def test_the_ends_of_the_range_are_all_on_the_chip_and_all_in_dram() -> None:
    work = total((layer(weights=10**9, reads=10**9),))
    assert [mj(work, case=case) for case in CASES] == pytest.approx([5 + 5, 640 + 5, 1300 + 1300])


def test_layers_kept_in_float_count_as_fp32() -> None:
    first, second = layer("first", 10**9, 10**6, 10**6, 10**6), layer("second", 10**9, 10**6, 10**6, 10**6)
    both = mj(total((first, second)), Precision.INT8, float_layers=("first",))
    assert both == pytest.approx(mj(total((first,))) + mj(total((second,)), Precision.INT8))
    assert mj(total((first, second)), Precision.INT8, float_layers=("first", "second")) == pytest.approx(mj(total((first, second))))


@given(works(), st.sampled_from(CASES))
def test_fewer_bits_never_cost_more(work: Work, case: Case) -> None:
    by_bits = [mj(work, precision, case) for precision in (Precision.INT8, Precision.FP16, Precision.BF16, Precision.FP32)]
    assert by_bits == sorted(by_bits)


@given(works(), st.sampled_from(list(Precision)))
def test_the_figure_lies_between_its_ends(work: Work, precision: Precision) -> None:
    ends = [mj(work, precision, case) for case in CASES]
    assert ends == sorted(ends)


@given(works(), st.sampled_from(list(Precision)), st.sampled_from(CASES), st.integers(1, 10**9))
def test_more_work_costs_more(work: Work, precision: Precision, case: Case, more: int) -> None:
    weights = work.weight_elements - sum(one.weight_elements for one in work.layers)
    activations = work.activation_elements - sum(one.input_elements + one.output_elements for one in work.layers)
    less = mj(work, precision, case)
    for added in (layer("v", macs=more), layer("v", weights=more), layer("v", reads=more), layer("v", writes=more)):
        assert mj(total((*work.layers, added), weights, activations), precision, case) > less
    assert mj(total(work.layers, weights + more, activations), precision, case) > less
    assert mj(total(work.layers, weights, activations + more), precision, case) > less


@pytest.mark.parametrize("precision", list(Precision))
def test_no_work_is_no_energy(precision: Precision) -> None:
    assert [mj(total(()), precision, case) for case in CASES] == [0, 0, 0]


def test_work_that_was_not_counted_is_null_with_a_reason() -> None:
    found = model_energy(None, Precision.INT8)
    assert found.value is None and (found.unit, found.provenance) == ("mJ", "modelled") and found.reason and "not counted" in found.reason


def test_the_table_says_where_it_comes_from_and_that_it_is_quoted() -> None:
    assert "ISSCC 2014" in HOROWITZ_2014.source and "second-hand" in HOROWITZ_2014.source


def test_a_day_of_a_camera() -> None:
    """2 mJ ten times a second are 20 mW, with 100 mW idle 120: for 86,400 s."""
    assert per_day(figure(2, "mJ"), 10) == figure(1728, "J")
    assert per_day(figure(2, "mJ"), 10, figure(100, "mW")) == figure(10368, "J")
    assert per_day(figure(2, "mJ"), 0).value == 0


def test_hours_of_a_battery() -> None:
    assert battery_hours(1200, figure(2, "mJ"), 10, figure(100, "mW")) == figure(10, "h")
    assert battery_hours(1200, figure(2, "mJ"), 10).value == 60
    still = battery_hours(1200, figure(2, "mJ"), 0)
    assert still.value is None and still.unit == "h" and still.reason == "nothing draws power"


def test_a_result_is_as_good_as_its_weakest_input() -> None:
    measured, counted, modelled = (figure(1, "mJ", way) for way in ("measured", "counted", "modelled"))
    assert [weakest(measured), weakest(measured, counted), weakest(counted, modelled, measured)] == ["measured", "counted", "modelled"]
    assert per_day(modelled, 1, figure(1, "mW")).provenance == per_day(measured, 1, figure(1, "mW", "modelled")).provenance == "modelled"
    assert battery_hours(1, measured, 1, figure(1, "mW", "counted")).provenance == "counted"


def test_what_was_not_obtained_stays_null_with_its_reason() -> None:
    lost, idle = absent("mJ", "no meter"), absent("mW", "no idle figure")
    for found in (per_day(lost, 1), battery_hours(1, lost, 1), per_day(lost, 1, idle)):
        assert found.value is None and found.reason == "no meter"
    assert per_day(figure(1, "mJ"), 1, idle).reason == battery_hours(1, figure(1, "mJ"), 1, idle).reason == "no idle figure"
    assert device_power_energy(absent("s", "no counter"), 1, 2) == Measurement(value=None, unit="mJ", provenance="modelled", reason="no counter")


def test_a_device_s_power_model() -> None:
    """50 ms on a core that takes the device from 2.5 W to 3.5 W."""
    assert device_power_energy(figure(0.05, "s"), 2.5, 3.5) == figure(50, "mJ", "modelled")
    assert device_power_energy(figure(0.05, "s"), 2.5, 2.5).value == 0


def test_other_units_and_impossible_figures_are_refused() -> None:
    good = figure(1, "mJ")
    wrongs: list[Callable[[], Measurement]] = [
        lambda: per_day(figure(1, "J"), 1),
        lambda: per_day(good, 1, figure(1, "W")),
        lambda: per_day(good, -1),
        lambda: per_day(good, float("nan")),
        lambda: per_day(figure(-1, "mJ"), 1),
        lambda: battery_hours(-1, good, 1),
        lambda: device_power_energy(figure(1, "ms"), 1, 2),
        lambda: device_power_energy(figure(1, "s"), 2, 1),
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError):
            wrong()
