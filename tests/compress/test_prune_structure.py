"""Filters, neurons and layers that are removed from a trained net."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from edge.compress.constraints import Mask, Shared
from edge.compress.folder import decode, load
from edge.compress.prune_weights import PruneWeights
from edge.compress.run import run_recipe
from edge.compress.share_weights import ShareWeights
from edge.compress.steps import parse_step, rebuild
from edge.compress.structure import macs_of
from edge.compress.technique import Record, Subject
from edge.compress.train import TrainConfig, predict, top1
from edge.compress.train_step import Train
from edge.datasets import Split, load_dataset
from edge.errors import BadInput, CheckFailed
from edge.models import ZOO, ModelEntry, model_entry

_TRAINED: dict[str, Subject] = {}


def trained(model: str, epochs: int = 3) -> Subject:
    """A net that knows the digits, a copy for each test."""
    if model not in _TRAINED:
        paddle.seed(0)
        data = load_dataset("digits").held_out()
        subject = Subject(model, model_entry(model).build(), data.train, data.test)
        subject.fit(TrainConfig(epochs))
        _TRAINED[model] = subject
    one = _TRAINED[model]
    return Subject(model, copy.deepcopy(one.layer), one.train, one.held_out)


def run(subject: Subject, **settings: Any) -> Record:
    return parse_step(settings, "test").run(subject)


def macs(subject: Subject) -> int:
    return macs_of(subject.layer, model_entry(subject.model).inputs.values())


def check_rebuilt(subject: Subject) -> None:
    """The untouched model, with the surgery of the record and the weights, gives the same logits."""
    surgery = [(name, details) for name, details in json.loads(json.dumps(subject.surgery))]
    again = rebuild(model_entry(subject.model).build(), surgery)
    again.set_state_dict(subject.layer.state_dict())
    images = paddle.to_tensor(subject.held_out.images[:8])
    subject.layer.eval()
    again.eval()
    np.testing.assert_array_equal(again(images).numpy(), subject.layer(images).numpy())


IMPORTANCES = ("l1", "fpgm", "bn-scale", "taylor", "random")


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_half_of_the_multiplications_go(importance: str) -> None:
    subject = trained("fashion_net")
    before = macs(subject)
    record = run(subject, step="prune-filters", macs=0.5, importance=importance)
    assert macs(subject) == record["macs_after"] <= before / 2 == record["macs_before"] / 2
    assert record["macs_after"] > 0.45 * before  # one filter more than needed, not many
    check_rebuilt(subject)


def test_training_in_between_brings_the_accuracy_back() -> None:
    subject = trained("fashion_net")
    dense = subject.accuracy()
    pruned = trained("fashion_net")
    run(pruned, step="prune-filters", macs=0.6)
    run(subject, step="prune-filters", macs=0.6, rounds=2, epochs=2)
    assert macs(subject) <= 0.4 * macs(trained("fashion_net"))
    assert pruned.accuracy() < subject.accuracy() >= dense - 5


@pytest.mark.parametrize("importance", ["l1", "fpgm", "taylor"])
def test_what_matters_little_goes_first(importance: str) -> None:
    """Filters that are nearly zero are found among the others."""
    subject = trained("lenet5_caffe")
    weight, bias = subject.layer.conv2.weight, subject.layer.conv2.bias
    weak = np.arange(50) % 2 == 0
    weight.set_value(weight.numpy() * np.where(weak, 1e-4, 1)[:, None, None, None].astype(np.float32))
    bias.set_value(bias.numpy() * np.where(weak, 1e-4, 1).astype(np.float32))
    before = subject.accuracy()
    kept = weight.numpy()[~weak]
    run(subject, step="prune-filters", per_layer={"conv2.weight": 0.5}, importance=importance)
    np.testing.assert_array_equal(subject.layer.conv2.weight.numpy(), kept)
    assert abs(subject.accuracy() - before) < 0.5


@pytest.mark.parametrize(("importance", "goes"), [("l1", "the small one"), ("fpgm", "the one that others can replace")])
def test_small_is_not_replaceable(importance: str, goes: str) -> None:
    """All filters are large and alike, but one is small and lies apart; of the others one is in their middle."""
    subject = trained("lenet5_caffe")
    weight = subject.layer.conv1.weight
    values = np.full(weight.shape, 10.0, np.float32)
    values[:, 0, 0, 0] += np.arange(20) - 10  # the middle one is number 10
    values[3] = -0.1
    weight.set_value(values)
    run(subject, step="prune-filters", per_layer={"conv1.weight": 0.05}, importance=importance)
    left = subject.layer.conv1.weight.numpy()
    np.testing.assert_array_equal(left, np.delete(values, 3 if goes == "the small one" else 10, 0))


@pytest.mark.parametrize(("model", "weight", "gate"), [("lenet5_caffe", "conv1.weight", "conv1"), ("fashion_net", "deepen.0.weight", "deepen.1")])
def test_taylor_is_the_gradient_times_the_activation(model: str, weight: str, gate: str) -> None:
    subject = trained(model)
    subject.train = subject.train.head(200)
    outputs: list[Any] = []
    layer = dict(subject.layer.named_sublayers())[gate]
    hook = layer.register_forward_post_hook(lambda _layer, _inputs, output: outputs.append(output))
    subject.layer.eval()
    loss = subject.label_loss()(paddle.to_tensor(subject.train.images), paddle.to_tensor(subject.train.labels), paddle.zeros([1]))
    [gradient] = paddle.grad(loss, outputs)
    change = np.abs((outputs[0] * gradient).sum([0, 2, 3]).numpy())
    hook.remove()
    before = subject.layer.state_dict()[weight].numpy()
    run(subject, step="prune-filters", per_layer={weight: 1 / len(change)}, importance="taylor", samples=200, batch_size=200)
    np.testing.assert_array_equal(subject.layer.state_dict()[weight].numpy(), np.delete(before, change.argmin(), 0))


def test_batch_norm_scales_choose() -> None:
    subject = trained("vgg28", 1)
    norm = getattr(subject.layer.first, "0")[1]
    norm.weight.set_value(np.arange(24, 0, -1).astype(np.float32))
    bias = norm.bias.numpy()
    run(subject, step="prune-filters", per_layer={"first.0.0.weight": 0.25}, importance="bn-scale")
    np.testing.assert_array_equal(norm.weight.numpy(), np.arange(24, 6, -1))
    np.testing.assert_array_equal(norm.bias.numpy(), bias[:18])


def test_shares_of_each_layer_and_of_all() -> None:
    each, together = trained("lenet5_caffe"), trained("lenet5_caffe")
    widths = run(each, step="prune-filters", share=0.5, scope="layer")["channels"]
    assert widths == {"conv1.weight": [20, 10], "conv2.weight": [50, 25], "fc1.weight": [500, 500], "fc2.weight": [10, 10]}
    widths = run(together, step="prune-filters", share=0.5)["channels"]
    assert widths["conv1.weight"][1] + widths["conv2.weight"][1] == 35


@pytest.mark.parametrize("importance", ["l1", "fpgm", "taylor"])
def test_the_size_of_a_whole_layer_decides_nothing(importance: str) -> None:
    """lenet5_caffe has no relu behind its convolutions: one can be smaller and the next larger, and the net is the same."""
    plain, scaled = trained("lenet5_caffe"), trained("lenet5_caffe")
    for value, factor in ((scaled.layer.conv1.weight, 1 / 64), (scaled.layer.conv1.bias, 1 / 64), (scaled.layer.conv2.weight, 64)):
        value.set_value(value * factor)
    widths = [run(subject, step="prune-filters", share=0.4, importance=importance)["channels"] for subject in (plain, scaled)]
    assert widths[0] == widths[1]
    assert widths[0]["conv1.weight"][1] > 1


def test_neurons() -> None:
    subject = trained("lenet300")
    widths = run(subject, step="prune-neurons", share=0.8, rounds=3, epochs=2, importance="taylor")["channels"]
    assert widths["fc1.weight"][1] + widths["fc2.weight"][1] == 80
    assert widths["fc3.weight"] == [10, 10]
    assert subject.layer.fc1.weight.shape == [784, widths["fc1.weight"][1]]
    assert subject.accuracy() > 80
    check_rebuilt(subject)


def test_a_layer_keeps_its_least_and_a_multiple() -> None:
    subject = trained("lenet5_caffe")
    widths = run(subject, step="prune-filters", share=0.99, scope="layer", least=3)["channels"]
    assert (widths["conv1.weight"][1], widths["conv2.weight"][1]) == (3, 3)
    subject = trained("lenet5_caffe")
    widths = run(subject, step="prune-filters", share=0.5, scope="layer", multiple=8)["channels"]
    assert (widths["conv1.weight"][1], widths["conv2.weight"][1]) == (16, 32)  # 12 - 8 would be more than half of 20


def test_what_weights_are_held_to_goes_with_them() -> None:
    subject = trained("lenet5_caffe")
    PruneWeights(sparsity=0.8).run(subject)
    ShareWeights(bits=3, epochs=0, value_bits=32).run(subject)
    subject.constraints["conv1.weight"] = Mask(subject.layer.conv1.weight.numpy() != 0)
    values = len(np.unique(subject.layer.fc1.weight.numpy()))
    run(subject, step="prune-filters", share=0.5, scope="layer", epochs=1)
    for name, constraint in subject.constraints.items():
        held = constraint.keep if isinstance(constraint, Mask) else constraint.codes  # type: ignore[attr-defined]
        assert list(held.shape) == subject.layer.state_dict()[name].shape
    assert isinstance(subject.constraints["fc1.weight"], Shared)
    assert len(np.unique(subject.layer.fc1.weight.numpy())) <= values
    mask = subject.constraints["conv1.weight"]
    assert isinstance(mask, Mask)
    assert not subject.layer.conv1.weight.numpy()[~mask.keep].any()


def test_the_same_seed_gives_the_same_net() -> None:
    states = []
    for _ in range(2):
        subject = trained("lenet300")
        run(subject, step="prune-neurons", share=0.5, importance="random", epochs=1)
        states.append(subject.layer.state_dict()["fc1.weight"].numpy())
    np.testing.assert_array_equal(*states)


def test_a_block_of_little_influence_is_left_out() -> None:
    subject = trained("resnet28", 1)
    block = getattr(subject.layer.stages, "3")
    for value in (block.norm2.weight, block.norm2.bias):  # relu(x + 0) is x: the block does nothing
        value.set_value(value * 0)
    before, size = subject.accuracy(), macs(subject)
    subject.constraints = {"stages.3.conv1.weight": Mask(np.ones((32, 32, 3, 3), bool)), "stages.2.conv1.weight": Mask(np.ones((32, 16, 3, 3), bool))}
    record = run(subject, step="prune-layers", layers=["stages.0", "stages.1", "stages.3", "stages.5"], max_drop=0.1)
    assert [one["layer"] for one in record["removed"]] == ["stages.3"]
    assert set(record["removed"][0]["drops"]) == {"stages.0", "stages.1", "stages.3", "stages.5"}
    assert subject.accuracy() == before
    assert size - macs(subject) == 2 * 32 * 32 * 9 * 7 * 7
    assert set(subject.constraints) == {"stages.2.conv1.weight"}
    check_rebuilt(subject)
    run(subject, step="prune-filters", share=0.3, scope="layer")
    check_rebuilt(subject)


@pytest.mark.parametrize(
    ("model", "candidates"),
    [
        ("resnet28", ["stages.0", "stages.1", "stages.2.conv2", "stages.3", "stages.4.conv2", "stages.5"]),
        ("vgg28", ["first.1", "second.1", "third.1"]),
        ("alexnet28", ["rest.1"]),
        ("fashion_net", ["widen.depthwise", "refine"]),
    ],
)
def test_layers_that_can_be_left_out(model: str, candidates: list[str]) -> None:
    data = load_dataset("digits").test
    subject = Subject(model, model_entry(model).build(), data.head(8), data.head(8))
    with pytest.raises(BadInput, match=f"only {len(candidates)} layers") as caught:
        run(subject, step="prune-layers", count=20)
    with pytest.raises(BadInput, match="is named twice, or lies in"):
        run(subject, step="prune-layers", layers=candidates[:1] * 2)
    assert caught.value.hint == f"there are: {', '.join(candidates)}"


def test_no_layer_goes_that_costs_too_much() -> None:
    subject = trained("vgg28", 1)
    before = macs(subject)
    record = run(subject, step="prune-layers", count=3, max_drop=0.0)
    assert len(record["removed"]) < 3
    assert (macs(subject) < before) == bool(record["removed"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"step": "prune-filters"}, "state one of share, per_layer, macs"),
        ({"step": "prune-filters", "share": 0.5, "macs": 0.5}, "state one of share, per_layer, macs"),
        ({"step": "prune-filters", "share": 1.0}, "share"),
        ({"step": "prune-filters", "per_layer": {"conv1.weight": 1.5}}, "between 0 and 1"),
        ({"step": "prune-filters", "share": 0.5, "importance": "magic"}, "importance"),
        ({"step": "prune-filters", "per_layer": {"conv9.weight": 0.5}}, "no conv layer 'conv9.weight'"),
        ({"step": "prune-filters", "per_layer": {"fc2.weight": 0.5}}, "cannot be removed: they are the outputs of the net"),
        (
            {"step": "prune-filters", "macs": 0.99},
            "with the least channels kept the net still has 29,000 multiplications, of 2,293,000; wanted: 22,930",
        ),
        ({"step": "prune-filters", "share": 0.5, "importance": "bn-scale"}, "no batch norm follows conv1.weight"),
        ({"step": "prune-layers"}, "only 0 layers give the shape which they take"),
        ({"step": "prune-layers", "layers": ["conv1"]}, "'conv1' is no layer with weights that gives the shape"),
    ],
)
def test_what_cannot_be_done_is_said(settings: dict[str, Any], sentence: str) -> None:
    data = load_dataset("digits").test.head(8)
    with pytest.raises(BadInput, match=sentence):
        run(Subject("lenet5_caffe", model_entry("lenet5_caffe").build(), data, data), **settings)


def test_a_recipe_is_taken_up_again_and_its_folder_loads(tmp_path: Path) -> None:
    steps = [
        {"step": "train", "epochs": 2},
        {"step": "prune-filters", "share": 0.6, "importance": "taylor"},
        {"step": "prune-neurons", "share": 0.5, "epochs": 1},
    ]
    recipe = {"schema_version": 1, "model": "lenet5_caffe", "data": "digits", "steps": steps, "stop_above_error": 20}
    with pytest.raises(CheckFailed, match="prune-filters"):
        run_recipe(recipe, 0, str(tmp_path), _quiet)
    record = run_recipe({**recipe, "stop_above_error": 100}, 0, str(tmp_path), _quiet)
    loaded, decoded, data = load(tmp_path), decode(tmp_path), load_dataset("digits").test
    assert loaded.conv1.weight.shape[0] < 20
    assert loaded.fc1.weight.shape[1] == 250
    logits = predict(loaded, data.images)
    np.testing.assert_array_equal(predict(decoded, data.images), logits)
    assert 100 - top1(logits, data.labels) == pytest.approx(record["error_after"])


def _quiet(done: int, total: int, note: str = "") -> None:
    pass


def test_layers_that_share_channels_are_named_once() -> None:
    data = load_dataset("digits").test.head(8)
    step = {"step": "prune-filters", "per_layer": {"stem.0.weight": 0.5, "stages.0.conv2.weight": 0.25}}
    with pytest.raises(BadInput, match=r"stem.0.weight and stages.0.conv2.weight share their channels"):
        run(Subject("resnet28", model_entry("resnet28").build(), data, data), **step)


def test_code_that_counts_on_its_channels_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2D(1, 4, 28), nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.conv(x).reshape([-1, 4]))

    monkeypatch.setitem(ZOO, "fixed", ModelEntry(Fixed, {"image": ((None, 1, 28, 28), "float32")}, 2, ""))
    data = load_dataset("digits").test.head(8)
    with pytest.raises(BadInput, match="the code of fixed counts on its channels"):
        run(Subject("fixed", Fixed(), data, Split(data.images, data.labels % 2)), step="prune-filters", share=0.25)


def test_norm_l1_makes_scales_small() -> None:
    data = load_dataset("digits").held_out()
    sums = []
    for weight in (0.0, 0.01):
        paddle.seed(0)
        subject = Subject("alexnet28", model_entry("alexnet28").build(), data.train, data.test)
        Train(epochs=2, norm_l1=weight).run(subject)
        sums.append(float(getattr(subject.layer.second, "1").weight.abs().sum()))
    assert sums[1] < sums[0]
    with pytest.raises(BadInput, match="has no batch norm"):
        Train(epochs=1, norm_l1=0.1).run(Subject("lenet300", model_entry("lenet300").build(), data.train, data.test))
