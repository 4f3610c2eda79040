"""What a compression technique is: a step of a recipe, with its settings, that changes a model and says what it did.

Each technique is one file; `edge.compress.steps` lists them by the names that recipes use.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edge.compress.constraints import Mask
from edge.compress.tasks import label_loss
from edge.compress.teaching import divergence, softened, taught_loss
from edge.compress.train import BatchLoss, Constraint, Progress, TrainConfig, fit, predict, top1
from edge.datasets import Split
from edge.errors import BadInput
from edge.models import model_entry
from edge.vocabulary import Frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from paddle import Tensor, nn

#: What a step did, as plain JSON values.
Record = dict[str, Any]
#: (layer) -> its measured latency in ms.
LatencyOf = Callable[["nn.Layer"], float]


@dataclass
class Subject:
    """A model on its way through a recipe.

    Attributes:
        layer: changed in place, or replaced where its structure changes.
        train, held_out: images to train on, and to choose by. The test images are not here.
        constraints: name in the layer's state -> what later training holds to.
        surgery: how the structure differs from the model's own: (step, details), to be repeated when it is built anew.
        seed: of everything random.
        teacher: a copy of the net after the first step of a recipe that trains; nothing trains it further. teacher_is_dense: it has the structure of
            the model as it is built, and nothing held it.
        learns: whether there are data; else the images are noise, and nothing may be learnt from them or chosen by them.
        latency_of: measures a layer in ms, where the recipe was started by a command that can.
    """

    model: str
    layer: nn.Layer
    train: Split
    held_out: Split
    seed: int = 0
    constraints: dict[str, Constraint] = field(default_factory=dict)
    surgery: list[tuple[str, Record]] = field(default_factory=list)
    progress: Progress | None = None
    teacher: nn.Layer | None = None
    teacher_is_dense: bool = False
    learns: bool = True
    latency_of: LatencyOf | None = None

    def fit(self, config: TrainConfig, loss_of: BatchLoss | None = None, helpers: Sequence[nn.Layer] = ()) -> None:
        """Train on the labels, or with a loss of the technique's own, held to the constraints; helpers are trained along.

        Raises:
            CheckFailed: the loss became NaN or infinite.
        """
        fit(self.layer, self.train, loss_of or self.label_loss(), config, self.progress, held=self._held(), helpers=helpers)

    def hold(self) -> None:
        """Bring the parameters to what they are held to."""
        for parameter, constraint in self._held():
            parameter.set_value(constraint.project(parameter))

    def require_free(self, names: Iterable[str], step: str) -> None:
        """That none of the parameters is held to shared or quantized values, which this step would undo.

        Raises:
            BadInput: one is.
        """
        if taken := next((name for name in names if not isinstance(self.constraints.get(name), (Mask, type(None)))), None):
            raise BadInput(f"{step}: {taken} was shared or quantized by a step before, which this would undo", hint="put that step after this one")

    def _held(self) -> list[tuple[Tensor, Constraint]]:
        parameters = dict(self.layer.named_parameters())
        return [(parameters[name], constraint) for name, constraint in self.constraints.items()]

    def label_loss(self) -> BatchLoss:
        self.require_data()
        return lambda images, labels, _: label_loss(self.model, self.layer, images, labels)

    def dense_loss(self, share: float, temperature: float) -> BatchLoss:
        """The labels' cross-entropy, and so much of the divergence from the dense net.

        Raises:
            BadInput: there is no dense net yet.
        """
        import paddle

        target, on_labels = paddle.to_tensor(softened([self.dense_logits], temperature)), self.label_loss()

        def loss(images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
            taught = divergence(self.layer(images), paddle.gather(target, rows), temperature)
            return (1 - share) * on_labels(images, labels, rows) + share * temperature**2 * taught

        def of_classes(images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:  # the same with one pass
            return taught_loss(self.layer(images), labels, paddle.gather(target, rows), temperature, share)

        return of_classes if model_entry(self.model).task == "classification" else loss

    @cached_property
    def dense_logits(self) -> NDArray[np.float32]:
        """[N, classes]: what the dense net says of the training images."""
        if self.teacher is None:
            raise BadInput("there is no dense net to learn from yet", hint="put a train step first")
        return predict(self.teacher, self.train.images)

    def untrained(self, seed: int) -> nn.Layer:
        """A net of the same structure with initial weights of this seed."""
        import paddle

        from edge.compress.steps import rebuild

        paddle.seed(seed)
        return rebuild(model_entry(self.model).build(), self.surgery)

    def accuracy(self) -> float:
        """Top-1 on the held-out images, in %.

        Raises:
            BadInput: there are no data.
        """
        self.require_data()
        return top1(predict(self.layer, self.held_out.images), self.held_out.labels)

    def require_data(self) -> None:
        """
        Raises:
            BadInput: there are none.
        """
        if not self.learns:
            raise BadInput("there are no data to learn from or to choose by", hint="name data in the recipe, or leave out what needs them")


class Step(Frozen):
    """Settings of one technique. ``step``, its name in recipes, is a literal in each subclass."""

    step: str

    @property
    def trains(self) -> bool:
        """Whether what it leaves has been trained."""
        return False

    @property
    def measures(self) -> bool:
        """Whether it depends on what a latency is measured to be."""
        return False

    def reads(self) -> list[Path]:
        """Files that decide what it does, beside its settings."""
        return []

    @abstractmethod
    def run(self, subject: Subject) -> Record:
        """Do it.

        Raises:
            BadInput: it cannot be done to this model. CheckFailed: training diverged.
        """


class TrainingStep(Step):
    """A step that trains, or may.

    Attributes:
        epochs: of each training; 0 where there is to be none.
        cosine: the learning rate falls to zero by half a cosine, else it is constant. weight_decay: apart from the gradient.
        shift: each image is moved at random by up to so many pixels, anew in each epoch. What a teacher says of an image is computed once, of the
            image where it was: a net that learns from logits with a shift learns to say the same of the image that was moved.
    """

    epochs: int = Field(0, ge=0, le=1000)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    batch_size: int = Field(64, ge=1, le=4096)
    cosine: bool = False
    weight_decay: float = Field(0.0, ge=0, le=1)
    shift: int = Field(0, ge=0, le=8)

    @property
    def trains(self) -> bool:
        return self.epochs > 0

    def training(self, seed: int) -> TrainConfig:
        return TrainConfig(
            self.epochs, self.learning_rate, self.batch_size, seed, cosine=self.cosine, weight_decay=self.weight_decay, shift=self.shift
        )


class TeachingStep(TrainingStep):
    """A step that trains a net as a whole.

    Attributes:
        restart: from initial weights, with the structure as it is and what was pruned left out; the dense net is still there to teach.
    """

    restart: bool = False
    epochs: int = Field(ge=1, le=1000)

    def begin(self, subject: Subject) -> None:
        """
        Raises:
            BadInput: to restart would lose shared or quantized values.
        """
        if self.restart:
            subject.require_free(subject.constraints, self.step)
            subject.layer = subject.untrained(subject.seed)
            subject.hold()


class TuningStep(TrainingStep):
    """A step that takes something away and may train what is left.

    Attributes:
        taught: share of the loss that is the divergence from the dense net's outputs; the rest is that of the labels (Hinton et al. 2015).
        temperature: that softens both.
    """

    taught: float = Field(0.0, ge=0, le=1)
    temperature: float = Field(4.0, gt=0, le=100)

    def tune(self, subject: Subject, seed: int) -> None:
        """Train on the labels, and on what the dense net says, held to the constraints.

        Raises:
            BadInput: there is no dense net yet. CheckFailed: training diverged.
        """
        subject.fit(self.training(seed), subject.dense_loss(self.taught, self.temperature) if self.taught else None)


#: (layer, details of the surgery) -> the layer with its structure changed; weights are loaded later.
Rebuild = Callable[["nn.Layer", Record], "nn.Layer"]


def trained(layer: nn.Layer) -> dict[str, Tensor]:
    """The parameters that training moves, by their names in the state. Paddle lists the statistics of a batch norm among them, which it does not."""
    return {name: parameter for name, parameter in layer.named_parameters() if not parameter.stop_gradient}
