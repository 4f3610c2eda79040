"""What a compression technique is: a step of a recipe, with its settings, that changes a model and says what it did.

Each technique is one file; `edge.compress.steps` lists them by the names that recipes use.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge.compress.tasks import label_loss
from edge.compress.train import BatchLoss, Constraint, Progress, TrainConfig, fit, predict, top1
from edge.datasets import Split
from edge.vocabulary import Frozen

if TYPE_CHECKING:
    from paddle import Tensor, nn

#: What a step did, as plain JSON values.
Record = dict[str, Any]


@dataclass
class Subject:
    """A model on its way through a recipe.

    Attributes:
        layer: changed in place, or replaced where its structure changes.
        train, held_out: images to train on, and to choose by. The test images are not here.
        constraints: name in the layer's state -> what later training holds to.
        surgery: how the structure differs from the model's own: (step, details), to be repeated when it is built anew.
        seed: of everything random.
        teacher: a copy of the dense net, made after the first step of a recipe; nothing trains it.
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

    def _held(self) -> list[tuple[Tensor, Constraint]]:
        parameters = trained(self.layer)
        return [(parameters[name], constraint) for name, constraint in self.constraints.items()]

    def label_loss(self) -> BatchLoss:
        return lambda images, labels, _: label_loss(self.model, self.layer, images, labels)

    def accuracy(self) -> float:
        """Top-1 on the held-out images, in %."""
        return top1(predict(self.layer, self.held_out.images), self.held_out.labels)


class Step(Frozen):
    """Settings of one technique. ``step``, its name in recipes, is a literal in each subclass."""

    step: str

    @abstractmethod
    def run(self, subject: Subject) -> Record:
        """Do it.

        Raises:
            BadInput: it cannot be done to this model. CheckFailed: training diverged.
        """


#: (layer, details of the surgery) -> the layer with its structure changed; weights are loaded later.
Rebuild = Callable[["nn.Layer", Record], "nn.Layer"]


def trained(layer: nn.Layer) -> dict[str, Tensor]:
    """The parameters that training moves, by their names in the state. Paddle lists the statistics of a batch norm among them, which it does not."""
    return {name: parameter for name, parameter in layer.named_parameters() if not parameter.stop_gradient}
