"""The worker's readers of energy, memory and machine state: on this machine, and on fake trees of machines we do not have."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.test_worker import load_worker_module

NAMES = ["cpu_time", "instructions", "energy_rapl", "energy_ina3221", "energy_pmic", "energy_battery", "energy_nvml"]
Reading = tuple[float | None, str | None]

#: As printed by a Raspberry Pi 5 (github.com/leukipp/touchkio/issues/35).
PI_5 = """\
 3V7_WL_SW_A current(0)=0.12199130A
   3V3_SYS_A current(1)=0.15224510A
   1V8_SYS_A current(2)=0.17273960A
  DDR_VDD2_A current(3)=0.11613570A
  DDR_VDDQ_A current(4)=0.02941200A
   1V1_SYS_A current(5)=0.21763240A
    0V8_SW_A current(6)=0.50748360A
  VDD_CORE_A current(7)=1.54489000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00018315A
   0V8_AON_A current(16)=0.00390720A
      HDMI_A current(22)=0.01709400A
 3V7_WL_SW_V volt(8)=3.60605200V
   3V3_SYS_V volt(9)=3.31931300V
   1V8_SYS_V volt(10)=1.79682400V
  DDR_VDD2_V volt(11)=1.10842400V
  DDR_VDDQ_V volt(12)=0.60549390V
   1V1_SYS_V volt(13)=1.10219700V
    0V8_SW_V volt(14)=0.80146440V
  VDD_CORE_V volt(15)=0.88725180V
   3V3_DAC_V volt(20)=3.31501500V
   3V3_ADC_V volt(21)=3.31684600V
   0V8_AON_V volt(19)=0.79882700V
      HDMI_V volt(23)=4.90440000V
     EXT5V_V volt(24)=4.87894000V
      BATT_V volt(25)=2.50512600V
"""
PI_5_WATTS = 3.507050
PI_4 = 'vc_gencmd_read_response returned 1\nerror=1 error_msg="Command not registered"'


def load(name: str, member: str) -> Any:
    return getattr(load_worker_module(f"probes.{name}"), member)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


def measured(reader: Any, between: Callable[[], object] = lambda: None) -> Reading:
    reader.start()
    between()
    value, reason = reader.stop()
    assert (value is None) == bool(reason)
    return value, reason


def watch(monkeypatch: pytest.MonkeyPatch, *readings: float) -> None:
    """Let every look at the clock of the power readers give the next of these seconds; two belong to one sample."""
    monkeypatch.setattr(load_worker_module("probes.power"), "time", SimpleNamespace(monotonic=iter(readings).__next__))


def over_ten_seconds(monkeypatch: pytest.MonkeyPatch, reader: Any) -> Reading:
    reader.period = 1e6
    with monkeypatch.context() as patch:
        watch(patch, 100, 100, 110, 110)
        return measured(reader)


def script(folder: Path, body: str) -> str:
    path = folder / "vcgencmd"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


# the whole set


def test_readers_answer_or_say_why_on_this_machine() -> None:
    probes = load_worker_module("probes")
    energy = probes.Energy()
    energy.start()
    sum(range(100_000))
    answers = energy.stop()
    assert list(answers) == list(probes.ENERGY_PROBES) == NAMES
    for answer in answers.values():
        assert (answer["value"] is None) == bool(answer["reason"])
        assert answer["value"] is None or answer["value"] > 0
        assert answer["unit"] in ("s", "count", "mJ") and answer["provenance"] in ("measured", "counted")
    assert answers["cpu_time"]["value"] > 0 and answers["cpu_time"]["unit"] == "s"
    assert answers["instructions"]["unit"] == "count" and answers["instructions"]["provenance"] == "counted"


def test_a_machine_without_meters_gives_reasons_only(tmp_path: Path) -> None:
    readers = load_worker_module("probes").energy_readers(str(tmp_path), str(tmp_path / "vcgencmd"), SimpleNamespace())
    reasons = {name: measured(reader)[1] or "" for name, reader in readers.items()}
    assert "no RAPL package" in reasons["energy_rapl"] and "no INA3221" in reasons["energy_ina3221"]
    assert "there is no" in reasons["energy_pmic"] and "no battery" in reasons["energy_battery"] and "NVML" in reasons["energy_nvml"]


def test_a_reader_that_was_not_started_says_so() -> None:
    for reader in load_worker_module("probes").energy_readers().values():
        assert reader.stop() == (None, "the reader was not started")


def test_stopping_twice_harms_nothing() -> None:
    for reader in load_worker_module("probes").energy_readers().values():
        measured(reader)
        value, reason = reader.stop()
        assert (value is None) == bool(reason)


def test_the_cheap_counters_are_innermost() -> None:
    calls: list[str] = []

    class Spy:
        unit, provenance, scope = "s", "measured", None

        def __init__(self, name: str) -> None:
            self.name = name

        def start(self) -> None:
            calls.append(f"start {self.name}")

        def stop(self) -> Reading:
            calls.append(f"stop {self.name}")
            return 1.0, None

    energy = load_worker_module("probes").Energy({"cpu_time": Spy("a"), "energy_x": Spy("b")})
    energy.start()
    energy.stop()
    assert calls == ["start b", "start a", "stop a", "stop b"]


# RAPL


def package(root: Path, number: int, energy: int, limit: int = 10_000, name: str | None = None) -> Path:
    zone = root / f"intel-rapl:{number}"
    write(zone, name=name or f"package-{number}", energy_uj=energy, max_energy_range_uj=limit)
    write(root / f"intel-rapl:{number}:0", name="core", energy_uj=energy, max_energy_range_uj=limit)
    return zone


def test_rapl_adds_packages_but_neither_their_parts_nor_the_platform(tmp_path: Path) -> None:
    def set_to(first: int, second: int, platform: int) -> None:
        package(tmp_path, 0, first)
        package(tmp_path, 1, second)
        package(tmp_path, 2, platform, name="psys")
        write(tmp_path / "intel-rapl-mmio:0", name="package-0", energy_uj=first, max_energy_range_uj=10_000)

    set_to(1_000, 2_000, 3_000)
    reader = load("rapl", "Rapl")(str(tmp_path))
    assert measured(reader, lambda: set_to(1_500, 2_250, 9_000)) == (0.75, None)
    assert reader.scope == "2 processor packages"


def test_rapl_wraps_at_every_sample_it_takes(tmp_path: Path) -> None:
    package(tmp_path, 0, 9_000)
    reader = load("rapl", "Rapl")(str(tmp_path))
    reader.start()
    for energy in (500, 9_500, 100):
        package(tmp_path, 0, energy)
        reader._add()
    assert reader.stop() == (1.5 + 9.0 + 0.6, None)


@pytest.mark.parametrize("content", ["", "nonsense", "-5", "10001", "1e3", "9" * 30])
def test_rapl_garbage_is_no_figure(tmp_path: Path, content: str) -> None:
    package(tmp_path, 0, 9_000)
    reader = load("rapl", "Rapl")(str(tmp_path))
    assert measured(reader, lambda: (tmp_path / "intel-rapl:0" / "energy_uj").write_text(content))[0] is None


def test_rapl_unreadable_vanished_or_stuck(tmp_path: Path) -> None:
    zone = package(tmp_path, 0, 9_000)
    rapl = load("rapl", "Rapl")
    assert "did not move" in (measured(rapl(str(tmp_path)))[1] or "")
    assert "not readable" in (measured(rapl(str(tmp_path)), (zone / "energy_uj").unlink)[1] or "")
    assert "not readable" in (measured(rapl(str(tmp_path)))[1] or "")
    (zone / "energy_uj").mkdir()
    assert "not readable" in (measured(rapl(str(tmp_path)))[1] or "")


# a Jetson


def jetpack_5(drivers: Path, **rails: tuple[int, int]) -> Path:
    chip = drivers / "ina3221" / "1-0040" / "hwmon" / "hwmon3"
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        write(chip, **{f"in{number}_label": label, f"in{number}_input": millivolts, f"curr{number}_input": milliamperes})
    write(chip, in7_label="sum of shunt voltages", in7_input=12)
    return chip


def test_jetson_in_the_layout_of_jetpack_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = jetpack_5(tmp_path, VDD_CPU_GPU_CV=(5_000, 300), VDD_IN=(5_000, 1_000), VDD_SOC=(5_000, 200))
    reader = load("ina3221", "Ina3221")(str(tmp_path))
    assert over_ten_seconds(monkeypatch, reader) == (50_000.0, None) and reader.scope == "rail VDD_IN"
    write(chip, power2_input=4_000_000)
    assert over_ten_seconds(monkeypatch, reader) == (40_000.0, None)


def test_jetson_in_the_layout_of_jetpack_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = tmp_path / "ina3221x" / "6-0040" / "iio:device0"
    write(chip, rail_name_0="POM_5V_IN", in_power0_input=2_000, rail_name_1="POM_5V_GPU", in_power1_input=0)
    reader = load("ina3221", "Ina3221")(str(tmp_path))
    assert over_ten_seconds(monkeypatch, reader) == (20_000.0, None) and reader.scope == "rail POM_5V_IN"


def test_jetson_without_a_rail_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jetpack_5(tmp_path / "orin", VDD_GPU_SOC=(12_000, 100), VDD_CPU_CV=(12_000, 50), VIN_SYS_5V0=(5_000, 40))
    reader = load("ina3221", "Ina3221")(str(tmp_path / "orin"))
    assert over_ten_seconds(monkeypatch, reader) == (20_000.0, None) and reader.scope == "rail VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    jetpack_5(tmp_path / "other", VDD_A=(5_000, 1_000), VDD_B=(5_000, 1_000))
    value, reason = measured(load("ina3221", "Ina3221")(str(tmp_path / "other")))
    assert value is None and "VDD_A, VDD_B" in (reason or "")


@pytest.mark.parametrize("milliamperes", [-10, 0])
def test_a_running_board_draws_power(tmp_path: Path, milliamperes: int) -> None:
    jetpack_5(tmp_path, VDD_IN=(5_000, milliamperes))
    assert "not measuring" in (measured(load("ina3221", "Ina3221")(str(tmp_path)))[1] or "")


# a Raspberry Pi


def test_pi_5_sums_the_rails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("pmic", "watts")(PI_5) == pytest.approx(PI_5_WATTS, abs=1e-6)
    vcgencmd = script(tmp_path, f"[ \"$*\" = pmic_read_adc ] && cat <<'END'\n{PI_5}END")
    value, reason = over_ten_seconds(monkeypatch, load("pmic", "Pmic")(vcgencmd))
    assert reason is None and value == pytest.approx(10_000 * PI_5_WATTS, rel=1e-6)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"echo '{PI_4}'; exit 1", "Command not registered"),
        (f"echo '{PI_4}'", "only a Raspberry Pi 5"),
        ("", "only a Raspberry Pi 5"),
        ("echo VDD_CORE_A 'current(7)=?A'", "printed"),
        ("echo VDD_CORE_A 'current(7)=1.0V'", "printed"),
        ("echo VDD_CORE_A 'current(7)=1.0A'", "only one of"),
        ("echo HDMI_A 'current(7)=1.0A'; echo HDMI_V 'volt(7)=1.0V'; echo VDD_CORE_V 'volt(15)=0.8V'", "VDD_CORE"),
        ("echo VDD_CORE_A 'current(7)=-1.0A'; echo VDD_CORE_V 'volt(7)=1.0V'", "not measuring"),
        ("head -c 64 /dev/urandom", ""),
    ],
)
def test_no_figure_from_a_pi_that_does_not_answer(tmp_path: Path, body: str, reason: str) -> None:
    value, said = measured(load("pmic", "Pmic")(script(tmp_path, body)))
    assert value is None and reason in (said or "")


def test_a_command_that_hangs_is_given_up(tmp_path: Path) -> None:
    value, reason = measured(load("pmic", "Pmic")(script(tmp_path, "exec sleep 600"), timeout=0.05))
    assert value is None and "did not answer within 0.05 s" in (reason or "")


def test_a_command_that_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "vcgencmd"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    assert "cannot be run" in (measured(load("pmic", "Pmic")(str(path)))[1] or "")


# a battery


def test_battery_discharging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    battery = load("battery", "Battery")
    write(tmp_path / "AC", type="Mains", online=0)
    write(tmp_path / "mouse", type="Battery", scope="Device", status="Discharging", power_now=9_000_000)
    assert "no battery" in (measured(battery(str(tmp_path)))[1] or "")
    write(tmp_path / "BAT0", type="Battery", status="Discharging", power_now=5_000_000)
    reader = battery(str(tmp_path))
    assert over_ten_seconds(monkeypatch, reader) == (50_000.0, None) and reader.scope == "battery BAT0"
    write(tmp_path / "BAT1", type="Battery", status="Discharging", current_now=-500_000, voltage_now=4_000_000)
    assert over_ten_seconds(monkeypatch, battery(str(tmp_path))) == (70_000.0, None)
    write(tmp_path / "BAT1", status="Unknown")
    assert over_ten_seconds(monkeypatch, battery(str(tmp_path))) == (50_000.0, None)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_battery_on_mains_gives_no_figure(tmp_path: Path, status: str) -> None:
    write(tmp_path / "BAT0", type="Battery", status=status, power_now=5_000_000)
    assert f"not discharging: {status}" in (measured(load("battery", "Battery")(str(tmp_path)))[1] or "")


def test_battery_plugged_in_half_way(tmp_path: Path) -> None:
    write(tmp_path / "BAT0", type="Battery", status="Discharging", power_now=5_000_000)
    value, reason = measured(load("battery", "Battery")(str(tmp_path)), lambda: write(tmp_path / "BAT0", status="Charging"))
    assert value is None and "not discharging" in (reason or "")


def test_battery_that_tells_no_power(tmp_path: Path) -> None:
    write(tmp_path / "BAT0", type="Battery", status="Discharging")
    assert "current_now is not readable" in (measured(load("battery", "Battery")(str(tmp_path)))[1] or "")
    write(tmp_path / "BAT0", power_now=0)
    assert "0 mW" in (measured(load("battery", "Battery")(str(tmp_path)))[1] or "")


# NVIDIA cards


class FakeNvml:
    """Two cards. ``counters`` and ``powers`` are what each call gives, in turn; an exception is raised instead."""

    def __init__(self, counters: list[Any], powers: list[Any], cards: int = 2, processes: list[Any] | None = None) -> None:
        self.counters, self.powers, self.cards, self.processes = iter(counters), iter(powers), cards, iter(processes or [])

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self.cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= self.cards:
            raise RuntimeError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return ["GPU-a", "GPU-b"].index(uuid)

    def nvmlDeviceGetComputeRunningProcesses(self, card: int) -> list[Any]:
        value = self._next(self.processes)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in value]

    def nvmlDeviceGetTotalEnergyConsumption(self, card: int) -> Any:
        return self._next(self.counters)

    def nvmlDeviceGetPowerUsage(self, card: int) -> Any:
        return self._next(self.powers)

    def _next(self, values: Any) -> Any:
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return value


def test_nvml_counter_of_all_cards() -> None:
    reader = load("nvml", "Nvml")(FakeNvml([1_000, 2_000, 1_600, 2_050], []))
    assert measured(reader) == (650.0, None) and reader.scope == "2 NVIDIA cards"


def test_nvml_power_where_there_is_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = load("nvml", "Nvml")(FakeNvml([RuntimeError("Not Supported")], [1_000, 2_000, 2_000, 3_000]))
    assert over_ten_seconds(monkeypatch, reader) == (40_000.0, None)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FakeNvml([5, 5, 5, 5], []), "did not move"),
        (FakeNvml([5, 5, 4, 4], []), "did not move"),
        (FakeNvml([5, 5, RuntimeError("GPU is lost")], []), "GPU is lost"),
        (FakeNvml([5, 5, None], []), "TypeError"),
        (FakeNvml([RuntimeError("a")], [RuntimeError("Not Supported")]), "Not Supported"),
        (FakeNvml([RuntimeError("a")], [1, 2, float("nan"), 0]), "nan mW"),
        (FakeNvml([], [], cards=0), "no NVIDIA card"),
        (SimpleNamespace(), "NVML does not start"),
    ],
)
def test_nvml_without_an_answer(module: Any, reason: str) -> None:
    value, said = measured(load("nvml", "Nvml")(module))
    assert value is None and reason in (said or "")


def test_nvml_is_used_when_it_is_installed_and_missed_when_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([0, 0, 1, 1], []))
    assert measured(load("nvml", "Nvml")()) == (2.0, None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not installed" in (measured(load("nvml", "Nvml")())[1] or "")


@pytest.mark.parametrize(
    ("visible", "energy", "scope"),
    [("1", [(1, 2_000), (1, 2_050)], "1 NVIDIA card"), ("GPU-b, 0", [(1, 0), (0, 0), (1, 30), (0, 20)], "2 NVIDIA cards")],
)
def test_nvml_reads_the_cards_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str, energy: list[tuple[int, int]], scope: str
) -> None:
    asked: list[int] = []

    class Cards(FakeNvml):
        def nvmlDeviceGetTotalEnergyConsumption(self, card: int) -> Any:
            asked.append(card)
            return super().nvmlDeviceGetTotalEnergyConsumption(card)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    reader = load("nvml", "Nvml")(Cards([value for _, value in energy], []))
    assert measured(reader) == (50.0, None) and reader.scope == scope and asked == [card for card, _ in energy]


@pytest.mark.parametrize(("visible", "reason"), [("", "no NVIDIA card"), ("7", "Invalid Argument"), ("GPU-c", "NVML does not start")])
def test_nvml_says_which_card_it_does_not_find(monkeypatch: pytest.MonkeyPatch, visible: str, reason: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    value, said = measured(load("nvml", "Nvml")(FakeNvml([1, 2], [])))
    assert value is None and reason in (said or "")


def test_memory_of_this_process_on_its_cards() -> None:
    mine = os.getpid()
    memory = load("nvml", "gpu_memory")
    held = FakeNvml([], [], processes=[[(mine, 300), (1, 9_000)], [(mine, 200)]])
    assert memory(held) == {"value": 500, "reason": None}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FakeNvml([], [], processes=[[(1, 9_000)], []]), "in a container"),
        (FakeNvml([], [], processes=[[(os.getpid(), None)], []]), "memory of single processes"),
        (FakeNvml([], [], processes=[RuntimeError("GPU is lost")]), "GPU is lost"),
        (FakeNvml([], [], cards=0), "no NVIDIA card"),
        (SimpleNamespace(), "NVML does not start"),
    ],
)
def test_memory_on_a_card_that_cannot_be_read_is_no_figure(module: Any, reason: str) -> None:
    answer = load("nvml", "gpu_memory")(module)
    assert answer["value"] is None and reason in answer["reason"]


# power over time


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 1e6)), min_size=2, max_size=50))
def test_integration_agrees_with_numpy(points: list[tuple[float, float]]) -> None:
    times, powers = np.array(sorted(t for t, _ in points)), np.array([p for _, p in points])
    trapezoid = getattr(np, "trapezoid", None) or getattr(np, "trapz")  # noqa: B009
    found = load("power", "integrate")(list(zip(times.tolist(), powers.tolist(), strict=True)))
    assert found == pytest.approx(float(trapezoid(powers, times)), rel=1e-9, abs=1e-9)


def meter(read: Callable[[], float]) -> Any:
    """A power reader of the given function that samples as fast as it can."""
    reader = load("power", "PowerReader")()
    reader.milliwatts, reader.period = read, 1e-4
    return reader


def test_samples_stand_at_the_middle_of_their_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, 0, 2, 10, 12)
    reader = meter(iter([1_000.0, 3_000.0]).__next__)
    reader.period = 1e6
    assert measured(reader) == (20_000.0, None)


def test_the_thread_samples_until_it_is_stopped() -> None:
    many, calls = threading.Event(), itertools.count()

    def read() -> float:
        if next(calls) >= 5:
            many.set()
        return 1_000.0

    reader = meter(read)
    value, _ = measured(reader, many.wait)
    times = [at for at, _ in reader._samples]
    assert len(times) >= 6 and times == sorted(times) and value == pytest.approx(1_000 * (times[-1] - times[0]))
    assert not reader._sampler._thread.is_alive()


def test_a_meter_that_fails_in_the_thread_gives_no_figure() -> None:
    failed, readings = threading.Event(), iter([1_000.0, 1_000.0])

    def read() -> float:
        for value in readings:
            return value
        failed.set()
        raise ArithmeticError("the meter is gone")

    assert measured(meter(read), failed.wait) == (None, "ArithmeticError: the meter is gone")


# idle power


def test_idle_power_is_energy_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = load_worker_module("probes.idle")
    clock = SimpleNamespace(now=0.0, slept=[])
    clock.monotonic = lambda: clock.now

    def sleep(seconds: float) -> None:
        clock.slept.append(seconds)
        clock.now += seconds

    clock.sleep = sleep
    monkeypatch.setattr(idle, "time", clock)

    def reader(value: float | None) -> Any:
        return SimpleNamespace(start=lambda: None, stop=lambda: (value, None), reason=None if value else "none")

    assert idle.idle_power({"cpu_time": reader(5.0), "energy_a": reader(6_000.0), "energy_b": reader(None)}, 2.0) == {
        "energy_a": 3_000.0,
        "energy_b": None,
    }
    assert clock.slept == [2.0]
    assert idle.idle_power({"cpu_time": reader(5.0), "energy_b": reader(None)}, 2.0) == {"energy_b": None}
    assert clock.slept == [2.0], "without a meter nothing is slept"


def test_net_of_idle() -> None:
    net = load("idle", "net_of_idle")
    assert net(10_000.0, 1_500.0, 4.0) == 4_000.0
    assert net(1_000.0, 1_500.0, 4.0) == -5_000.0, "noise is not cut off"
    assert net(None, 1_500.0, 4.0) is None and net(10_000.0, None, 4.0) is None


# memory


def test_memory_of_this_process() -> None:
    memory = load_worker_module("probes").memory
    assert 0 < memory("VmRSS") <= memory("VmHWM") and memory("VmNone") is None
    resident = load("memory", "pss")()
    assert resident is None or 0 < resident < 2 * memory("VmHWM")


def test_memory_of_a_fake_kernel(tmp_path: Path) -> None:
    pss = load("memory", "pss")
    write(tmp_path, rollup="5587-7ffd ---p 0 00:00 0 [rollup]\nRss:  1832 kB\nPss:   338 kB\nPss_Dirty: 60 kB", bad="Pss: x")
    assert pss(str(tmp_path / "rollup")) == 338 * 1024
    assert pss(str(tmp_path / "bad")) is None and pss(str(tmp_path / "absent")) is None


# the state of the machine

KEYS = {
    *(
        "governor",
        "frequency_mhz",
        "temperature_c",
        "throttle_count",
        "under_voltage",
        "throttled_now",
        "load_1m",
        "busy_cpu_s",
        "clock",
        "monotonic",
    ),
}


def machine(root: Path) -> None:
    """A machine with cpufreq, sensors and thermal_throttle, on the CPUs that this process may use."""
    for cpu in os.sched_getaffinity(0):
        folder = root / "sys/devices/system/cpu" / f"cpu{cpu}"
        write(folder / "cpufreq", scaling_governor="performance", scaling_cur_freq=2_000_000)
        write(folder / "thermal_throttle", core_throttle_count=3)
    write(root / "sys/devices/system/cpu/cpu9999/cpufreq", scaling_governor="powersave", scaling_cur_freq=1)
    for zone, temperature in enumerate((41_500, 63_250, -274_000, 200_000)):
        write(root / "sys/class/thermal" / f"thermal_zone{zone}", temp=temperature)
    write(root / "proc", loadavg="0.52 0.58 0.59 1/467 12345", stat="cpu  1000 200 300 9000 500 10 20 30 400 0\ncpu0 1 1 1 1 1 1 1 1 1 1")


def test_state_of_this_machine() -> None:
    found = load("state", "state")()
    assert set(found) == KEYS and found["monotonic"] > 0 and found["busy_cpu_s"] > 0
    assert found["temperature_c"] is None or -40 <= found["temperature_c"] <= 150


def test_state_of_an_empty_machine_is_unknown(tmp_path: Path) -> None:
    found = load("state", "state")(str(tmp_path), str(tmp_path / "vcgencmd"))
    assert {key for key in KEYS if found[key] is not None} == {"clock", "monotonic"}


def test_state_of_a_fake_machine(tmp_path: Path) -> None:
    machine(tmp_path)
    found = load("state", "state")(str(tmp_path), script(tmp_path, '[ "$1" = get_throttled ] && echo throttled=0x50005'))
    cpus = len(os.sched_getaffinity(0))
    assert found["governor"] == "performance" and found["frequency_mhz"] == 2_000 and found["temperature_c"] == 63.25
    assert found["throttle_count"] == 3 * cpus and found["under_voltage"] is True and found["throttled_now"] is True
    assert found["load_1m"] == 0.52 and found["busy_cpu_s"] == 1_560 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("printed", "under_voltage", "throttled_now"),
    [("throttled=0x0", False, False), ("throttled=0x1", True, False), ("throttled=0x40004", False, True), ("error=1", None, None), ("", None, None)],
)
def test_state_of_a_raspberry_pi(tmp_path: Path, printed: str, under_voltage: bool | None, throttled_now: bool | None) -> None:
    found = load("state", "state")(str(tmp_path), script(tmp_path, f"echo '{printed}'"))
    assert (found["under_voltage"], found["throttled_now"]) == (under_voltage, throttled_now)


def test_governors_can_differ(tmp_path: Path) -> None:
    governor = load("state", "_governor")
    for cpu, name in enumerate(("performance", "powersave", "performance")):
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq", scaling_governor=name)
    assert governor(str(tmp_path), [0, 1]) == "mixed" and governor(str(tmp_path), [0, 2]) == "performance"


def test_frequency_without_cpufreq(tmp_path: Path) -> None:
    blocks = [f"processor\t: {cpu}\nmodel name\t: x\ncpu MHz\t\t: {mhz}\n" for cpu, mhz in enumerate(("1000.500", "2000.000", "9000.000"))]
    write(tmp_path / "proc", cpuinfo="\n".join(blocks))
    assert load("state", "_frequency_mhz")(str(tmp_path), [0, 1]) == 1500.25


def test_one_unreadable_throttle_count_spoils_the_sum(tmp_path: Path) -> None:
    machine(tmp_path)
    cpu = min(os.sched_getaffinity(0))
    write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle", core_throttle_count="?")
    assert load("state", "state")(str(tmp_path), "/no/vcgencmd")["throttle_count"] is None


def test_others_busy() -> None:
    others = load("state", "others_busy")
    before, after = {"busy_cpu_s": 100.0, "monotonic": 10.0}, {"busy_cpu_s": 112.0, "monotonic": 14.0}
    assert others(before, after, 4.0) == 2.0 and others(before, after, 12.5) == 0.0
    assert others({**before, "busy_cpu_s": None}, after, 4.0) is None and others(before, before, 0.0) is None


# garbage


def meters(root: Path) -> None:
    package(root / "sys/class/powercap", 0, 1_000)
    jetpack_5(root / "sys/bus/i2c/drivers", VDD_IN=(5_000, 1_000))
    write(root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0", rail_name_0="POM_5V_IN", in_power0_input=2_000)
    write(root / "sys/class/power_supply/BAT0", type="Battery", scope="System", status="Discharging", power_now=5_000_000)


def files_of(build: Callable[[Path], None]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def spoil(path: Path, garbage: bytes | None) -> None:
    if garbage is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(garbage)


GARBAGE = st.none() | st.binary(max_size=64) | st.text(max_size=64).map(str.encode) | st.integers().map(lambda n: str(n).encode())


@settings(deadline=None)
@given(st.sampled_from(files_of(meters)), GARBAGE, st.booleans())
def test_garbage_in_a_meter_never_raises_and_never_gives_nought(name: str, garbage: bytes | None, half_way: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        meters(Path(folder))
        if not half_way:
            spoil(Path(folder) / name, garbage)
        readers = load_worker_module("probes").energy_readers(folder, "/no/vcgencmd", SimpleNamespace())
        for reader in readers.values():
            reader.start()
        if half_way:
            spoil(Path(folder) / name, garbage)
        answers = {name: reader.stop() for name, reader in readers.items()}
        assert all((value is None) == bool(reason) for value, reason in answers.values())
        assert all(value is None or value > 0 for value, _ in answers.values())


@settings(deadline=None)
@given(st.sampled_from(files_of(machine)), GARBAGE)
def test_garbage_in_the_state_never_raises(name: str, garbage: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine(Path(folder))
        spoil(Path(folder) / name, garbage)
        found = load("state", "state")(folder, "/no/vcgencmd")
        assert set(found) == KEYS and found["temperature_c"] is not None
        assert found["frequency_mhz"] is None or found["frequency_mhz"] > 0


@settings(deadline=None)
@given(st.text(max_size=200))
def test_garbage_from_vcgencmd_is_no_power(printed: str) -> None:
    with pytest.raises(load("reading", "Unavailable")):
        load("pmic", "watts")(printed)
