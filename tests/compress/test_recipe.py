"""Recipes: what is wrong in one is a sentence; what one makes is proven, gone on with, and exported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.compress.constraints import FREE, Shared
from edge.compress.folder import PACKED, RECORD, WEIGHTS, decode, load, read_record, write_folder
from edge.compress.prune_weights import PruneWeights, prunable, sparsity_of
from edge.compress.quantize import Quantize
from edge.compress.recipe import read_recipe
from edge.compress.run import STATES, run_recipe
from edge.compress.share_weights import ShareWeights
from edge.compress.technique import Step, Subject, trained
from edge.compress.train_step import Train
from edge.datasets import load_dataset
from edge.errors import BadInput, CheckFailed, Unavailable
from edge.models import model_entry
from edge.workflows.compress import compress
from tests.conftest import run_edge

HEAD = 'schema_version = 1\nmodel = "lenet300"\ndata = "digits"\n'
TRAIN = '[[steps]]\nstep = "train"\nepochs = 12\n'
PRUNE = '[[steps]]\nstep = "prune-weights"\nsparsity = 0.9\nrounds = 2\nepochs = 1\n'
SHARE = '[[steps]]\nstep = "share-weights"\nbits = 4\nbiases = 4\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model =", "not a TOML file"),
        ('model = "lenet300"', "schema_version: Field required"),
        (HEAD, "steps: Field required"),
        (HEAD.replace("lenet300", "lenet3"), "steps"),
        (HEAD.replace("lenet300", "lenet3") + TRAIN, "unknown model 'lenet3'"),
        (HEAD.replace("digits", "dogs") + TRAIN, "unknown data set 'dogs'"),
        (HEAD + TRAIN.replace("train", "trane"), "step 1: there is no step 'trane'"),
        (HEAD + TRAIN + PRUNE.replace("0.9", "1.5"), "step 2, prune-weights: sparsity: "),
        (HEAD + TRAIN + PRUNE.replace("sparsity = 0.9", ""), "state one of sparsity"),
        (HEAD + TRAIN + PRUNE.replace("sparsity = 0.9", 'pattern = "4:2"'), "leaves nothing to prune"),
        (HEAD + TRAIN + SHARE.replace("bits = 4", "bits = 9"), "share-weights: bits: "),
        (HEAD + TRAIN + SHARE + "per_layer = { 'fc1.weight' = 0 }\n", "share-weights: per_layer.fc1.weight: "),
        (HEAD + TRAIN + PRUNE.replace("sparsity = 0.9", 'threshold = 1.0\nimportance = "random"'), "there is no random one"),
        (HEAD + "x = " + "[" * 100_000, "not a TOML file"),
        (HEAD + TRAIN + "surprise = 1\n", "surprise"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as raised:
        read_recipe(path)
    assert (words in str(raised.value) and "recipe.toml" in str(raised.value)) or "unknown model" in words


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compress")
    (folder / "recipe.toml").write_text(HEAD + TRAIN + PRUNE + SHARE)
    ran = run_edge("compress", folder / "recipe.toml", "--out", folder / "out", "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["ratio"] == result["baseline_bytes"] / result["packed_bytes"] > 15
    assert json.loads((folder / "out" / "recipe.result.json").read_text()) == result
    return folder / "out" / "seed-0"


def test_what_was_made_is_small_right_and_sparse(compressed: Path) -> None:
    record, layer = read_record(compressed), load(compressed)
    assert record.packed_bytes == (compressed / PACKED).stat().st_size and record.baseline_bytes == 4 * 266_610
    assert record.error_before is not None and record.error_after is not None
    assert record.ratio > 15 and record.error_after < record.error_before + 5 < 20
    weights = {name: value.numpy() for name, value in layer.named_parameters()}
    zeros = sum(int((value == 0).sum()) for value in weights.values() if value.ndim == 2)
    assert zeros / sum(value.size for value in weights.values() if value.ndim == 2) == pytest.approx(0.9, abs=0.001)
    assert all(len(np.unique(value)) <= 16 for value in weights.values())
    assert not (compressed / STATES).exists() and [step.step["step"] for step in record.steps] == ["train", "prune-weights", "share-weights"]


def test_the_packed_file_decodes_to_the_very_weights(compressed: Path) -> None:
    a, b = (layer.state_dict() for layer in (decode(compressed), load(compressed)))
    assert all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in b)
    ran = run_edge("compress", "--verify", compressed)
    assert ran.code == 0 and "as recorded" in ran.out


@pytest.mark.parametrize(("file", "code"), [(PACKED, 2), (RECORD, 2), (WEIGHTS, 2)])
def test_a_damaged_model_is_not_proven(compressed: Path, tmp_path: Path, file: str, code: int) -> None:
    shutil.copytree(compressed, tmp_path / "m")
    data = (tmp_path / "m" / file).read_bytes()
    (tmp_path / "m" / file).write_bytes(data[: len(data) // 2])
    ran = run_edge("compress", "--verify", tmp_path / "m")
    assert ran.code == code and ran.err.startswith("edge: ") and "Traceback" not in ran.err


def test_a_record_that_promises_too_much_is_found_out(compressed: Path, tmp_path: Path) -> None:
    shutil.copytree(compressed, tmp_path / "m")
    record = json.loads((tmp_path / "m" / RECORD).read_text())
    (tmp_path / "m" / RECORD).write_text(json.dumps({**record, "error_after": 0.0, "packed_bytes": 10}))
    ran = run_edge("compress", "--verify", tmp_path / "m")
    assert ran.code == 1 and "packed_bytes" in ran.err and "error_after" in ran.err


def test_the_same_seed_gives_the_same_bytes_and_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(HEAD + TRAIN.replace("12", "2") + PRUNE)
    recipe = json.loads(read_recipe(tmp_path / "r.toml").model_dump_json())
    calls: list[str] = []

    def stop_in_the_second_step(done: int, total: int, note: str = "") -> None:
        calls.append(note)
        if note.startswith("2/2"):
            raise KeyboardInterrupt

    whole = run_recipe(recipe, 3, str(tmp_path / "a"), lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, 3, str(tmp_path / "b"), stop_in_the_second_step)
    resumed: list[str] = []
    again = run_recipe(recipe, 3, str(tmp_path / "b"), lambda done, total, note="": resumed.append(note))
    assert any(note.startswith("1/2") for note in calls) and not any(note.startswith("1/2") for note in resumed), "the first step is not done again"
    assert again["packed_bytes"] == whole["packed_bytes"] and again["error_after"] == whole["error_after"]
    assert (tmp_path / "a" / PACKED).read_bytes() == (tmp_path / "b" / PACKED).read_bytes()


def test_a_run_that_gets_worse_than_the_recipe_allows_stops(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(HEAD.replace("data", "stop_above_error = 1.0\ndata") + TRAIN.replace("12", "1"))
    recipe = json.loads(read_recipe(tmp_path / "r.toml").model_dump_json())
    with pytest.raises(CheckFailed, match="the recipe stops above 1 %"):
        run_recipe(recipe, 0, str(tmp_path / "out"), lambda *_: None)
    assert not (tmp_path / "out" / RECORD).exists()


def test_a_compressed_model_is_exported_like_any(compressed: Path, tmp_path: Path) -> None:
    ran = run_edge("export", compressed, "--format", "onnx", "--precision", "fp32", "--calibration", "digits", "--out", tmp_path, "--json")
    assert ran.code == 0, ran.err
    (cell,) = json.loads(ran.out)
    error = read_record(compressed).error_after
    assert error is not None and cell["status"] == "ok" and cell["parity"]["passed"] and cell["parity"]["accuracy"] == pytest.approx(100 - error)


def test_a_net_with_batch_norms_shares_its_values_and_trains_on() -> None:
    subject = subject_of("resnet28")
    ShareWeights(bits=4, biases=4).run(subject)
    assert all(len(np.unique(value.numpy())) <= 16 for value in trained(subject.layer).values())
    statistics = [value.numpy() for name, value in subject.layer.state_dict().items() if name.endswith("_variance")]
    assert any(len(np.unique(value)) > 16 for value in statistics), "statistics are no weights"


@pytest.mark.parametrize(
    "surgery",
    [
        [["train", {}]],
        [["none", {}]],
        [["prune-layers", {}]],
        [["prune-layers", {"removed": ["fc9"]}]],
        [["prune-neurons", {"shapes": {"fc1.weight": [784, 10**9]}, "groups": {}}]],
        [["prune-neurons", {"shapes": {"fc9.weight": [1, 1]}, "groups": {}}]],
        [["prune-neurons", {"shapes": 7}]],
        [["low-rank", {"layer": "fc1", "method": "svd", "ranks": [10**9]}]],
        [["low-rank", {"layer": "fc1", "method": "svd", "ranks": [300]}]],
    ],
    ids=str,
)
def test_a_stranger_s_surgery_is_bad_input(compressed: Path, tmp_path: Path, surgery: list[Any]) -> None:
    shutil.copytree(compressed, tmp_path / "m")
    record = json.loads((tmp_path / "m" / RECORD).read_text())
    (tmp_path / "m" / RECORD).write_text(json.dumps({**record, "surgery": surgery}))
    with pytest.raises(BadInput):
        load(tmp_path / "m")


@pytest.mark.parametrize("later", [PruneWeights(sparsity=0.5), ShareWeights(bits=2, epochs=0)], ids=lambda step: step.step)
@pytest.mark.parametrize("earlier", [ShareWeights(bits=4, epochs=0), Quantize(bits=8)], ids=lambda step: step.step)
def test_a_step_that_would_undo_another_is_refused(earlier: Step, later: Step) -> None:
    subject = subject_of("lenet300")
    earlier.run(subject)
    with pytest.raises(BadInput, match="shared or quantized by a step before"):
        later.run(subject)


def test_what_was_quantized_stays_through_later_training_and_so_do_the_norms() -> None:
    subject = subject_of("resnet28")
    Quantize(bits=8).run(subject)
    before = {name: value.numpy() for name, value in subject.layer.state_dict().items()}
    Train(epochs=1).run(subject)
    assert all(np.array_equal(before[name], value.numpy()) for name, value in subject.layer.state_dict().items())


def test_pruning_at_random_keeps_what_was_pruned() -> None:
    subject = subject_of("lenet300")
    PruneWeights(sparsity=0.6).run(subject)
    zeros = {name: value == 0 for name, value in prunable(subject).items()}
    PruneWeights(sparsity=0.7, importance="random").run(subject)
    assert all((value[zeros[name]] == 0).all() for name, value in prunable(subject).items())
    assert sparsity_of(subject) == pytest.approx(0.7, abs=0.001)


def test_a_threshold_is_in_deviations_of_the_layer_as_it_was() -> None:
    for rounds in (1, 3):
        subject = subject_of("lenet300")
        before = prunable(subject)
        PruneWeights(threshold=0.8, rounds=rounds).run(subject)
        for name, value in prunable(subject).items():
            assert np.array_equal(value == 0, np.abs(before[name]) < 0.8 * before[name].std()), (name, rounds)


def test_a_pattern_is_of_the_inputs_of_each_output_at_each_place_of_a_kernel() -> None:
    subject = subject_of("resnet28")
    before = prunable(subject)
    PruneWeights(pattern="2:4").run(subject)
    for name, value in prunable(subject).items():
        axis = 0 if value.ndim == 2 else 1
        if value.shape[axis] % 4:
            assert np.array_equal(value, before[name])
            continue
        groups, had = (np.moveaxis(each, axis, -1).reshape(-1, 4) for each in (value, before[name]))
        assert ((groups != 0).sum(1) == 2).all()
        assert np.array_equal(np.sort(np.abs(had))[:, 2:], np.sort(np.abs(groups))[:, 2:])


def test_a_weight_that_is_named_and_is_not_there_is_bad_input() -> None:
    for step in (
        ShareWeights(per_layer={"fc9.weight": 4}),
        PruneWeights(per_layer={"fc9.weight": 0.5}),
        Quantize(bits=8, per_layer={"fc9.weight": 4}),
    ):
        with pytest.raises(BadInput, match=r"there is no weight 'fc9\.weight'"):
            step.run(subject_of("lenet300"))


def test_a_batch_that_cannot_be_filled_is_no_training() -> None:
    with pytest.raises(BadInput, match="a batch of 4096 cannot be filled: there are 128 images"):
        Train(epochs=1, batch_size=4096).run(subject_of("lenet300"))


def test_a_folder_that_is_half_rewritten_is_none(compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(compressed, tmp_path / "m")
    record, layer = read_record(compressed), load(compressed)

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edge.compress.folder.save_weights", cut)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "m", layer, b"", record)
    with pytest.raises(BadInput):
        read_record(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"error_after": None}, 1, "the record says None"),
        ({"packed_bytes": None}, 1, "the record says None"),
        ({"macs": 1}, 1, "macs is 266200, the record says 1"),
        ({"parameters": 1}, 1, "the record says 1"),
        ({"data": "digits:held-out"}, 2, "data that are unknown: 'digits:held-out'"),
    ],
)
def test_a_record_that_tells_something_else_is_found(compressed: Path, tmp_path: Path, change: dict[str, Any], code: int, words: str) -> None:
    shutil.copytree(compressed, tmp_path / "m")
    record = json.loads((tmp_path / "m" / RECORD).read_text())
    (tmp_path / "m" / RECORD).write_text(json.dumps({**record, **change}))
    ran = run_edge("compress", "--verify", tmp_path / "m")
    assert ran.code == code and words in ran.err, ran.err


def test_a_pattern_that_fits_no_layer_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no layer's inputs divide"):
        PruneWeights(pattern="2:77").run(subject_of("lenet300"))


def test_other_data_than_were_asked_for_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.toml").write_text(HEAD.replace("digits", "mnist") + TRAIN)
    recipe = json.loads(read_recipe(tmp_path / "r.toml").model_dump_json())
    monkeypatch.setattr("edge.compress.run.load_dataset", lambda name: replace(load_dataset("digits"), note="MNIST is not on this machine"))
    with pytest.raises(Unavailable, match="MNIST is not on this machine"):
        run_recipe(recipe, 0, str(tmp_path / "out"), lambda *_: None)


def test_what_a_recipe_has_made_is_kept(compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = HEAD + TRAIN + PRUNE + SHARE
    shutil.copytree(compressed, tmp_path / "out" / "seed-0")
    record = json.loads((compressed / RECORD).read_text())
    (tmp_path / "out" / "seed-0" / RECORD).write_text(json.dumps({**record, "seconds": 1.0}))
    (tmp_path / "r.toml").write_text(recipe)
    monkeypatch.setattr("edge.workflows.compress.run_job", lambda *_, **__: {**record, "seconds": 2.0})
    made = compress(read_recipe(tmp_path / "r.toml"), recipe.encode(), tmp_path / "out", lambda *_: None)
    assert made[0].seconds == 1.0


def subject_of(model: str) -> Subject:
    data = load_dataset("digits")
    return Subject(model, model_entry(model).build(), data.train.head(128), data.test.head(64))


def test_values_come_to_be_shared_in_rounds_the_large_ones_first() -> None:
    seen: list[int] = []
    subject = subject_of("lenet300")
    PruneWeights(sparsity=0.5).run(subject)
    tuned = subject.fit

    def watch(*arguments: Any, **settings: Any) -> None:
        held = subject.constraints["fc1.weight"]
        assert isinstance(held, Shared)
        weight = dict(subject.layer.named_parameters())["fc1.weight"].numpy()
        free = held.codes == FREE
        seen.append(int(free.sum()))
        assert not free.any() or np.abs(weight[free]).max() <= np.abs(weight[held.codes > 0]).max()
        assert len(np.unique(weight[held.codes > 0])) <= 7
        tuned(*arguments, **settings)

    subject.fit = watch  # type: ignore[method-assign]
    ShareWeights(bits=3, rounds=3, epochs=1, learning_rate=1e-3).run(subject)
    kept = 784 * 300 // 2
    assert 0.45 * kept < seen[0] <= 0.5 * kept and 0.2 * kept < seen[1] <= 0.25 * kept and seen[2] == 0
    values = prunable(subject)
    assert all(len(np.unique(value)) <= 8 for value in values.values())
    assert sparsity_of(subject) == pytest.approx(0.5, abs=0.01)


def test_what_is_free_is_left_alone_by_what_is_shared() -> None:
    import paddle

    held = Shared(np.array([0, 1, 1, FREE]))
    assert held.project(paddle.to_tensor([9.0, 1.0, 3.0, 5.0])).tolist() == [0.0, 2.0, 2.0, 5.0]
    assert held.gradient(paddle.to_tensor([9.0, 1.0, 3.0, 5.0])).tolist() == [0.0, 2.0, 2.0, 5.0]
