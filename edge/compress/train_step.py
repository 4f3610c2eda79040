"""Training as a step: of the dense net at the beginning, and again after a step that took something away."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge.compress.technique import Record, Subject, TrainingStep


class Train(TrainingStep):
    """Adam on the labels."""

    step: Literal["train"] = "train"
    epochs: int = Field(ge=1, le=1000)

    def run(self, subject: Subject) -> Record:
        subject.fit(self.training(subject.seed))
        return {}
