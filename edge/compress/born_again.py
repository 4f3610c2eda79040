"""Self-distillation over generations: a net of the same structure learns anew from the labels and from the one before it.

Source: Furlanello, Lipton, Tschannen, Itti and Anandkumar 2018, "Born-Again Neural Networks" (arXiv 1805.04770).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edge.compress.teaching import softened, taught_loss
from edge.compress.technique import Record, Subject, TrainingStep
from edge.compress.train import BatchLoss, predict
from edge.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from paddle import Tensor


class BornAgain(TrainingStep):
    """The net as it is teaches the first generation, that one the second, and so on; the last one stays."""

    step: Literal["born-again"] = "born-again"
    generations: int = Field(1, ge=1, le=20)
    temperature: float = Field(1.0, gt=0, le=100)
    alpha: float = Field(0.5, gt=0, le=1)
    epochs: int = Field(ge=1, le=1000)

    def run(self, subject: Subject) -> Record:
        if subject.constraints:
            raise BadInput("a net that is born again begins with weights of its own, so pruned and shared ones are lost", hint="put the step before")
        held_out = []
        for generation in range(1, self.generations + 1):
            target = softened([predict(subject.layer, subject.train.images)], self.temperature)
            seed = subject.seed + generation
            subject.layer = subject.untrained(seed)
            config = self.training(seed)
            subject.fit(config, self._loss(subject, target))
            held_out.append(subject.accuracy())
        return {"generations_held_out": held_out}

    def _loss(self, subject: Subject, softened: NDArray[np.float32]) -> BatchLoss:
        import paddle

        targets = paddle.to_tensor(softened)

        def loss(images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
            return taught_loss(subject.layer(images), labels, paddle.gather(targets, positions), self.temperature, self.alpha)

        return loss
