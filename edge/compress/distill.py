"""Offline distillation as the demo does it: the teacher's outputs are computed once, and any number of students learn from them.

The losses and their sources are those of `edge.compress.teaching`. Both hint layers are 128 wide here, so no regressor is needed between them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.compress.teaching import hint_loss, taught_loss
from edge.compress.train import BatchLoss, Progress, TrainConfig, fit
from edge.datasets import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from paddle import Tensor

    from edge.models.convnet import ConvNet


@dataclass(frozen=True)
class DistillConfig:
    """Weights of the loss ``(1 - alpha) CE + alpha T^2 KL + hint MSE``.

    Attributes:
        temperature: T, softens both distributions.
        alpha: share of the teacher's distribution against the labels.
        hint: weight of the mean squared error between the 128-wide fc1 activations.
    """

    temperature: float = 5.0
    alpha: float = 0.7
    hint: float = 0.1


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teacher says of every training image, computed once: row i belongs to image i."""

    features: NDArray[np.float32]
    logits: NDArray[np.float32]


def teacher_outputs(teacher: ConvNet, data: Split, progress: Progress | None = None, threads: int = 1, batch_size: int = 250) -> TeacherOutputs:
    """Run the teacher over the training images, unshuffled: features [N, 128] and logits [N, classes].

    Through Paddle Inference and oneDNN: several times faster on CPU than the training mode.
    """
    infer = _predictor(teacher, threads)
    features, logits = [], []
    for start in range(0, len(data), batch_size):
        hidden, scores = infer(data.images[start : start + batch_size])
        features.append(hidden)
        logits.append(scores)
        if progress:
            progress(min(start + batch_size, len(data)), len(data), 0.0)
    return TeacherOutputs(np.concatenate(features), np.concatenate(logits))


def _predictor(teacher: ConvNet, threads: int) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """A function images -> [features, logits]."""
    import paddle
    from paddle.inference import Config, create_predictor

    class Both(paddle.nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.teacher = teacher

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.teacher.features(images)
            return hidden, self.teacher.classify(hidden)

    both = Both()
    both.eval()
    with tempfile.TemporaryDirectory() as folder:
        spec = paddle.static.InputSpec([None, 1, 28, 28], "float32", "image")
        paddle.jit.save(paddle.jit.to_static(both, input_spec=[spec], full_graph=True), f"{folder}/teacher")
        config = Config(f"{folder}/teacher.json", f"{folder}/teacher.pdiparams")
        config.disable_gpu()
        config.disable_glog_info()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads)
        predictor = create_predictor(config)
    feed = predictor.get_input_handle("image")
    results = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def infer(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        feed.copy_from_cpu(np.ascontiguousarray(images))
        predictor.run()
        return [result.copy_to_cpu() for result in results]

    return infer


def distillation_loss(
    student_logits: Tensor, student_features: Tensor, teacher_logits: Tensor, teacher_features: Tensor, labels: Tensor, config: DistillConfig
) -> Tensor:
    """``(1 - a) CE(s, y) + a T^2 KL(softmax(t / T) || softmax(s / T)) + hint MSE(fs, ft)``, mean over the batch.

    Shapes: logits [N, classes], features [N, 128], labels [N]; the result is a scalar.
    """
    from paddle.nn import functional as F

    taught = taught_loss(student_logits, labels, F.softmax(teacher_logits / config.temperature), config.temperature, config.alpha)
    return taught + config.hint * hint_loss(student_features, teacher_features)


def train_alone(model: ConvNet, data: Split, config: TrainConfig, progress: Progress | None = None) -> None:
    """Train on the labels only, in place."""
    from paddle.nn import functional as F

    def loss(images: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels)

    fit(model, data, loss, config, progress)


def train_distilled(
    student: ConvNet, taught: TeacherOutputs, data: Split, train: TrainConfig, distill: DistillConfig, progress: Progress | None = None
) -> None:
    """Train ``student`` in place on the labels and on the teacher's outputs for the same images."""
    fit(student, data, _distilled_loss(student, taught, distill), train, progress)


def _distilled_loss(student: ConvNet, taught: TeacherOutputs, config: DistillConfig) -> BatchLoss:
    import paddle

    logits, features = paddle.to_tensor(taught.logits), paddle.to_tensor(taught.features)

    def loss(images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        hidden = student.features(images)
        taught_logits, taught_features = paddle.gather(logits, positions), paddle.gather(features, positions)
        return distillation_loss(student.classify(hidden), hidden, taught_logits, taught_features, labels, config)

    return loss
