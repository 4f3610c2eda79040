"""Training as a step: of the dense net at the beginning, and again after a step that took something away."""

from __future__ import annotations

from typing import Literal

from edge.compress.technique import Record, Subject, TeachingStep


class Train(TeachingStep):
    """Adam on the labels."""

    step: Literal["train"] = "train"

    def run(self, subject: Subject) -> Record:
        self.begin(subject)
        subject.fit(self.training(subject.seed))
        return {}
