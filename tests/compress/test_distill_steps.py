"""Distillation as steps: the losses are the papers', each way teaches, what helps in training is gone afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from edge.compress.born_again import BornAgain
from edge.compress.constraints import Mask
from edge.compress.distill_step import Distill, Teacher
from edge.compress.mutual import Mutual, mutual_loss
from edge.compress.prune_neurons import PruneNeurons
from edge.compress.prune_weights import PruneWeights
from edge.compress.self_distill import SelfDistill, head_for
from edge.compress.share_weights import ShareWeights
from edge.compress.steps import parse_step
from edge.compress.teaching import attention_loss, hint_loss, regressor_for, softened, taught_loss, untrained, watched
from edge.compress.technique import Subject
from edge.compress.train import TrainConfig, predict, top1
from edge.compress.train_step import Train
from edge.datasets import Split, load_dataset
from edge.errors import BadInput

DIGITS = load_dataset("digits").held_out()


def subject_of(model: str = "lenet300", seed: int = 0, train: Split = DIGITS.train) -> Subject:
    return Subject(model, untrained(model, seed), train, DIGITS.test, seed)


def tensors(*arrays: np.ndarray) -> Any:
    import paddle

    return [paddle.to_tensor(a.astype("float32")) for a in arrays]


def names_of(subject: Subject) -> list[str]:
    return list(subject.layer.state_dict())


def test_several_teachers_count_by_the_mean_of_their_softened_outputs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 10)), 3 * rng.normal(size=(6, 10))
    expected = (softmax(a / 2, axis=1) + softmax(b / 2, axis=1)) / 2
    np.testing.assert_allclose(softened([a, b], 2.0), expected, rtol=1e-5)
    s, y = rng.normal(size=(6, 10)), rng.integers(0, 10, 6)
    soft = (expected * (np.log(expected) - log_softmax(s / 2, axis=1))).sum(1).mean()
    hard = -log_softmax(s, axis=1)[np.arange(6), y].mean()
    import paddle

    logits, target = tensors(s, expected)
    loss = taught_loss(logits, paddle.to_tensor(y), target, 2.0, 0.25)
    assert float(loss) == pytest.approx(0.75 * hard + 0.25 * 4 * soft, rel=1e-4)


def test_attention_is_compared_by_where_it_lies_not_by_its_size() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 5, 4, 4)), rng.normal(size=(3, 7, 4, 4))
    maps = [(x**2).mean(1).reshape(3, -1) for x in (a, b)]
    unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    expected = ((unit[0] - unit[1]) ** 2).sum(1).mean()
    assert float(attention_loss(*tensors(a, b))) == pytest.approx(expected, rel=1e-4)
    assert float(attention_loss(*tensors(a, 9 * a))) == pytest.approx(0, abs=1e-6)


def test_hints_of_other_widths_and_sizes_go_through_a_regressor_and_a_pool() -> None:
    rng = np.random.default_rng(2)
    a, b = tensors(rng.normal(size=(3, 5, 8, 8)), rng.normal(size=(3, 7, 4, 4)))
    regressor = regressor_for(a, b)
    assert regressor is not None
    weight, bias = (p.numpy() for p in regressor.parameters())
    pooled = a.numpy().reshape(3, 5, 4, 2, 4, 2).mean((3, 5))
    through = np.einsum("nchw,oc->nohw", pooled, weight[:, :, 0, 0]) + bias[None, :, None, None]
    assert float(hint_loss(a, b, regressor)) == pytest.approx(((through - b.numpy()) ** 2).mean(), rel=1e-4)
    assert regressor_for(b, b) is None


def test_mutual_learning_is_zhang_s_and_nobody_s_gradient_passes_to_the_other() -> None:
    import paddle

    rng = np.random.default_rng(3)
    a, b, y = rng.normal(size=(5, 10)), rng.normal(size=(5, 10)), rng.integers(0, 10, 5)
    la, lb = log_softmax(a, axis=1), log_softmax(b, axis=1)
    hard = -la[np.arange(5), y].mean() - lb[np.arange(5), y].mean()
    soft = (np.exp(lb) * (lb - la)).sum(1).mean() + (np.exp(la) * (la - lb)).sum(1).mean()
    ta, tb = tensors(a, b)
    ta.stop_gradient = False
    loss = mutual_loss([ta, tb], paddle.to_tensor(y))
    assert float(loss) == pytest.approx(hard + soft, rel=1e-4)
    loss.backward()
    own = (np.exp(la) - np.eye(10)[y]) / 5 + (np.exp(la) - np.exp(lb)) / 5  # of CE and of KL(b || a), with b a constant
    np.testing.assert_allclose(ta.grad.numpy(), own, atol=1e-5)


def test_a_student_follows_teachers_that_lie() -> None:
    """Both teachers shift every label by one, so with alpha 1 the student must learn the shift, at a temperature of its own."""
    shifted = Split(DIGITS.train.images, (DIGITS.train.labels + 1) % 10)
    liar = subject_of(train=shifted, seed=5)
    liar.fit(TrainConfig(4))
    student = subject_of("lenet5")
    student.teacher = liar.layer
    record = Distill(teachers=(Teacher(dense=True),), alpha=1.0, epochs=6).run(student)
    lies = predict(student.layer, DIGITS.test.images).argmax(1)
    assert (lies == (DIGITS.test.labels + 1) % 10).mean() > 0.75 and student.accuracy() < 15
    assert record["teachers_held_out"][0] < 15


def test_hidden_layers_are_drawn_to_the_teacher_s_and_the_regressors_are_gone() -> None:
    import paddle

    teacher = subject_of("mnist_teacher", seed=1)
    teacher.fit(TrainConfig(1))

    def taught(model: str, layer: str, loss: Any, **weights: float) -> tuple[float, int]:
        """Distance of the layer from the teacher's after a distillation, and how many regressors there were."""
        student = subject_of(model, train=DIGITS.train.head(640))
        student.teacher = teacher.layer
        names = names_of(student)
        record = Distill(layers=(layer,) if weights else (), alpha=0.1, epochs=2, **weights).run(student)
        assert names_of(student) == names
        with watched(student.layer, [layer]) as own, watched(teacher.layer, [layer]) as others, paddle.no_grad():
            for net in (student.layer, teacher.layer):
                net(paddle.to_tensor(DIGITS.test.images))
            return float(loss(own[layer], others[layer])), record["regressors"]

    looked, regressors = taught("mnist_student", "conv2", attention_loss, attention=100.0)
    assert looked < 0.7 * taught("mnist_student", "conv2", attention_loss)[0] and regressors == 0
    drawn, regressors = taught("mnist_student", "fc1", hint_loss, feature=1.0)
    assert drawn < 0.5 * taught("mnist_student", "fc1", hint_loss)[0] and regressors == 0
    assert taught("lenet5", "conv1", lambda *_: 0.0, feature=1.0)[1] == 1  # 6 channels to 32


def test_a_compressed_model_and_a_fresh_one_teach_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.compress.folder import load
    from edge.compress.run import run_recipe

    train = {"step": "train", "epochs": 4}
    pruned = {"step": "prune-weights", "sparsity": 0.5}
    run_recipe({"schema_version": 1, "model": "lenet300", "data": "digits", "steps": [train, pruned]}, 0, str(tmp_path / "made"), lambda *_: None)
    monkeypatch.chdir(tmp_path)
    student = subject_of("lenet300", seed=3, train=DIGITS.train.head(640))
    step = {"step": "distill", "epochs": 2, "layers": ["fc1"], "feature": 1.0, "teacher_layers": ["fc1"]}
    record = parse_step({**step, "teachers": [{"folder": "made"}, {"model": "lenet5", "epochs": 2}]}, "step 1").run(student)
    assert record["teachers_held_out"][0] == pytest.approx(top1(predict(load(Path("made")), DIGITS.test.images), DIGITS.test.labels))
    assert record["regressors"] == 1  # lenet5's fc1 is 120 wide, lenet300's 300 as the student's
    assert student.accuracy() > 70


def test_peers_teach_each_other_better_than_chance_and_leave_nothing_behind() -> None:
    student = subject_of("lenet300")
    names = names_of(student)
    record = Mutual(peers=("lenet300", "lenet5"), epochs=3).run(student)
    assert names_of(student) == names and student.accuracy() > 80
    assert len(record["peers_held_out"]) == 2 and min(record["peers_held_out"]) > 60


def test_a_weight_pruned_student_stays_pruned_whoever_teaches_it() -> None:
    for step in (Distill(epochs=1), Mutual(epochs=1), SelfDistill(layers=("fc1",), epochs=1)):
        student = subject_of()
        student.teacher = copy.deepcopy(student.layer)
        keep = np.random.default_rng(0).random((784, 300)) < 0.1
        student.constraints["fc1.weight"] = Mask(keep)
        student.hold()
        before = student.layer.fc1.weight.numpy()
        step.run(student)
        after = student.layer.fc1.weight.numpy()
        assert (after[~keep] == 0).all() and (after != before).any()


def test_heads_learn_and_are_gone() -> None:
    student = subject_of("lenet5")
    names = names_of(student)
    record = SelfDistill(layers=("conv1", "conv2", "fc1"), epochs=4).run(student)
    assert names_of(student) == names and student.accuracy() > 80
    assert set(record["heads_held_out"]) == {"conv1", "conv2", "fc1"} and min(record["heads_held_out"].values()) > 60
    assert not any(len(sub._forward_post_hooks) + len(sub._forward_pre_hooks) for sub in student.layer.sublayers(include_self=True))


def test_a_head_s_loss_reaches_the_layer_below_it_but_not_the_teacher_above() -> None:
    """With labels that say nothing (weight 0 of the head's CE) only the deepest classifier's CE moves the last layer."""
    import paddle
    from paddle.nn import functional as F

    def last_gradient(step: SelfDistill | None) -> np.ndarray:
        student = subject_of("lenet300")
        batch = [paddle.to_tensor(a[:16]) for a in (DIGITS.train.images, DIGITS.train.labels)]
        if step is None:
            F.cross_entropy(student.layer(batch[0]), batch[1]).backward()
            return np.asarray(student.layer.fc3.weight.grad.numpy())
        from edge.compress.self_distill import _read_last

        with watched(student.layer, ["fc1"]) as seen, _read_last(student.layer) as read:
            predict(student.layer, DIGITS.train.images[:2])
            heads = {"fc1": head_for(seen["fc1"].shape, 100, 10)}
            step._loss(student, heads, seen, read)(batch[0], batch[1], batch[1]).backward()
        assert abs(heads["fc1"].classifier.weight.grad.numpy()).max() > 0
        return np.asarray(student.layer.fc3.weight.grad.numpy())

    np.testing.assert_allclose(last_gradient(SelfDistill(layers=("fc1",), alpha=1.0, epochs=1)), last_gradient(None), atol=1e-6)


def test_each_generation_begins_anew_and_learns_from_the_one_before() -> None:
    shifted = Split(DIGITS.train.images, (DIGITS.train.labels + 1) % 10)
    student = subject_of(train=shifted)
    student.fit(TrainConfig(4))
    first = student.layer
    student.train = DIGITS.train  # the labels are right now, but with alpha 1 only the parent counts
    record = BornAgain(generations=2, alpha=1.0, epochs=4).run(student)
    assert student.layer is not first and len(record["generations_held_out"]) == 2
    assert student.accuracy() < 15 and (predict(student.layer, DIGITS.test.images).argmax(1) == (DIGITS.test.labels + 1) % 10).mean() > 0.8


def test_every_way_is_the_same_for_the_same_seed() -> None:
    few = DIGITS.train.head(320)
    for step in (
        Distill(teachers=(Teacher(model="lenet5", epochs=1),), epochs=1),
        Mutual(epochs=1),
        SelfDistill(layers=("fc1",), epochs=1),
        BornAgain(epochs=1),
    ):
        runs = []
        for _ in range(2):
            student = subject_of(train=few, seed=7)
            step.run(student)
            runs.append(predict(student.layer, DIGITS.test.images[:20]))
        np.testing.assert_allclose(runs[0], runs[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"step": "distill", "epochs": 1, "layers": ["conv1"]}, "layers go with a weight"),
        ({"step": "distill", "epochs": 1, "feature": 1.0}, "layers go with a weight"),
        ({"step": "distill", "epochs": 1, "alpha": 0.0}, "nothing is learnt"),
        ({"step": "distill", "epochs": 1, "teachers": [{"dense": True, "model": "lenet5"}]}, "one of dense"),
        ({"step": "distill", "epochs": 1, "teachers": [{"model": "lenet55"}]}, "unknown model"),
        ({"step": "mutual", "epochs": 1, "peers": ["lenet55"]}, "unknown model"),
        ({"step": "self-distill", "epochs": 1, "layers": []}, "layers"),
        ({"step": "born-again", "epochs": 0}, "epochs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse_step(raw, "step 1")


def test_what_cannot_be_taught_is_said_plainly(tmp_path: Path) -> None:
    student = subject_of("lenet5")
    with pytest.raises(BadInput, match="no dense net"):
        Distill(epochs=1).run(student)
    student.teacher = untrained("lenet300", 0)
    with pytest.raises(BadInput, match="'conv1'"):
        Distill(epochs=1, layers=("conv1",), feature=1.0).run(student)
    with pytest.raises(BadInput, match="axes"):
        Distill(epochs=1, layers=("conv1",), teacher_layers=("fc1",), feature=1.0).run(student)
    with pytest.raises(BadInput, match="no map"):
        Distill(epochs=1, layers=("fc1",), attention=1.0).run(student)
    with pytest.raises(BadInput, match="its ids is 16"):
        Mutual(peers=("lstm_classifier",), epochs=1).run(student)
    with pytest.raises(BadInput, match="no layer"):
        SelfDistill(layers=("fc9",), epochs=1).run(student)
    with pytest.raises(BadInput):
        Distill(teachers=(Teacher(folder=str(tmp_path)),), epochs=1).run(student)
    student.constraints["fc1.weight"] = Mask(np.ones((400, 120), bool))
    with pytest.raises(BadInput, match="born again"):
        BornAgain(epochs=1).run(student)


def test_a_net_that_restarts_has_its_structure_and_loses_its_weights_and_is_taught_by_the_dense_one() -> None:
    subject = subject_of()
    Train(epochs=3).run(subject)
    subject.teacher = copy.deepcopy(subject.layer)
    PruneNeurons(share=0.9, scope="layer", importance="random").run(subject)
    before = subject.layer.fc1.weight.numpy()
    seen: list[float] = []
    subject.progress = lambda done, total, loss: seen.append(loss)
    Distill(epochs=8, restart=True, alpha=0.5).run(subject)
    assert subject.layer.fc1.weight.shape == [784, 30] and not np.array_equal(before, subject.layer.fc1.weight.numpy())
    assert seen[0] > seen[-1] and subject.accuracy() > 50
    ShareWeights(bits=4, epochs=0).run(subject)
    with pytest.raises(BadInput, match="shared or quantized by a step before"):
        Train(epochs=1, restart=True).run(subject)


@pytest.mark.parametrize("model", ["lenet300", "image_text"])
def test_the_dense_net_teaches_while_another_step_tunes(model: str) -> None:
    subject = subject_of(model, train=DIGITS.train.head(256))
    step = PruneWeights(sparsity=0.5, epochs=8, taught=1.0, temperature=2.0)
    with pytest.raises(BadInput, match="there is no dense net to learn from yet"):
        step.run(subject)
    subject.teacher = untrained(model, 1)  # an untrained one: who follows it learns nothing of the labels
    target = softened([predict(subject.teacher, subject.train.images)], 2.0)

    def apart() -> float:
        return float(np.mean(np.sum(target * np.log(target / softened([predict(subject.layer, subject.train.images)], 2.0)), axis=1)))

    before = apart()
    step.run(subject)
    assert apart() < before
