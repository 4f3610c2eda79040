"""Sensitivity decides which layer gives how much, and the target is really met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.compress.adapt import Adapt, Option, Technique, chosen
from edge.compress.folder import packed_state
from edge.compress.prune_weights import prunable
from edge.compress.share_weights import ShareWeights
from edge.compress.structure import macs_of
from edge.compress.teaching import untrained
from edge.compress.technique import Subject
from edge.compress.train_step import Train
from edge.datasets import load_dataset
from edge.errors import BadInput
from edge.models import model_entry
from tests.conftest import run_edge


def trained(model: str, epochs: int = 3) -> Subject:
    data = load_dataset("digits").held_out()
    subject = Subject(model, untrained(model, 0), data.train, data.test)
    Train(epochs=epochs).run(subject)
    return subject


def macs(subject: Subject) -> int:
    return macs_of(subject.layer, model_entry(subject.model).inputs.values())


def test_the_sensitive_layer_keeps_more_and_the_size_is_met() -> None:
    subject = trained("lenet5")
    before = len(packed_state(subject.layer))
    record = Adapt(technique="prune-weights", size=0.2, samples=200, epochs=4).run(subject)
    assert record["found"] <= 0.2 * before == record["target"] and len(packed_state(subject.layer)) == record["reached"] <= 0.21 * before
    sparsity = {name: float(np.mean(value == 0)) for name, value in prunable(subject).items()}
    assert sparsity == pytest.approx({**dict.fromkeys(sparsity, 0.0), **record["levels"]}, abs=0.001)
    losses = {(layer, level): loss for layer, level, loss, _ in record["sensitivity"]}
    assert losses["fc1.weight", 0.99] != losses["fc3.weight", 0.99] and sparsity["fc1.weight"] > sparsity["fc3.weight"]
    assert subject.accuracy() > 80


@pytest.mark.parametrize("technique", ["prune-filters", "low-rank"])
def test_half_of_the_multiplications(technique: Technique) -> None:
    subject = trained("lenet5")
    before = macs(subject)
    Adapt(technique=technique, macs=0.5, samples=100, epochs=1).run(subject)
    assert 0.35 * before < macs(subject) <= 0.5 * before
    assert subject.surgery and subject.accuracy() > 80


def test_bits_differ_by_layer() -> None:
    subject = trained("lenet5")
    before = len(packed_state(subject.layer))
    record = Adapt(technique="quantize", size=0.12, samples=100, levels=(32, 8, 4, 1)).run(subject)
    assert record["found"] <= 0.12 * before and set(record["levels"].values()) <= {8, 4, 1}
    assert len(packed_state(subject.layer)) <= 0.13 * before


def test_a_latency_is_measured_of_the_very_models() -> None:
    subject, seen = trained("lenet5_caffe", 1), []

    def latency_of(layer: Any) -> float:
        seen.append(macs_of(layer, model_entry("lenet5_caffe").inputs.values()) / 1e6)
        return seen[-1]

    subject.latency_of = latency_of
    record = Adapt(technique="prune-filters", latency_ms=1.0, samples=50).run(subject)
    assert record["reached"] == record["found"] <= 1.0 < record["before"] and record["unit"] == "ms" and len(seen) == 9
    assert macs(subject) == pytest.approx(1e6 * record["reached"])


def test_without_a_clock_a_latency_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing here measures latency"):
        Adapt(technique="prune-filters", latency=0.5).run(trained("lenet5_caffe", 1))


def test_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(BadInput, match="with every layer at its strongest level"):
        Adapt(technique="prune-weights", size=0.01, levels=(0.0, 0.5), samples=50).run(trained("lenet5", 1))


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"technique": "prune-weights"}, "state one of size"),
        ({"technique": "prune-weights", "macs": 0.5}, "changes the size alone"),
        ({"technique": "quantize", "size": 0.5, "levels": [3]}, "levels: 3 is none of quantize"),
        ({"technique": "prune-filters", "macs": 0.5, "levels": [1.0]}, "levels: 1 is none of prune-filters"),
    ],
)
def test_wrong_settings(settings_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Adapt.model_validate({"step": "adapt", **settings_})


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(BadInput, match="there is no layer 'fc9'"):
        Adapt(technique="prune-weights", size=0.5, layers=("fc9",)).run(trained("lenet300", 1))


def test_why_no_layer_can_be_changed_is_said() -> None:
    subject = trained("lenet5", 1)
    ShareWeights(bits=4, epochs=0).run(subject)
    with pytest.raises(BadInput, match="shared or quantized by a step before"):
        Adapt(technique="prune-weights", size=0.5, samples=50).run(subject)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Option], int]:
    """Two to three layers with one to three levels beside the untouched one; costs and losses whole numbers."""
    whole, options = 1000, []
    for layer in range(draw(st.integers(2, 3))):
        options.append(Option(str(layer), 0.0, 0.0, whole))
        for level in range(draw(st.integers(1, 3))):
            options.append(Option(str(layer), 0.1 * (level + 1), float(draw(st.integers(-5, 50))), whole - draw(st.integers(0, 300))))
    return options, draw(st.integers(100, whole))


@given(tables())
@settings(max_examples=80, deadline=None)
def test_the_choice_is_the_best_of_all_choices(table: tuple[list[Option], int]) -> None:
    options, allowance = table
    by_layer: dict[str, list[Option]] = {}
    for option in options:
        by_layer.setdefault(option.layer, []).append(option)
    every: list[list[Option]] = [[]]
    for choices in by_layer.values():
        every = [[*so_far, choice] for so_far in every for choice in choices]

    def cost(taken: list[Option]) -> int:
        return 1000 - sum(1000 - one.cost for one in taken)

    cheapest = min(cost(taken) for taken in every)
    best = min(sum(one.loss for one in taken) for taken in every if cost(taken) <= max(allowance, cheapest))
    levels = chosen(options, allowance)
    taken = [next(one for one in choices if one.level == levels.get(layer, 0.0)) for layer, choices in by_layer.items()]
    assert cost(taken) <= max(allowance, cheapest) and sum(one.loss for one in taken) == pytest.approx(best)


@pytest.mark.slow
def test_a_recipe_that_aims_at_a_measured_latency(tmp_path: Path) -> None:
    steps = '[[steps]]\nstep = "train"\nepochs = 2\n[[steps]]\nstep = "adapt"\ntechnique = "prune-filters"\nlatency = 0.7\nsamples = 100\n'
    (tmp_path / "r.toml").write_text('schema_version = 1\nmodel = "lenet5_caffe"\ndata = "digits"\n' + steps)
    ran = run_edge("compress", tmp_path / "r.toml", "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "out" / "seed-0" / "compressed.json").read_text())["steps"][1]["record"]
    assert record["unit"] == "ms" and 0 < record["found"] <= record["target"] == 0.7 * record["before"]
