"""Distillation means what the papers say; training is repeatable; a diverging run stops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.compress.distill import DistillConfig, TeacherOutputs, distillation_loss, teacher_outputs, train_alone, train_distilled
from edge.compress.teaching import untrained
from edge.compress.train import TrainConfig, fit, predict, top1
from edge.datasets import Split, load_dataset
from edge.errors import CheckFailed
from edge.workflows.training import plan_epochs, student_roles, training_seconds

DIGITS = load_dataset("digits")


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def test_the_loss_is_hinton_s_with_a_hint() -> None:
    import paddle

    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(8, 10)), rng.normal(size=(8, 10))
    fs, ft, y = rng.normal(size=(8, 128)), rng.normal(size=(8, 128)), rng.integers(0, 10, 8)
    hard = -log_softmax(s)[np.arange(8), y].mean()
    ls, lt = log_softmax(s / 5), log_softmax(t / 5)
    soft = (np.exp(lt) * (lt - ls)).sum(1).mean()
    expected = 0.3 * hard + 0.7 * 25 * soft + 0.1 * ((fs - ft) ** 2).mean()
    ps, pfs, pt, pft = (paddle.to_tensor(a.astype("float32")) for a in (s, fs, t, ft))
    loss = distillation_loss(ps, pfs, pt, pft, paddle.to_tensor(y), DistillConfig(temperature=5, alpha=0.7, hint=0.1))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_teacher_outputs_belong_to_their_images() -> None:
    teacher = untrained("mnist_teacher", 0)
    outputs = teacher_outputs(teacher, DIGITS.train.head(300))
    assert outputs.features.shape == (300, 128) and outputs.logits.shape == (300, 10)
    np.testing.assert_allclose(outputs.logits[280:290], predict(teacher, DIGITS.train.images[280:290]), atol=1e-4)


def test_a_distilled_student_follows_its_teacher_not_only_the_labels() -> None:
    """A teacher that shifts every label by one: with alpha 1 the student must learn the shift."""
    data = DIGITS.train
    shifted = (data.labels + 1) % 10
    lie = TeacherOutputs(np.zeros((len(data), 128), np.float32), (20 * np.eye(10)[shifted]).astype(np.float32))
    student = untrained("mnist_student", 0)
    train_distilled(student, lie, data, TrainConfig(4), DistillConfig(alpha=1.0, hint=0.0))
    assert top1(predict(student, DIGITS.test.images), (DIGITS.test.labels + 1) % 10) > 80


def test_training_is_repeatable_and_both_students_start_and_go_alike() -> None:
    alone, distilled = student_roles("digits", 2, seed=3)
    assert alone.train == distilled.train and alone.init_seed == distilled.init_seed and alone.model == distilled.model
    runs = []
    for _ in range(2):
        model = untrained("mnist_student", 3)
        train_alone(model, DIGITS.train.head(640), TrainConfig(1, seed=3))
        runs.append(predict(model, DIGITS.test.images[:50]))
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-3, atol=1e-4)


def test_a_diverging_run_says_so() -> None:
    with pytest.raises(CheckFailed, match="diverged"):
        model = untrained("mnist_student", 0)
        fit(model, DIGITS.train.head(128), lambda images, labels, _: model(images).mean() * float("nan"), TrainConfig(1))


@given(st.floats(1, 5000), st.floats(0.5, 500), st.floats(0.5, 500))
def test_planned_epochs_fit_the_budget_or_are_the_least(budget: float, teacher_s: float, student_s: float) -> None:
    teacher, students = plan_epochs(budget, teacher_s, student_s)
    assert 1 <= teacher <= students <= 10 and students >= 3
    if (teacher, students) != (1, 3):
        assert training_seconds(teacher, students, teacher_s, student_s) <= budget


def test_a_shift_shows_every_image_moved_by_up_to_so_many_pixels_and_no_further() -> None:
    import paddle

    shown: list[np.ndarray] = []
    net = untrained("mnist_student", 0)
    points = np.full((64, 1, 28, 28), -0.5, np.float32)
    points[:, :, 14, 10] = 1.0

    def loss(images: paddle.Tensor, labels: paddle.Tensor, _: paddle.Tensor) -> paddle.Tensor:
        shown.append(images.numpy())
        return paddle.nn.functional.cross_entropy(net(images), labels)

    data = Split(points, np.zeros(64, np.int64))
    fit(net, data, loss, TrainConfig(2, batch_size=32, shift=1))
    places = [tuple(map(int, np.argwhere(image[0] == 1.0)[0])) for images in shown for image in images]
    assert set(places) == {(14 + down, 10 + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert all((image == 1.0).sum() == 1 and (image == np.float32(-0.5)).sum() == 783 for images in shown for image in images)
    first, shown = shown, []
    fit(net, data, loss, TrainConfig(2, batch_size=32, shift=1))
    assert all(np.array_equal(a, b) for a, b in zip(first, shown, strict=True))
