"""Training as a step: of the dense net at the beginning, and again after a step that took something away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edge.compress.technique import Record, Subject, TeachingStep
from edge.errors import BadInput

if TYPE_CHECKING:
    from paddle import Tensor

    from edge.compress.train import BatchLoss


class Train(TeachingStep):
    """Adam on the labels.

    Attributes:
        norm_l1: weight of the sum of the batch norms' scales, which makes those of channels that matter little small: for the importance ``bn-scale``
            (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming").
    """

    step: Literal["train"] = "train"
    norm_l1: float = Field(0.0, ge=0, le=1)

    def run(self, subject: Subject) -> Record:
        self.begin(subject)
        subject.fit(self.training(subject.seed), self._slimming(subject) if self.norm_l1 else None)
        return {}

    def _slimming(self, subject: Subject) -> BatchLoss:
        from paddle import nn

        scales = [layer.weight for layer in subject.layer.sublayers() if isinstance(layer, (nn.BatchNorm1D, nn.BatchNorm2D))]
        if not scales:
            raise BadInput(f"{subject.model} has no batch norm whose scales norm_l1 could make small")
        on_labels = subject.label_loss()

        def loss(images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
            return on_labels(images, labels, rows) + self.norm_l1 * sum(scale.abs().sum() for scale in scales)

        return loss
