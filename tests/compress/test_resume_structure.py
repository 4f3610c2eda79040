"""A recipe that changes the structure and quantizes, interrupted after that and taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.compress.folder import decode, load
from edge.compress.run import run_recipe
from edge.errors import BadInput

STEPS: list[dict[str, Any]] = [
    {"step": "train", "epochs": 1},
    {"step": "low-rank", "per_layer": {"conv2": [10, 8], "fc1": 20}},
    {"step": "quantize", "bits": 4, "keep": 8},
]


def recipe_of(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"schema_version": 1, "model": "lenet5_caffe", "data": "digits", "steps": steps, "stop_above_error": 100}


def test_structure_and_codes_are_taken_up_where_a_run_ended(tmp_path: Path) -> None:
    begun: list[str] = []

    def watch(done: int, total: int, note: str = "") -> None:
        begun.append(note.split(" loss")[0])

    wrong = {"step": "prune-weights", "per_layer": {"fc9.weight": 0.5}}
    with pytest.raises(BadInput, match="fc9"):
        run_recipe(recipe_of(*STEPS, wrong), 0, str(tmp_path / "a"), watch)
    assert set(begun) == {"1/4 train"}
    begun.clear()
    again = run_recipe(recipe_of(*STEPS, {"step": "train", "epochs": 1}), 0, str(tmp_path / "a"), watch)
    assert {note for note in begun if "/" in note} == {"4/4 train"}, "the first three were done"
    whole = run_recipe(recipe_of(*STEPS, {"step": "train", "epochs": 1}), 0, str(tmp_path / "b"), watch)
    assert (tmp_path / "a/packed.bin").read_bytes() == (tmp_path / "b/packed.bin").read_bytes()
    assert [name for name, _ in again["surgery"]] == ["low-rank", "low-rank"] and again["packed_bytes"] == whole["packed_bytes"]
    stored, decoded = (made.state_dict() for made in (load(tmp_path / "a"), decode(tmp_path / "a")))
    assert [value.numpy().tobytes() for value in stored.values()] == [value.numpy().tobytes() for value in decoded.values()]
    assert "conv2.2.bias" in stored and again["packed_bytes"] < again["baseline_bytes"] / 60
