"""A model of images and captions goes through the same recipes as a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from edge.compress.folder import Compressed
from edge.compress.run import run_recipe
from edge.compress.tasks import BLANKS, check_fits, contrastive_loss, recalls
from edge.compress.teaching import untrained
from edge.compress.technique import Subject
from edge.compress.train import TrainConfig, predict, top1
from edge.datasets import Split, load_dataset
from edge.errors import BadInput
from edge.models.image_text import ARTICLES, TEMPLATES, captions
from edge.workflows.speed import Clock, measure_speed

DIGITS = load_dataset("digits")


@pytest.fixture(scope="module")
def trained() -> Subject:
    subject = Subject("image_text", untrained("image_text", 0), DIGITS.train, DIGITS.test)
    subject.fit(TrainConfig(4))
    return subject


def test_captions_are_the_articles_in_letters() -> None:
    texts = [bytes(int(code) for code in row if code).decode() for row in captions()]
    assert texts[:3] == ["t-shirt", "trouser", "pullover"] and texts[19] == "a ankle boot" and len(set(texts)) == len(ARTICLES) * len(TEMPLATES)
    assert sum(int(np.prod(p.shape)) for p in untrained("image_text", 0).parameters()) == 127_873


def test_the_loss_is_contrastive_both_ways_with_all_images_of_a_class_as_positives() -> None:
    import paddle

    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(5, 2, 3)), np.array([0, 2, 0, 2, 2])  # no image of class 1
    to_text = np.mean([-log_softmax(scores[i, t])[labels[i]] for i in range(5) for t in range(2)])
    to_image = np.mean([-log_softmax(scores[:, t, c])[labels == c].mean() for t in range(2) for c in (0, 2)])
    loss = contrastive_loss(paddle.to_tensor(scores.astype("float32")), paddle.to_tensor(labels))
    assert float(loss) == pytest.approx((to_text + to_image) / 2, rel=1e-4)


def test_recall_needs_both_modalities(trained: Subject) -> None:
    found = recalls(trained.layer, DIGITS.test, 0)
    assert found["image to text"] > 75 and found["text to image"] > 60
    assert found["image to text"] == pytest.approx(top1(predict(trained.layer, DIGITS.test.images), DIGITS.test.labels), abs=3)
    for blank in BLANKS[1:]:
        chance = recalls(trained.layer, DIGITS.test, 0, blank=blank)
        assert chance["image to text"] < 25 and chance["text to image"] == pytest.approx(10, abs=8)
    untaught = recalls(untrained("image_text", 1), DIGITS.test, 0)
    assert max(untaught.values()) < 35
    assert recalls(trained.layer, DIGITS.test, 1)["text to image"] != found["text to image"]  # other galleries


def test_the_exported_face_agrees_with_the_scores(trained: Subject) -> None:
    import paddle

    image, ids = paddle.to_tensor(DIGITS.test.images[:10]), paddle.to_tensor(captions()[:10])
    with paddle.no_grad():
        seen, read, cosine = trained.layer(image, ids)
        scores, scale = trained.layer.scores(image), trained.layer.log_scale.exp().item()
    np.testing.assert_allclose(np.linalg.norm(seen.numpy(), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose((seen.numpy() * read.numpy()).sum(1), cosine.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.diag(scores.numpy()[:, 0]), scale * cosine.numpy(), rtol=1e-4, atol=1e-4)


def test_it_is_pruned_distilled_and_packed_like_any_other(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"step": "train", "epochs": 3},
        {"step": "prune-weights", "sparsity": 0.8, "epochs": 1},
        {"step": "distill", "epochs": 1, "layers": ["image_head"], "feature": 1.0},
        {"step": "share-weights", "bits": 4, "epochs": 0},
    ]
    recipe = {"schema_version": 1, "model": "image_text", "data": "digits", "steps": steps}
    record = Compressed.model_validate(run_recipe(recipe, 0, str(tmp_path), lambda *_: None))
    assert record.ratio > 8 and record.changes is not None
    assert [(r.direction, r.blank) for r in record.changes.recall] == [
        (way, blank) for blank in ("", "image", "text") for way in ("image to text", "text to image")
    ]
    both = record.changes.recall[0]
    assert both.before > 60 and both.after > both.before - 10


@pytest.mark.slow
def test_it_is_timed_in_every_runtime(tmp_path: Path) -> None:
    steps = [{"step": "train", "epochs": 1}, {"step": "prune-weights", "sparsity": 0.5}]
    recipe = {"schema_version": 1, "model": "image_text", "data": "digits", "steps": steps}
    run_recipe(recipe, 0, str(tmp_path / "net"), lambda *_: None)
    timing = measure_speed(tmp_path / "net", tmp_path / "timed", Clock())
    assert {name for name, speed in timing.speed.items() if speed.dense.value and speed.compressed.value} >= {"onnx", "paddle-inference"}


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        ("lstm_classifier", DIGITS.train, "they are 1x28x28, its ids is 16"),
        ("two_tower", DIGITS.train, "its image is 3x32x32"),
        ("lenet5", Split(DIGITS.train.images, DIGITS.train.labels * 0), "no classes"),
        ("lenet5", Split(DIGITS.train.images, DIGITS.train.labels + 1), "of 11 classes, it tells 10 apart"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, data: Split, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_fits(model, data)
