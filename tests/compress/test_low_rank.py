"""Low rank: the algebra, the rules for the rank, and what is left of a model."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.compress import low_rank
from edge.compress.constraints import Mask
from edge.compress.low_rank import LowRank, Site, Split, by_energy, cost, factorised, full_ranks, ladder, parts_of, product, rebuild, sublayer
from edge.compress.steps import parse_step
from edge.compress.technique import Subject
from edge.compress.train import predict
from edge.datasets import Split as Images
from edge.datasets.digits import load
from edge.errors import BadInput
from edge.models import model_entry

sides = st.integers(1, 6)
shapes = st.tuples(sides, sides, st.integers(1, 3), st.integers(1, 3))
weights = st.builds(lambda shape, seed: np.random.default_rng(seed).standard_normal(shape), shapes, st.integers(0, 99))
methods: Any = st.sampled_from(["spatial", "tucker"])


def subject_of(model: str, images: int = 128) -> Subject:
    paddle.seed(0)
    digits = load()
    few = Images(digits.train.images[:images], digits.train.labels[:images])
    return Subject(model, model_entry(model).build(), few, Images(digits.train.images[-320:], digits.train.labels[-320:]))


@settings(max_examples=60, deadline=None)
@given(weights, methods)
def test_nothing_is_lost_at_the_full_rank(weight: Any, method: Any) -> None:
    parts = parts_of(weight, method, full_ranks(weight.shape, method))
    np.testing.assert_allclose(product(parts), weight, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(weights, methods)
def test_the_error_falls_with_the_rank(weight: Any, method: Any) -> None:
    errors = [float(((weight - product(parts_of(weight, method, ranks))) ** 2).sum()) for ranks in ladder(weight.shape, method)]
    assert all(later <= earlier * 1.001 + 1e-9 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-12 < float((weight**2).sum())


@settings(max_examples=60, deadline=None)
@given(weights, methods)
def test_the_cost_is_that_of_the_new_weights(weight: Any, method: Any) -> None:
    for ranks in ladder(weight.shape, method):
        assert cost(weight.shape, method, ranks) == sum(part.size for part in parts_of(weight, method, ranks))


@settings(max_examples=60, deadline=None)
@given(weights, st.floats(0.01, 1.0))
def test_energy_keeps_its_share_with_the_least_rank(weight: Any, share: float) -> None:
    (rank,) = by_energy(weight, "spatial", share)

    def kept(rank: int) -> float:
        return 1 - float(((weight - product(parts_of(weight, "spatial", (rank,)))) ** 2).sum() / (weight**2).sum())

    assert kept(rank) >= share - 1e-9
    assert rank == 1 or kept(rank - 1) < share + 1e-9


@given(st.integers(0, 40), st.integers(0, 40))
def test_bisection_finds_the_first_good_rung(length: int, first: int) -> None:
    rungs = [(number,) for number in range(length)]
    assert low_rank.first_good(rungs, lambda ranks: ranks[0] >= first) == ((first,) if first < length else None)


@pytest.mark.parametrize("method", ["spatial", "tucker"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": (2, 0), "dilation": (1, 2)}, {"bias_attr": False}])
def test_a_convolution_at_its_full_rank_computes_the_same(method: Any, options: dict[str, Any]) -> None:
    paddle.seed(0)
    layer = paddle.nn.Conv2D(4, 6, (3, 5), **options)
    if layer.bias is not None:
        layer.bias.set_value(paddle.randn([6]))
    split = Split(layer="", method=method, ranks=full_ranks((6, 4, 3, 5), method))
    x = paddle.randn([2, 4, 11, 12])
    np.testing.assert_allclose(factorised(layer, split)[0](x).numpy(), layer(x).numpy(), atol=1e-5)


def test_a_linear_layer_at_its_full_rank_computes_the_same() -> None:
    paddle.seed(0)
    layer, x = paddle.nn.Linear(7, 5), paddle.randn([2, 3, 7])
    layer.bias.set_value(paddle.randn([5]))
    chain, kept = factorised(layer, Split(layer="", method="svd", ranks=(5,)))
    np.testing.assert_allclose(chain(x).numpy(), layer(x).numpy(), atol=1e-5)
    assert kept == pytest.approx(1.0)


def test_macs_are_those_of_the_new_layers() -> None:
    """Counted from the shapes that the new layers really write."""
    layer = paddle.nn.Conv2D(4, 6, (3, 5), stride=(2, 1), padding=1)
    x = paddle.randn([1, 4, 11, 12])
    for method, ranks in (("spatial", (3,)), ("tucker", (2, 3)), ("tucker", (2, 4)), ("tucker", (6, 1))):
        split = Split(layer="", method=method, ranks=ranks)
        y, macs = x, 0
        for part in factorised(layer, split)[0]:
            y = part(y)
            macs += prod(part.weight.shape) * prod(y.shape[2:])
        assert macs == cost((6, 4, 3, 5), split.method, ranks, Site((11, 12), (y.shape[2], y.shape[3])))


def test_linear_layers_of_a_net_at_a_budget() -> None:
    subject = subject_of("lenet300")
    record = LowRank(budget=0.5).run(subject)
    assert set(record["replaced"]) == {"fc1", "fc2", "fc3"}
    for row in record["replaced"].values():
        before, after = row["parameters"]
        larger = after // row["ranks"][0] * (row["ranks"][0] + 1)
        assert after <= 0.5 * before < larger
    assert record["parameters"] == [266_610, sum(prod(p.shape) for p in subject.layer.parameters())]
    assert isinstance(sublayer(subject.layer, "fc1.0"), paddle.nn.Linear)


@pytest.mark.parametrize("convolutions", ["tucker", "spatial"])
def test_the_structure_is_built_anew(convolutions: Any) -> None:
    subject = subject_of("resnet28")
    LowRank(energy=0.7, convolutions=convolutions, budget_of="macs").run(subject)
    again = model_entry("resnet28").build()
    for _, details in subject.surgery:
        again = rebuild(again, details)
    state = subject.layer.state_dict()
    assert [(name, value.shape) for name, value in again.state_dict().items()] == [(name, value.shape) for name, value in state.items()]
    again.set_state_dict(state)
    np.testing.assert_array_equal(predict(again, subject.held_out.images), predict(subject.layer, subject.held_out.images))


def test_a_layer_stays_where_nothing_is_saved() -> None:
    subject = subject_of("lenet300")
    before = predict(subject.layer, subject.held_out.images)
    record = LowRank(energy=1.0).run(subject)
    assert not record["replaced"] and set(record["left"]) == {"fc1", "fc2", "fc3"} and not subject.surgery
    np.testing.assert_array_equal(predict(subject.layer, subject.held_out.images), before)


def test_the_budget_of_macs_counts_where_the_layer_stands() -> None:
    subject = subject_of("lenet5_caffe")
    assert low_rank.observe_sites(subject)["conv2"] == Site((12, 12), (8, 8))
    record = LowRank(budget=0.5, budget_of="macs", layers=("conv2",)).run(subject)
    (row,) = record["replaced"].values()
    assert row["macs"][0] == 20 * 50 * 25 * 64 and row["macs"][1] <= 0.5 * row["macs"][0]


def trained() -> Subject:
    subject = subject_of("lenet300", 512)
    parse_step({"step": "train", "epochs": 4, "batch_size": 32}, "here").run(subject)
    return subject


def test_the_search_finds_the_least_rank_that_keeps_the_accuracy() -> None:
    subject = trained()
    dense = subject.accuracy()
    assert dense > 60
    (row,) = LowRank(max_drop=3.0, layers=("fc1",)).run(subject)["replaced"].values()
    assert subject.accuracy() >= dense - 3.0
    (rank,) = row["ranks"]
    assert 1 < rank < row["full"][0]
    smaller = trained()
    LowRank(per_layer={"fc1": rank - 1}).run(smaller)
    assert smaller.accuracy() < dense - 3.0


def test_all_layers_together_stay_within_the_drop() -> None:
    subject = trained()
    dense = subject.accuracy()
    assert len(LowRank(max_drop=6.0).run(subject)["replaced"]) > 1
    assert subject.accuracy() >= dense - 6.0


def test_training_afterwards_mends() -> None:
    bare, mended = trained(), trained()
    LowRank(per_layer={"fc1": 2}).run(bare)
    LowRank(per_layer={"fc1": 2}, epochs=3, learning_rate=1e-3, batch_size=32).run(mended)
    assert sublayer(mended.layer, "fc1.0").weight.shape == [784, 2]
    assert mended.accuracy() > bare.accuracy() + 10


def test_only_named_layers_with_stated_ranks_change() -> None:
    subject = subject_of("lenet5_caffe")
    record = LowRank(per_layer={"conv2": (10, 8), "fc1": 20}).run(subject)
    assert {name: row["ranks"] for name, row in record["replaced"].items()} == {"conv2": [10, 8], "fc1": [20]}
    assert [part.weight.shape for part in sublayer(subject.layer, "conv2")] == [[8, 20, 1, 1], [10, 8, 5, 5], [50, 10, 1, 1]]


def test_masks_that_hold_nothing_go_and_others_refuse() -> None:
    subject = subject_of("lenet300")
    subject.constraints["fc1.weight"] = Mask(np.ones((784, 300), bool))
    assert LowRank(budget=0.5, layers=("fc1",)).run(subject)["dropped_constraints"] == ["fc1.weight"]
    assert not subject.constraints
    subject = subject_of("lenet300")
    parse_step({"step": "prune-weights", "sparsity": 0.5}, "here").run(subject)
    with pytest.raises(BadInput, match=r"fc1\.weight was pruned, shared or quantized by a step before"):
        LowRank(budget=0.5).run(subject)
    assert not subject.surgery


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "state one of energy"),
        ({"energy": 0.9, "budget": 0.5}, "state one of energy"),
        ({"energy": 1.5}, "energy"),
        ({"budget": 1}, "budget"),
        ({"per_layer": {"fc1": 3}, "layers": ["fc1"]}, "layers needs"),
        ({"energy": 0.9, "convolutions": "cp"}, "convolutions"),
    ],
)
def test_bad_settings_are_said(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_step({"step": "low-rank", **raw}, "here")


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (LowRank(per_layer={"fc9": 3}), "there is no linear layer or convolution 'fc9'"),
        (LowRank(per_layer={"conv1": 3}, convolutions="none"), "there is no linear layer 'conv1'"),
        (LowRank(per_layer={"conv2": 3}), "conv2: tucker takes 2 ranks"),
        (LowRank(per_layer={"fc1": 501}), r"fc1: ranks \[501\] are not from 1 to \[500\]"),
    ],
)
def test_what_cannot_be_done_is_said(step: LowRank, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        step.run(subject_of("lenet5_caffe"))


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"layer": "fc9", "method": "svd", "ranks": [3]},
        {"layer": "fc1", "method": "svd", "ranks": [0]},
        {"layer": "fc1", "method": "svd", "ranks": []},
        {"layer": "fc1", "method": "tucker", "ranks": [3]},
        {"layer": "fc1", "method": "svd", "ranks": [10**9]},
    ],
)
def test_damaged_surgery_is_refused(details: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="low-rank"):
        rebuild(model_entry("lenet300").build(), details)


def test_groups_are_left() -> None:
    subject = subject_of("lenet300")
    subject.layer = paddle.nn.Sequential(
        paddle.nn.Conv2D(1, 4, 3), paddle.nn.Conv2D(4, 4, 3, groups=4), paddle.nn.Flatten(), paddle.nn.Linear(2304, 10)
    )
    record = LowRank(budget=0.5).run(subject)
    assert "groups" in record["left"]["1"] and "3" in record["replaced"]
