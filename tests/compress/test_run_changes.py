"""A recipe records what each step has changed, and its dense net survives an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.compress import run
from edge.compress.folder import Compressed, read_record
from edge.errors import CheckFailed

TAUGHT = {"step": "distill", "epochs": 1, "alpha": 1.0, "temperature": 2.0}
RECIPE: dict[str, Any] = {
    "schema_version": 1,
    "model": "lenet300",
    "data": "digits",
    "steps": [{"step": "train", "epochs": 3}, {"step": "prune-weights", "sparsity": 0.9}, TAUGHT],
}


def run_it(folder: Path, recipe: dict[str, Any] = RECIPE) -> Compressed:
    return Compressed.model_validate(run.run_recipe(recipe, 0, str(folder), lambda *_: None))


def without_seconds(record: Compressed) -> dict[str, Any]:
    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(each) for key, each in value.items() if key != "seconds"}
        return [cleaned(each) for each in value] if isinstance(value, list) else value

    found: dict[str, Any] = cleaned(record.model_dump(mode="json"))
    return found


def test_each_step_is_compared_with_the_dense_net_on_held_out_images_and_the_end_on_the_test_images(tmp_path: Path) -> None:
    record = run_it(tmp_path)
    first, *later = record.steps
    assert first.changes is None
    for step in later:
        assert step.changes is not None and step.changes.samples == 239 and step.changes.robustness and step.changes.saliency
        assert step.changes.accuracy.after == pytest.approx(step.held_out) and step.changes.accuracy.before == pytest.approx(first.held_out)
    assert record.changes is not None and record.changes.samples == 360 and record.changes.robustness and record.changes.saliency
    assert record.error_after == pytest.approx(100 - record.changes.accuracy.after)
    assert record.error_before == pytest.approx(100 - record.changes.accuracy.before)
    assert json.loads((tmp_path / "compressed.json").read_text())["changes"]["flips"]["unit"] == "images"


def test_a_run_that_was_interrupted_learns_from_the_same_dense_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_it(tmp_path / "whole")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("edge.compress.distill_step.Distill.run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_it(tmp_path / "halves")
    kept = sorted((tmp_path / "halves" / run.STATES).glob("*.json"))
    assert len(kept) == 2
    with monkeypatch.context() as patched:  # the first steps must come from disk
        patched.setattr("edge.compress.train_step.Train.run", interrupted)
        patched.setattr("edge.compress.prune_weights.PruneWeights.run", interrupted)
        resumed = run_it(tmp_path / "halves")
    assert without_seconds(resumed) == without_seconds(whole)


def test_a_run_that_gets_too_bad_still_stops(tmp_path: Path) -> None:
    steps = [{"step": "train", "epochs": 1}, {"step": "prune-weights", "sparsity": 0.999}]
    with pytest.raises(CheckFailed, match="recipe stops above 60 %"):
        run_it(tmp_path, {**RECIPE, "steps": steps})


def test_a_net_that_is_pruned_before_it_is_trained_has_no_dense_net_either(tmp_path: Path) -> None:
    steps = [{"step": "prune-weights", "sparsity": 0.5, "importance": "random"}, {"step": "train", "epochs": 1}]
    record = run_it(tmp_path, {**RECIPE, "steps": steps, "stop_above_error": 90.0})
    assert record.error_before is None and record.changes is None and record.error_after is not None
    assert read_record(tmp_path / "dense").parameters > 1.9 * record.parameters


def test_a_net_that_is_narrowed_before_it_is_trained_is_compared_with_the_size_of_the_model_and_with_no_error(tmp_path: Path) -> None:
    steps = [{"step": "prune-neurons", "share": 0.5, "scope": "layer", "importance": "random"}, {"step": "train", "epochs": 3}]
    record = run_it(tmp_path, {**RECIPE, "steps": steps, "stop_above_error": 50.0})
    assert record.error_before is None and record.changes is None and record.error_after is not None and record.error_after < 50
    assert record.steps[0].held_out is not None and record.steps[0].held_out < 50
    assert record.plain_bytes < 0.5 * record.baseline_bytes
    assert read_record(tmp_path / "dense").plain_bytes == record.baseline_bytes  # to be timed beside
