"""The verdict: what passes, what fails, and what is not known, from results as other machines write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.bench.report import write_report
from edge.bench.results import Accuracy, Cell, Results, empty_figures, no_memory, write_results
from edge.bench.verdict import Budget, Verdict, check
from edge.bench.worker.machine import TELLING_FLAGS
from edge.cli.check import print_check
from edge.cli.display import print_remarks
from edge.cli.main import edge
from edge.devices.profile import Profile, load_profile
from edge.errors import BadInput
from edge.vocabulary import Arch, Format, Measurement, Precision, Status

MIB = 1 << 20
CAMERA = load_profile("camera")


def cell(**change: Any) -> Cell:
    """A cell of right results without any figure, of a processor such as the camera's."""
    shared: dict[str, Any] = {
        **{"model": "net", "format": Format.ONNX, "precision": Precision.FP32, "target_arch": Arch.ANY, "target": "local", "device": "desk"},
        **{"scenario": "single-stream", "threads": 1, "batch": 1, "status": Status.OK, "reason": None, "artifact": "net-onnx-fp32"},
        **{"kernels": {"reduced": None, "total": None, "reason": None}, **empty_figures("not asked for")},
        **{"environment": {"machine": "aarch64", "isa": ["asimd"]}, "agreement": Accuracy(top1=Measurement(value=100.0, unit="%"))},
    }
    return Cell.model_validate({**shared, **change})


def timed(p50: float, p99: float, peak: int = 40 * MIB, size: int = MIB, **change: Any) -> Cell:
    """A cell as a target that measures writes it; times in ms, memory in B."""
    empty = cell()
    latency = empty.latency.model_copy(update={"p50": Measurement(value=p50, unit="ms"), "p99": Measurement(value=p99, unit="ms")})
    memory = empty.memory.model_copy(update={"peak_rss": Measurement(value=peak, unit="B")})
    energy = {**empty.energy, "cpu_time": Measurement(value=p50 / 1e3, unit="s")}
    figures = {"latency": latency, "memory": memory, "energy": energy, "throughput": Measurement(value=1e3 / p50, unit="1/s")}
    return cell(**{**figures, "size": Measurement(value=size, unit="B", provenance="counted"), **change})


def counted(instructions: float, peak: int = 60 * MIB, size: int = MIB, kinds: tuple[int, int, int] = (0, 0, 0), **change: Any) -> Cell:
    """A cell as emulation writes it."""
    memory = no_memory("emulated").model_copy(update={"peak_rss": Measurement(value=peak, unit="B", provenance="counted")})
    energy = {**cell().energy, "instructions": Measurement(value=instructions, unit="count", provenance="counted")}
    figures = {
        f"instructions_{kind}": Measurement(value=n, unit="count", provenance="counted")
        for kind, n in zip(("dot", "matrix", "half"), kinds, strict=True)
    }
    size_of = Measurement(value=size, unit="B", provenance="counted")
    where = {"target": "qemu", "device": "raspberry-pi-4b"}
    return cell(**{**where, "memory": memory, "energy": energy, "figures": figures, "size": size_of, **change})


def budget(verdict: Verdict, name: str) -> Budget:
    return next(each for each in verdict.budgets if each.name == name)


def only(cells: list[Cell], profile: Profile = CAMERA) -> Verdict:
    (verdict,) = check(cells, profile).cells
    return verdict


def test_what_was_measured_on_the_device_passes_with_the_margin() -> None:
    found = only([timed(40, 60, peak=97 * MIB, target="ssh:root@camera", device="camera")])
    assert found.verdict == "PASS"
    memory = budget(found, "memory")
    assert (memory.value, memory.limit, memory.margin, memory.provenance) == (97 * MIB, 128 * MIB, 31 * MIB, "measured")
    assert memory.says == "fits with 31 MiB to spare"
    assert budget(found, "latency_p99").margin == 140 and budget(found, "frame_rate").value == 25


def test_too_slow_on_the_device_fails_by_a_ratio() -> None:
    found = only([timed(420, 450, target="ssh:root@camera", device="camera")])
    rate = budget(found, "frame_rate")
    assert found.verdict == "FAIL" and rate.verdict == "FAIL" and rate.says == "misses 5 /s by 2.1x"
    assert rate.margin == pytest.approx(1e3 / 420 - 5)


@pytest.mark.parametrize("target", ["local", "limited", "gpu"])
def test_a_figure_of_another_machine_passes_nothing_but_storage(target: str) -> None:
    device = "camera" if target == "limited" else "desk"
    found = only([timed(0.01, 0.02, peak=MIB, target=target, device=device)])
    assert found.verdict == "UNKNOWN"
    outcomes = {each.name: each.verdict for each in found.budgets}
    assert outcomes.pop("storage") == "PASS" and set(outcomes.values()) == {"UNKNOWN"}
    assert all(each.value is None and each.says for each in found.budgets if each.name not in ("storage", "runs"))


@pytest.mark.parametrize(("device", "target"), [("camera", "qemu"), ("x86-server", "ssh:HOST")])
def test_what_is_missing_names_a_command_that_can_give_it(device: str, target: str) -> None:
    found = only([timed(1, 2)], load_profile(device))
    asked = f"edge bench ARTIFACT --target {target} --device {device}"
    assert all(asked in budget(found, name).says for name in ("runs", "memory"))


def test_counts_of_the_same_instructions_give_memory_and_a_prediction() -> None:
    found = only([counted(0.45e6)])
    assert budget(found, "memory").provenance == "counted" and budget(found, "memory").verdict == "PASS"
    rate = budget(found, "frame_rate")
    assert rate.provenance == "modelled" and rate.verdict == "PASS" and rate.interval and found.basis
    assert budget(found, "latency_p99").verdict == "UNKNOWN", "no tail was measured"


def test_a_tail_of_any_machine_makes_a_prediction_of_p99() -> None:
    alone, with_tail = (budget(only(cells), "latency_p99") for cells in ([counted(0.45e6)], [counted(0.45e6), timed(1.0, 3.0)]))
    assert alone.interval and alone.interval[1] is None and alone.value is None is alone.margin and alone.shown.startswith(">= ~")
    assert with_tail.verdict == "PASS" and with_tail.provenance == "modelled" and with_tail.interval
    assert "3 times its median" in with_tail.says
    assert with_tail.interval[0] == alone.interval[0], "no tail is shorter than its median"
    nonsense = [counted(0.45e6), timed(1.0, 0.01)]
    assert budget(only(nonsense), "latency_p99").verdict == "UNKNOWN", "a p99 below the median is none"
    several = [counted(0.45e6), timed(1.0, 1.1, scenario="multi-stream")]
    assert budget(only(several), "latency_p99").verdict == "UNKNOWN", "of several samples together the tail is shorter"


def test_a_prediction_whose_range_straddles_the_limit_decides_nothing() -> None:
    rates = [budget(only([counted(n)]), "frame_rate") for n in (1e6, 2e8, 1e11)]
    assert [rate.verdict for rate in rates] == ["PASS", "UNKNOWN", "FAIL"] and "too close to call" in rates[1].says


def test_counts_of_other_instructions_say_nothing() -> None:
    newer: dict[str, Any] = {"environment": {"machine": "aarch64", "isa": ["asimd", "asimddp"]}}
    assert budget(only([counted(1e6, **newer)]), "memory").verdict == "UNKNOWN"
    assert budget(only([counted(1e6)], load_profile("raspberry-pi-5")), "memory").verdict == "UNKNOWN"


def test_out_of_memory_within_the_limits_fails_and_a_crash_is_no_memory_matter() -> None:
    limits = {"limits": {"memory": CAMERA.memory_limit}}
    starved = cell(
        target="limited", device="camera", settings=limits, status=Status.FAILED, reason="needs more than 128 MiB", failure="out-of-memory"
    )
    memory = budget(only([starved]), "memory")
    assert memory.verdict == "FAIL" and memory.says.startswith("out of memory on this machine within the device's limit")
    smaller = starved.model_copy(update={"settings": {"limits": {"memory": MIB}}})
    assert budget(only([smaller]), "memory").verdict == "UNKNOWN", "the profile gave a model less then"
    crashed = cell(target="limited", device="camera", status=Status.FAILED, reason="the memory worker died of SIGSEGV")
    found = only([crashed])
    assert budget(found, "memory").verdict == "UNKNOWN" and budget(found, "runs").verdict == "FAIL" and "SIGSEGV" in budget(found, "runs").says


def test_the_form_that_passes_is_named_for_the_one_that_fails() -> None:
    small: dict[str, Any] = {"precision": Precision.INT8, "artifact": "net-onnx-int8"}
    found = check([counted(1e6, size=60 * MIB), counted(0.5e6, size=15 * MIB, **small)], CAMERA)
    assert found.cell == "net onnx int8, 1 thread"
    assert found.help == ("storage of net: onnx fp32, 1 thread misses 32 MiB by 1.88x. What helps: onnx int8, 1 thread fits with 17 MiB to spare",)


def test_slow_downs_of_reduced_precisions_are_said() -> None:
    half = counted(3.7e6, precision=Precision.FP16, kinds=(0, 0, 900))
    small = counted(0.8e6, precision=Precision.INT8)
    remarks = check([counted(0.45e6), half, small], CAMERA).remarks
    assert any(said.startswith("net onnx fp16, 1 thread: 8.22 times the instructions of fp32") for said in remarks)
    assert any(said.startswith("net onnx int8, 1 thread: 1.78 times") for said in remarks)
    assert any("no dot-product instruction was executed" in said for said in remarks)
    quick = counted(0.2e6, precision=Precision.INT8, kinds=(5000, 0, 0))
    assert not check([counted(0.45e6), quick], CAMERA).remarks


def test_artifacts_for_other_processors_are_no_candidates() -> None:
    with pytest.raises(BadInput, match="no artifact for camera, whose processor is arm"):
        check([timed(1, 2, target_arch=Arch.X86)], CAMERA)
    with pytest.raises(BadInput):
        check([], CAMERA)


def test_rows_that_were_never_made_are_no_candidates() -> None:
    missing = cell(precision=Precision.BF16, status=Status.UNSUPPORTED, reason="no kernels", artifact=None)
    assert [verdict.cell for verdict in check([missing, counted(1e6)], CAMERA).cells] == ["net onnx fp32, 1 thread"]


ON_CAMERA: dict[str, Any] = {"target": "ssh:root@camera", "device": "camera"}
X86 = {"machine": "x86_64", "isa": ["avx2"], "cpu": "a desk's"}


def test_the_name_of_the_device_makes_no_device_of_another_processor() -> None:
    found = check([timed(1, 2, **{**ON_CAMERA, "environment": X86})], CAMERA)
    assert found.verdict == "UNKNOWN" and "measured as camera on a desk's is left out" in found.remarks[0]
    assert "that processor has avx2 and lacks asimd" in found.remarks[0]
    # also where the profile has none of the features that tell
    plain = CAMERA.model_copy(update={"clusters": tuple(cluster.model_copy(update={"isa": ()}) for cluster in CAMERA.clusters)})
    silent = check([timed(1, 2, **{**ON_CAMERA, "environment": {"machine": "aarch64"}})], plain)
    assert silent.verdict == "UNKNOWN" and "does not say what it has" in silent.remarks[0]
    newer = {"machine": "aarch64", "isa": ["asimd", "asimddp"]}
    assert only([timed(1, 2, **{**ON_CAMERA, "environment": newer})]).verdict == "UNKNOWN"
    assert only([timed(1, 2, **{**ON_CAMERA, "target": "local", "environment": {}})]).verdict == "UNKNOWN"
    assert only([timed(1, 2, **{**ON_CAMERA, "target": "teleported"})]).verdict == "UNKNOWN"


@pytest.mark.parametrize("wrong", [
    {"value": -1.0, "unit": "ms"}, {"value": 0.0, "unit": "ms"}, {"value": 1e300, "unit": "ms"},
    {"value": 0.1, "unit": "s"}, {"value": 1.0, "unit": "ms", "provenance": "modelled"},
])  # fmt: skip
def test_a_figure_that_is_none_is_taken_as_missing(wrong: dict[str, Any]) -> None:
    figure = Measurement(**wrong)
    latency = cell().latency.model_copy(update={"p50": figure, "p99": figure})
    found = only([timed(1, 2, **ON_CAMERA, latency=latency, throughput=Measurement(value=None, unit="1/s", reason="none"))])
    assert {budget(found, name).verdict for name in ("latency_p99", "frame_rate")} == {"UNKNOWN"}


def test_results_that_were_not_judged_are_not_called_right() -> None:
    unjudged = timed(40, 60, **ON_CAMERA, agreement=Accuracy(top1=Measurement(value=None, unit="%", reason="not asked for")))
    runs = budget(only([unjudged]), "runs")
    assert runs.verdict == "UNKNOWN" and "not judged" in runs.says


def test_the_rate_of_a_scenario_that_waits_is_not_the_models() -> None:
    paced = timed(40, 60, **ON_CAMERA, scenario="camera", throughput=Measurement(value=4.98, unit="1/s"))
    assert budget(only([paced]), "frame_rate").value == 25
    slower = timed(40, 60, **ON_CAMERA, throughput=Measurement(value=20, unit="1/s"))
    assert budget(only([paced, slower, timed(30, 60, **ON_CAMERA)]), "frame_rate").value == 20, "the worst of what is known"


def test_queries_of_several_samples_have_no_time_of_one() -> None:
    several = timed(400, 600, **ON_CAMERA, scenario="multi-stream")
    assert budget(only([several]), "latency_p99").value is None
    assert budget(only([several, timed(40, 60, **ON_CAMERA)]), "latency_p99").value == 60


def test_exports_of_another_size_and_cards_stand_for_themselves() -> None:
    found = check([timed(40, 60, **ON_CAMERA), counted(1e6, size=2 * MIB)], CAMERA)
    assert [verdict.verdict for verdict in found.cells] == ["PASS", "UNKNOWN"]
    jetson = load_profile("jetson-orin-nano")
    there: dict[str, Any] = {"device": jetson.name, "environment": {"machine": "aarch64", "isa": [*{*jetson.cluster.isa} & {*TELLING_FLAGS}]}}
    card, processor = timed(1, 2, target="gpu", **there), timed(900, 990, target="ssh:x@y", **there)
    best, worst = check([card, processor], jetson).cells
    assert best.cell.endswith("GPU") and budget(best, "latency_p99").value == 2 and budget(worst, "latency_p99").value == 990
    if jetson.budgets.energy_per_day:
        assert budget(best, "energy_per_day").verdict == "UNKNOWN", "the power of a core is not that of the card"


def test_all_cores_of_an_inference_draw_power() -> None:
    cpu_time = Measurement(value=0.4, unit="s")
    rows = [timed(100, 120, **ON_CAMERA, energy={**cell().energy, "cpu_time": cpu_time}, threads=2)]
    asked = CAMERA.budgets.frame_rate
    assert asked and CAMERA.power
    above_idle = CAMERA.power.busy_core.base - CAMERA.power.idle.base
    assert budget(only(rows), "energy_per_day").value == pytest.approx(0.4 * asked.base * above_idle * 86_400)


figures = st.one_of(st.none(), st.floats(min_value=1e-6, max_value=1e15))


@given(p50=figures, p99=figures, peak=figures, instructions=figures, there=st.booleans(), threads=st.integers(1, 8))
def test_nothing_that_is_missing_passes(
    p50: float | None, p99: float | None, peak: float | None, instructions: float | None, there: bool, threads: int
) -> None:
    def figure(value: float | None, unit: str) -> Measurement:
        return Measurement(value=value, unit=unit, reason=None if value else "not there")

    empty = cell()
    where: dict[str, Any] = ON_CAMERA if there else {}
    given_cell = cell(
        latency=empty.latency.model_copy(update={"p50": figure(p50, "ms"), "p99": figure(p99, "ms")}),
        memory=empty.memory.model_copy(update={"peak_rss": figure(peak, "B")}),
        energy={**empty.energy, "instructions": figure(instructions, "count")},
        threads=threads,
        **where,
    )
    (found,) = check([given_cell], CAMERA).cells
    for each in found.budgets:
        assert each.verdict == "UNKNOWN" or each.value is not None or each.name == "runs"
        assert each.says
    memory = budget(found, "memory")
    assert memory.verdict == ("UNKNOWN" if peak is None or not there else "PASS" if peak <= CAMERA.memory_limit else "FAIL")
    if not there:
        assert found.verdict != "PASS"


numbers = st.sampled_from([None, -(10**400), -1.0, 0, 5e-324, 1e-18, 1e-3, 1, 1e6, 1e18, 1e308, 10**400])


def odd(unit: str, provenance: str = "measured") -> st.SearchStrategy[Measurement]:
    intervals = st.sampled_from([None, (0.0, 0.0), (1e308, -1.0)])
    provenances = st.sampled_from([provenance, "modelled"])
    return st.builds(Measurement, value=numbers, unit=st.sampled_from([unit, unit, "s"]), provenance=provenances, interval=intervals)


environments = st.fixed_dictionaries({}, optional={
    "machine": st.sampled_from(["aarch64", "x86_64", "", None, 3]),
    "isa": st.one_of(st.none(), st.integers(), st.lists(st.one_of(st.integers(), st.sampled_from(["asimd", "asimddp", "avx2"])), max_size=3)),
    "cpu": st.one_of(st.none(), st.integers(), st.text(max_size=5)),
})  # fmt: skip
anything = st.fixed_dictionaries({}, optional={
    "format": st.sampled_from(list(Format)),
    "precision": st.sampled_from(list(Precision)),
    "target": st.sampled_from(["local", "limited", "qemu", "ssh:a@b", "gpu", "", "qemu "]),
    "device": st.sampled_from(["camera", "desk", "raspberry-pi-4b"]),
    "scenario": st.sampled_from(["single-stream", "camera", "offline", "multi-stream", "server", "?"]),
    "threads": st.integers(1, 9),
    "status": st.sampled_from(list(Status)),
    "throughput": odd("1/s"),
    "size": odd("B", "counted"),
    "latency": st.builds(lambda p50, p99: cell().latency.model_copy(update={"p50": p50, "p99": p99}), odd("ms"), odd("ms")),
    "memory": st.builds(lambda peak: cell().memory.model_copy(update={"peak_rss": peak}), odd("B") | odd("B", "counted")),
    "energy": st.fixed_dictionaries({}, optional={"cpu_time": odd("s"), "instructions": odd("count", "counted"), "energy_rapl": odd("mJ")}),
    "figures": st.fixed_dictionaries({}, optional={"instructions_dot": odd("count", "counted")}),
    "environment": environments,
})  # fmt: skip
sane = st.sampled_from([counted(1e6), timed(40, 60, **ON_CAMERA), timed(40, 60)])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(sane, anything), min_size=1, max_size=3))
def test_no_strange_file_breaks_it_or_passes(changes: list[tuple[Cell, dict[str, Any]]]) -> None:
    cells = [each.model_copy(update=change) for each, change in changes]
    found = check(cells, CAMERA)
    json.loads(found.model_dump_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    print_check(found)
    of_it = any(each.status is Status.OK and (each.device == "camera" or each.target == "qemu") for each in cells)
    for each in (budget for verdict in found.cells for budget in verdict.budgets):
        assert each.says and (each.value is None or 0 < each.value < math.inf)
        assert each.verdict != "PASS" or each.name == "storage" or of_it


@pytest.mark.parametrize(("cells", "code"), [
    ([timed(40, 60, **ON_CAMERA)], 0),
    ([timed(400, 600, **ON_CAMERA)], 1),
    ([timed(40, 60)], 3),
])  # fmt: skip
def test_the_command_exits_by_the_verdict(cells: list[Cell], code: int, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, Results(cells=tuple(cells)))
    said = CliRunner().invoke(edge, ["check", str(path), "--device", "camera", "--json"])
    assert said.exit_code == code
    document = json.loads(said.stdout)
    assert document["device"] == "camera" and document["cell"] == "net onnx fp32, 1 thread"
    assert document["verdict"] == {0: "PASS", 1: "FAIL", 3: "UNKNOWN"}[code] == document["cells"][0]["verdict"]
    assert {"name", "value", "limit", "margin", "provenance", "verdict"} <= set(document["budgets"][0])
    assert CliRunner().invoke(edge, ["check", str(path), "--device", "camera"]).exit_code == code


def test_the_page_holds_the_verdict_and_says_which_row_ran_where(tmp_path: Path) -> None:
    desk = timed(1, 2, environment={"cpu": "desk", "artifact_sha256": "0f1e2d"})
    rows = (timed(40, 60, **ON_CAMERA), desk, counted(1e6))
    write_report(Results(cells=rows), tmp_path / "page.html", [check(rows, CAMERA)])
    page = (tmp_path / "page.html").read_text()
    assert "memory: fits with 88 MiB to spare (measured)" in page and "memory ≤ 128 MiB" in page
    assert all(f">{where}</td>" in page for where in ("ssh:root@camera", "local", "qemu", "camera", "desk", "raspberry-pi-4b"))
    assert "<dd>desk</dd>" in page and "0f1e2d" not in page, "the digest is of an artifact, not of the machine"


@pytest.mark.parametrize("environment", [{"isa": 5, "versions": 3}, {"isa": [1], "versions": {"a": 1}}, {"cpu": {"x": [None]}, "isa": None}])
def test_a_page_of_a_strangers_machine(environment: dict[str, Any], tmp_path: Path) -> None:
    write_report(Results(cells=(timed(1, 2, environment=environment),)), tmp_path / "page.html")


def test_no_control_character_of_a_file_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_check(check([timed(1, 2, model="\x1b[2Jnet[/]", device="camera", target="ssh:a@b", environment={**X86, "cpu": "\x1b[31m"})], CAMERA))
    print_remarks([("\x1b[2Jnet[/]", "failed", "\x1b[31m")])
    assert "\x1b[2J" not in (said := capsys.readouterr().out) and "\x1b[31m" not in said and "[2Jnet[/]" in said


def test_a_wrong_device_or_file_is_bad_input(tmp_path: Path) -> None:
    write_results(tmp_path / "r.json", Results(cells=(timed(1, 2),)))
    from edge.cli.main import main

    assert main(["check", str(tmp_path / "r.json"), "--device", "camra"]) == 2
    assert main(["check", str(tmp_path / "none.json"), "--device", "camera"]) == 2
    assert main(["check", str(tmp_path / "r.json")]) == 2
