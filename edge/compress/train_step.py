"""Training as a step: of the dense net at the beginning, and again after a step that took something away."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge.compress.technique import Record, Step, Subject
from edge.compress.train import TrainConfig


class Train(Step):
    """Adam on the labels. ``cosine``: the rate falls to zero by half a cosine (Loshchilov and Hutter 2016)."""

    step: Literal["train"] = "train"
    epochs: int = Field(ge=1, le=1000)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    batch_size: int = Field(64, ge=1, le=4096)
    cosine: bool = False
    weight_decay: float = Field(0.0, ge=0, le=1)

    def run(self, subject: Subject) -> Record:
        config = TrainConfig(self.epochs, self.learning_rate, self.batch_size, subject.seed, cosine=self.cosine, weight_decay=self.weight_decay)
        subject.fit(config)
        return {}
