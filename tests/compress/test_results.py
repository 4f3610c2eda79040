"""What a recipe comes to: its result file, its speed beside the dense net, its proof, and the page that shows it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bench.compression import error_text, speed_text, tables_of
from edge.bench.results import read_results
from edge.compress.folder import DENSE, RECIPE, load, read_record
from edge.compress.recipe import fingerprint, read_recipe
from edge.compress.result import SUFFIX, Result, read_result, write_result
from edge.compress.run import run_recipe
from edge.errors import BadInput
from edge.vocabulary import Arch, Format, Measurement, Precision, Status
from edge.workflows.export_index import ExportedCell
from edge.workflows.speed import _reason
from tests.bench.test_verdict import cell
from tests.conftest import ROOT, Ran, run_edge

HEAD = 'schema_version = 1\nmodel = "lenet300"\n'
TRAIN = '[[steps]]\nstep = "train"\nepochs = 4\n'
NEURONS = '[[steps]]\nstep = "prune-neurons"\nshare = 0.5\nepochs = 1\ntaught = 0.5\nshift = 1\n'
RECIPES = sorted((ROOT / "edge" / "recipes").glob("*.toml"))


def of(text: str, folder: Path, *options: str) -> Ran:
    (folder / "r.toml").write_text(text)
    return run_edge("compress", folder / "r.toml", "--out", folder / "out", *options)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed")
    ran = of(
        HEAD + 'data = "digits"\nseeds = [0, 1]\ntable = "T"\nrow = "half"\nbeside = "2x <b>"\n' + TRAIN + NEURONS, folder, "--time", "--repeats", "2"
    )
    assert ran.code == 0, ran.err
    assert "times faster" in ran.out and "onnx-bf16: onnxruntime's CPU provider has no bf16 convolution" in ran.out
    return folder / "out"


def result_in(folder: Path) -> Result:
    return read_result(folder / f"r{SUFFIX}")


def test_the_result_has_the_figures_of_the_median_seed_and_of_all(timed: Path) -> None:
    result = result_in(timed)
    records = {seed: read_record(timed / f"seed-{seed}") for seed in (0, 1)}
    shown = records[result.seed]
    assert result.error_after == shown.error_after == min(result.errors()) and len(result.seeds) == 2
    assert (
        result.baseline_bytes == 4 * 266_610
        and result.packed_bytes == shown.packed_bytes
        and result.packed_bytes < shown.plain_bytes < result.baseline_bytes
    )
    assert result.ratio == result.baseline_bytes / result.packed_bytes
    assert (result.macs_before, result.parameters_before) == (266_200, 266_610) and result.macs < 133_100 and result.parameters < 133_310
    assert (timed / "seed-0" / RECIPE).read_text() == (timed.parent / "r.toml").read_text()
    raw = json.loads((timed / f"r{SUFFIX}").read_text())
    needed = {"model", "data", "baseline_bytes", "packed_bytes", "ratio", "error_before", "error_after", "seed", "seconds"}
    assert needed <= set(raw)


def test_the_dense_net_is_kept_and_timed_beside_the_compressed_one_in_each_runtime(timed: Path) -> None:
    result = result_in(timed)
    dense = load(timed / f"seed-{result.seed}" / DENSE)
    assert dense.fc1.weight.shape == [784, 300]
    onnx = result.speed["onnx"]
    p50s = {
        cell.model: [np.median(process.samples.milliseconds()) for process in cell.processes]
        for cell in read_results(timed / "timing.json").cells
        if cell.format is Format.ONNX
    }
    assert onnx.speedup.value == pytest.approx(np.exp(np.mean(np.log(p50s["dense"])) - np.mean(np.log(p50s["compressed"]))))
    low, high = onnx.speedup.interval or (0, 0)
    assert 0 < low < float(onnx.speedup.value or 0) < high
    assert all(each.speedup.value or each.reason for each in result.speed.values()) and set(result.speed) == {
        "onnx",
        "paddle-inference",
        "paddle-lite",
    }
    assert result.exports["onnx-fp32"] == result.exports["onnx-int8"] == "ok" and "has no bf16" in result.exports["onnx-bf16"]
    assert result.environment["cpu"]


def test_a_format_without_a_latency_says_what_kept_it_from_being_made() -> None:
    here = {"model": "compressed", "format": Format.PADDLE_LITE, "precision": Precision.FP32}
    wrong = ExportedCell(**here, target_arch=Arch.X86, status=Status.FAILED, reason="outputs differ")
    other = ExportedCell(**here, target_arch=Arch.ARM, status=Status.OK, artifact="compressed-paddle-lite-fp32-arm")
    there = cell(**here, target_arch=Arch.ARM, status=Status.EXPORTED, reason="made for arm")
    assert _reason([wrong, other], [there], Format.PADDLE_LITE) == "outputs differ"
    assert _reason([other], [there], Format.PADDLE_LITE) == "it was not timed"


def test_all_seeds_of_a_folder_are_proven(timed: Path, tmp_path: Path) -> None:
    ran = run_edge("compress", "--verify", timed, "--json")
    assert ran.code == 0 and len(json.loads(ran.out)) == 2
    assert run_edge("compress", "--verify", tmp_path).code == 2
    shutil.copytree(timed / "seed-1", tmp_path / "seed-1")
    record = json.loads((tmp_path / "seed-1" / "compressed.json").read_text())
    (tmp_path / "seed-1" / "compressed.json").write_text(json.dumps({**record, "error_after": record["error_after"] - 1}))
    ran = run_edge("compress", "--verify", tmp_path)
    assert ran.code == 1 and "error_after is" in ran.err


def test_the_page_shows_tables_and_a_plot_and_escapes(timed: Path, tmp_path: Path) -> None:
    other = result_in(timed).model_copy(update={"name": "other", "row": "<script>", "speed": {}})
    write_result(tmp_path / f"other{SUFFIX}", other)
    ran = run_edge("report", timed / f"r{SUFFIX}", tmp_path / f"other{SUFFIX}", "--out", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1 and "2x &lt;b&gt;" in page and "<script>" not in page and "&lt;script&gt;" in page
    assert "packed KiB" in page and "calibration %" in page and "2 recipes of compression" in page


def page_of(folder: Path, *results: Result) -> str:
    paths = [folder / f"{number}{SUFFIX}" for number in range(len(results))]
    for path, result in zip(paths, results, strict=True):
        write_result(path, result)
    ran = run_edge("report", *paths, "--out", folder / "page.html")
    assert ran.code == 0, ran.err
    return (folder / "page.html").read_text()


def at(result: Result, row: str, error: float, ratio: float) -> Result:
    one = result.seeds[0].model_copy(update={"error_after": error})
    dense = round(1e6 * ratio)
    return result.model_copy(
        update={"row": row, "table": "T", "baseline_bytes": dense, "packed_bytes": 1_000_000, "ratio": dense / 1e6, "speed": {}, "seeds": (one,)}
    )


def test_nets_of_one_size_and_speed_are_drawn_row_by_row(tmp_path: Path) -> None:
    committed = read_result(ROOT / "edge" / "recipes" / f"distill-alone{SUFFIX}")
    alike = page_of(tmp_path, at(committed, "alone", 9.0, 18.0), at(committed, "taught", 8.0, 18.1))
    assert "test accuracy, % (right is better)" in alike and "times smaller" not in alike
    assert "<svg" not in page_of(tmp_path, at(committed, "alone", 9.0, 18.0)), "one row is no trade-off"
    apart = page_of(tmp_path, at(committed, "alone", 9.0, 18.0), at(committed, "taught", 8.0, 36.0))
    assert "times smaller" in apart


def test_a_net_that_lost_nearly_all_does_not_hide_how_the_others_differ(tmp_path: Path) -> None:
    committed = read_result(ROOT / "edge" / "recipes" / f"bits-1{SUFFIX}")
    page = page_of(tmp_path, at(committed, "a", 9.0, 4.0), at(committed, "b", 9.5, 8.0), at(committed, "c", 82.0, 28.0))
    assert "↓ 18.0 %" in page and re.search(r">90\.[0-9]+<", page) and not re.search(r">[4-8]0<", page)


def with_speedup(result: Result, value: float, interval: tuple[float, float] | None) -> Result:
    """The result, timed in onnxruntime alone, with this speed-up."""
    found = result.speed[Format.ONNX.value].model_copy(update={"speedup": Measurement(value=value, unit="1", interval=interval)})
    return result.model_copy(update={"speed": {Format.ONNX.value: found}})


@pytest.mark.parametrize(
    ("interval", "said"),
    [((1.9, 2.2), "2.00x"), ((1.4, 2.9), "2.00x (1.40 to 2.90)"), ((0.8, 5.0), "2.00x (0.80 to 5.00) (no gain)"), (None, "2.00x")],
)
def test_a_speed_up_that_a_busy_machine_leaves_open_says_so(timed: Path, interval: tuple[float, float] | None, said: str) -> None:
    assert speed_text(with_speedup(result_in(timed), 2.0, interval), Format.ONNX).partition(", ")[2] == said


def test_a_table_says_which_of_its_rows_were_timed_on_another_machine(timed: Path) -> None:
    here = result_in(timed)
    there = here.model_copy(update={"name": "there", "environment": {"cpu": "A53", "cores": 4, "isa": ["neon"]}})
    untimed = there.model_copy(update={"name": "untimed", "speed": {}})
    rows = [here, here.model_copy(update={"name": "again"}), there, untimed]
    (table,) = tables_of(rows)
    assert table.timed.endswith("; on 4 cores of A53 (neon): there") and str(here.environment["cpu"]) in table.timed
    assert tables_of([untimed])[0].timed == "no machine yet"
    strange = there.model_copy(update={"environment": {"cpu": None, "isa": 5}})
    assert tables_of([strange])[0].timed == "None cores of None"


def test_the_interval_of_a_speed_up_is_drawn(timed: Path) -> None:
    dense = with_speedup(result_in(timed), 1.0, None).model_copy(update={"row": "dense"})

    def drawn(low: float, high: float) -> str:
        (table,) = tables_of([dense, with_speedup(result_in(timed), 2.0, (low, high))])
        return str(table.plot)

    assert drawn(1.9, 2.1) != drawn(1.2, 3.0)
    assert drawn(-1.0, 1e300) == drawn(0.0, 1e308), "a stranger's interval does not stretch the axis"


def test_text_of_a_stranger_is_no_formula(tmp_path: Path) -> None:
    committed = read_result(ROOT / "edge" / "recipes" / f"bits-1{SUFFIX}")
    assert r"$\foo$" in page_of(tmp_path, at(committed, r"a: $\foo$", 9.0, 4.0), at(committed, "b", 9.5, 8.0))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(macs=10**400),
        lambda raw: raw.update(ratio=-1.0),
        lambda raw: raw.update(error_after=1e300),
        lambda raw: raw["changes"].update(by_class=[]),
    ],
)
def test_a_result_out_of_all_bounds_is_one_sentence(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads((ROOT / "edge" / "recipes" / f"bits-1{SUFFIX}").read_text())
    change(raw)
    (tmp_path / f"x{SUFFIX}").write_text(json.dumps(raw))
    ran = run_edge("report", tmp_path / f"x{SUFFIX}", "--out", tmp_path / "page.html")
    assert ran.code == 2 and f"x{SUFFIX}" in ran.err and "internal" not in ran.err and not (tmp_path / "page.html").exists()


def test_one_page_holds_a_measurement_and_recipes(timed: Path, tmp_path: Path) -> None:
    ran = run_edge("report", timed / "timing.json", timed / f"r{SUFFIX}", "--out", tmp_path / "page.html")
    assert ran.code == 0 and "cells measured" in (tmp_path / "page.html").read_text()
    two = run_edge("report", timed / "timing.json", timed / "timing.json", "--out", tmp_path / "x.html")
    assert two.code == 2 and "one results file at a time" in two.err
    table = run_edge("report", timed / f"r{SUFFIX}", "--table", tmp_path / "x.csv")
    assert table.code == 2 and "are about a results file" in table.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 2}', "[" * 100_000])
def test_a_damaged_result_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / f"x{SUFFIX}").write_text(text)
    ran = run_edge("report", tmp_path / f"x{SUFFIX}")
    assert ran.code == 2 and ran.err.startswith("edge: ") and "Traceback" not in ran.err


def test_without_data_only_size_is_told(tmp_path: Path) -> None:
    steps = '[[steps]]\nstep = "prune-weights"\nsparsity = 0.9\n[[steps]]\nstep = "share-weights"\nbits = 4\nepochs = 0\n'
    ran = of(HEAD + 'data = "none"\n' + steps, tmp_path, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["error_before"] is result["error_after"] is result["changes"] is None and result["ratio"] > 15
    proof = run_edge("compress", "--verify", tmp_path / "out")
    assert proof.code == 0 and "random weights, no error" in proof.out
    shown = read_result(tmp_path / "out" / f"r{SUFFIX}")
    assert error_text(shown) == "–" and tables_of([shown])[0].plot is None


@pytest.mark.slow
def test_a_net_of_random_weights_is_exported_and_timed(tmp_path: Path) -> None:
    prune = '[[steps]]\nstep = "prune-weights"\nsparsity = 0.9\n'
    ran = of(HEAD + 'data = "none"\n' + prune, tmp_path, "--json", "--time", "--repeats", "2")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["exports"]["onnx-int8"] == "ok" and all(each["speedup"]["value"] for each in result["speed"].values())


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (TRAIN, "train trains, and there are no data"),
        ('[[steps]]\nstep = "prune-layers"\ncount = 1\n', "there are no data to learn from or to choose by"),
        ('[[steps]]\nstep = "prune-neurons"\nshare = 0.5\nimportance = "taylor"\n', "there are no data to learn from or to choose by"),
        ('[[steps]]\nstep = "adapt"\ntechnique = "prune-weights"\nsize = 0.5\n', "there are no data to learn from or to choose by"),
    ],
)
def test_without_data_nothing_is_learnt_or_chosen(tmp_path: Path, steps: str, said: str) -> None:
    ran = of(HEAD.replace("lenet300", "lenet5_caffe" if "layers" not in steps else "resnet28") + 'data = "none"\n' + steps, tmp_path)
    assert ran.code == 2 and said in ran.err


def test_recipes_that_begin_alike_share_their_first_steps(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(HEAD + 'data = "digits"\n' + TRAIN + NEURONS)
    recipe = json.loads(read_recipe(tmp_path / "r.toml").model_dump_json())
    first = run_recipe(recipe, 0, str(tmp_path / "a"), lambda *_: None, cache=str(tmp_path / "cache"))
    notes: list[str] = []
    shorter = {**recipe, "steps": [recipe["steps"][0], {"step": "prune-weights", "sparsity": 0.5}]}
    second = run_recipe(shorter, 0, str(tmp_path / "b"), lambda done, total, note="": notes.append(note), cache=str(tmp_path / "cache"))
    assert not any("train" in note for note in notes) and second["steps"][0] == first["steps"][0]
    assert second["error_before"] == first["error_before"] and list((tmp_path / "cache").glob("002-*.json"))


def test_a_teacher_that_has_changed_is_another_recipe(tmp_path: Path, timed: Path) -> None:
    shutil.copytree(timed / "seed-0", tmp_path / "teacher")
    step = f'[[steps]]\nstep = "distill"\nepochs = 1\nteachers = [{{ folder = "{tmp_path / "teacher"}" }}]\n'
    (tmp_path / "r.toml").write_text(HEAD + 'data = "digits"\n' + step)
    recipe = read_recipe(tmp_path / "r.toml")
    before = fingerprint(recipe, 0, 1)
    record = json.loads((tmp_path / "teacher" / "compressed.json").read_text())
    (tmp_path / "teacher" / "compressed.json").write_text(json.dumps({**record, "seconds": 0.0}))
    assert fingerprint(recipe, 0, 1) != before
    shutil.rmtree(tmp_path / "teacher")
    with pytest.raises(BadInput, match="a step reads it, and it is not there"):
        read_recipe(tmp_path / "r.toml")


def test_an_emulated_target_is_no_clock(tmp_path: Path) -> None:
    ran = of(HEAD + 'data = "digits"\n' + TRAIN, tmp_path, "--time", "--target", "qemu", "--device", "raspberry-pi-5")
    assert ran.code == 3 and "its time is no latency" in ran.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_committed_result_is_of_its_recipe_as_it_is(recipe: Path) -> None:
    read = read_recipe(recipe)
    path = recipe.with_name(f"{recipe.stem}{SUFFIX}")
    if not path.is_file():
        assert f"`{recipe.stem}`" not in (ROOT / "edge" / "compress" / "README.md").read_text()
        return
    result = read_result(path)
    assert result.fingerprint == fingerprint(read, result.seed, len(read.steps)), f"run: .venv/bin/python scripts/run_recipes.py {recipe.stem}"
    assert {each.seed for each in result.seeds} == {*read.seeds} and (result.name, result.row, result.table) == (recipe.stem, read.row, read.table)


def test_no_result_is_without_its_recipe() -> None:
    assert {path.name.removesuffix(SUFFIX) for path in RECIPES[0].parent.glob(f"*{SUFFIX}")} <= {path.stem for path in RECIPES}


def test_the_page_on_compression_names_every_step() -> None:
    from edge.compress.steps import STEPS

    text = (ROOT / "edge" / "compress" / "README.md").read_text()
    table: Any = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    assert set(STEPS) <= set(re.findall(r"`([a-z-]+)`", " ".join(table)))


def test_the_place_where_it_is_measured_decides_only_what_measures(tmp_path: Path) -> None:
    plain = HEAD + 'data = "digits"\n' + TRAIN
    aims = plain + '[[steps]]\nstep = "adapt"\ntechnique = "prune-neurons"\nlatency = 0.5\n'
    found = {}
    for name, text in (("plain", plain), ("aims", aims)):
        (tmp_path / "r.toml").write_text(text)
        recipe = read_recipe(tmp_path / "r.toml")
        found[name] = {fingerprint(recipe, 0, len(recipe.steps), place) for place in ("", "limited camera", "ssh:pi@garage None")}
    assert len(found["plain"]) == 1 and len(found["aims"]) == 3
