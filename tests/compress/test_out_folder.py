"""The folder of a recipe's models: kept where it is whole, made again where it is damaged, never taken by another recipe, never believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge.compress.folder import PACKED, RECORD, WEIGHTS
from edge.compress.result import SUFFIX, Result, Speed, read_result, write_result
from edge.compress.run import STATES, run_recipe
from edge.errors import BadInput
from edge.vocabulary import Measurement
from tests.conftest import Ran, run_edge

RECIPE = 'schema_version = 1\nmodel = "lenet300"\ndata = "digits"\nseeds = [0]\n[[steps]]\nstep = "train"\nepochs = 1\n'
PRUNE = '[[steps]]\nstep = "prune-weights"\nsparsity = 0.8\n'


def compress(folder: Path, text: str = RECIPE + PRUNE, *options: str) -> Ran:
    (folder / "r.toml").write_text(text)
    return run_edge("compress", folder / "r.toml", "--out", folder / "out", *options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    ran = compress(folder)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of what a recipe has made."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("file", "lost"), [(PACKED, True), (WEIGHTS, False), (RECORD, False)])
def test_what_is_lost_or_damaged_is_found_and_made_again(home: Path, file: str, lost: bool) -> None:
    path = home / "out" / "seed-0" / file
    was = {name: (path.parent / name).read_bytes() for name in (PACKED, WEIGHTS)}
    path.unlink() if lost else flip(path, 1000 if file == WEIGHTS else 0)
    found = run_edge("compress", "--verify", home / "out")
    assert found.code == 2 and str(path) in found.err and "edge compress RECIPE" in found.err, found.err
    exported = run_edge("export", path.parent, "--format", "onnx", "--precision", "fp32", "--calibration", "digits", "--out", home / "artifacts")
    assert exported.code == 2 and str(path) in exported.err and not (home / "artifacts").exists(), exported.err
    again = compress(home)
    assert again.code == 0, again.err
    assert {name: (path.parent / name).read_bytes() for name in was} == was, "the same seed gives the same bytes"
    assert run_edge("compress", "--verify", home / "out").code == 0


def test_another_recipe_does_not_take_the_folder(home: Path) -> None:
    before = {path: path.read_bytes() for path in (home / "out").rglob("*") if path.is_file()}
    ran = compress(home, RECIPE + PRUNE.replace("0.8", "0.7"))
    assert ran.code == 2 and "made by another recipe" in ran.err and str(home / "out") in ran.err
    assert {path: path.read_bytes() for path in (home / "out").rglob("*") if path.is_file()} == before
    assert compress(home, 'row = "the same steps"\n' + RECIPE + PRUNE).code == 0


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/self/nowhere"])
def test_an_out_that_is_no_folder_is_told_before_anything_is_trained(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "r.toml").write_text(RECIPE)
    ran = run_edge("compress", tmp_path / "r.toml", "--out", tmp_path / out)
    assert ran.code == 2 and str(tmp_path / out) in ran.err and "train" not in ran.err and (tmp_path / "file").read_text() == "precious"


def timed(result: Result) -> Result:
    p50 = Measurement(value=1.0, unit="ms")
    return result.model_copy(
        update={"speed": {"onnx": Speed(dense=p50, compressed=p50, speedup=Measurement(value=1.0, unit="1", interval=(0.9, 1.1)))}}
    )


def test_latencies_stay_when_the_command_is_run_without_timing(home: Path) -> None:
    path = home / "out" / f"r{SUFFIX}"
    write_result(path, timed(read_result(path)))
    assert compress(home).code == 0 and read_result(path).speed["onnx"].speedup.value == 1.0
    write_result(path, timed(read_result(path)).model_copy(update={"error_after": 1.0}))  # of another model
    assert compress(home).code == 0 and not read_result(path).speed


def test_a_result_that_promises_more_than_the_records_is_found_out(home: Path) -> None:
    change = {"error_after": 0.0, "packed_bytes": 10, "ratio": 106644.0, "error_before": 99.0}
    path = home / "out" / f"r{SUFFIX}"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    ran = run_edge("compress", "--verify", home / "out")
    assert ran.code == 1 and all(name in ran.err for name in change), ran.err


def test_the_dense_net_s_figures_are_recomputed_too(home: Path) -> None:
    change = {"error_before": 50.0, "parameters_before": 1, "macs_before": 10**12}
    path = home / "out" / "seed-0" / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    ran = run_edge("compress", "--verify", path.parent)
    assert ran.code == 1 and all(name in ran.err for name in change), ran.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratio": 1e6}, "ratio is not baseline_bytes over packed_bytes"),
        ({"speed": {"onnx": {"dense": -3.0, "speedup": 1.0}}}, "a latency or a ratio that cannot be"),
        ({"speed": {"onnx": {"dense": 1.0, "speedup": 1e308}}}, "a latency or a ratio that cannot be"),
        ({"speed": {"onnx": {"dense": 1.0, "speedup": 1.0, "interval": [5, 1]}}}, "ends before it begins"),
        ({"seed": -5}, "seed"),
    ],
)
def test_a_stranger_s_impossible_result_is_bad_input(home: Path, change: dict[str, Any], words: str) -> None:
    def speed(dense: float, speedup: float, interval: list[float] | None = None) -> dict[str, Any]:
        p50 = {"value": dense, "unit": "ms"}
        return {"dense": p50, "compressed": p50, "speedup": {"value": speedup, "unit": "1", "interval": interval}}

    path = home / "out" / f"r{SUFFIX}"
    if "speed" in change:
        change = {"speed": {name: speed(**figures) for name, figures in change["speed"].items()}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match=words):
        read_result(path)


def test_the_report_does_not_take_the_place_of_its_results(home: Path) -> None:
    path = home / "out" / f"r{SUFFIX}"
    was = path.read_bytes()
    ran = run_edge("report", path, "--out", path)
    assert ran.code == 2 and "--out" in ran.err and path.read_bytes() == was
    folder = run_edge("report", home / "out")
    assert folder.code == 2 and "name the results file" in folder.err
    seeds = run_edge("export", home / "out", "--out", home / "artifacts")
    assert seeds.code == 2 and "seed-0" in seeds.err


def test_a_damaged_state_of_a_step_is_one_that_is_not_there(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [{"step": "train", "epochs": 1}]
    wrong = {"step": "prune-weights", "per_layer": {"fc9.weight": 0.5}}
    recipe = {"schema_version": 1, "model": "lenet300", "data": "digits", "steps": [*steps, wrong]}
    with pytest.raises(BadInput, match="fc9"):
        run_recipe(recipe, 0, str(tmp_path), lambda *_: None)
    for damaged in ("{}", '{"record": 1, "surgery": []}', None):
        (state,) = (path for path in (tmp_path / STATES).glob("001-*.json"))
        if damaged is None:
            weights = state.with_suffix(".safetensors")
            weights.write_bytes(weights.read_bytes()[:5000])
        else:
            state.write_text(damaged)
        begun: list[str] = []
        with pytest.raises(BadInput, match="fc9"):
            run_recipe(recipe, 0, str(tmp_path), lambda done, total, note="", begun=begun: begun.append(note))
        assert any(note.startswith("1/2 train") for note in begun), "the step was done again"


def test_an_error_of_a_step_names_its_seed_and_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    stray = tmp_path / "out" / "seed-2" / ".model.safetensors.abc"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half")
    ran = compress(tmp_path, RECIPE.replace("[0]", "[2]") + PRUNE.replace("sparsity = 0.8", 'per_layer = { "fc9.weight" = 0.5 }'))
    assert ran.code == 2 and "seed 2: prune-weights: there is no weight 'fc9.weight'" in ran.err and not stray.exists()


def test_a_seed_stands_once(tmp_path: Path) -> None:
    ran = compress(tmp_path, RECIPE.replace("[0]", "[3, 3]"))
    assert ran.code == 2 and "seeds" in ran.err and not (tmp_path / "out").exists()


def test_every_step_and_setting_can_be_looked_up(tmp_path: Path) -> None:
    ran = run_edge("compress", "--steps")
    assert ran.code == 0 and 'step = "prune-filters"' in ran.out and "  taught = 0.0" in ran.out
    unknown = compress(tmp_path, RECIPE + PRUNE + "fraction = 0.5\n")
    assert unknown.code == 2 and "fraction: there is no such setting" in unknown.err and "edge compress --steps" in unknown.err
