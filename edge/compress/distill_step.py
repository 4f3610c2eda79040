"""Offline distillation as a step: the net learns from one or several trained teachers, by softened logits, hidden layers and attention.

Sources: those of `edge.compress.teaching`. Several teachers: the mean of their softened outputs, as of an ensemble (Hinton et al. 2015, section 3).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from edge.compress.folder import RECORD, WEIGHTS
from edge.compress.tasks import check_fits
from edge.compress.teaching import attention_loss, classes_of, hint_loss, regressor_for, softened, taught_loss, untrained, watched
from edge.compress.technique import Record, Subject, TeachingStep
from edge.compress.train import BatchLoss, TrainConfig, predict, top1
from edge.errors import BadInput
from edge.models import model_entry
from edge.vocabulary import Frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from paddle import Tensor, nn


class Teacher(Frozen):
    """Where a teacher comes from: the recipe's dense net, a compressed folder, or a zoo model that is trained on the labels first.

    Attributes:
        dense: the net as the first step of the recipe left it.
        folder: of a compressed model, relative to where the tool was started.
        model: zoo name, trained for ``epochs`` at ``learning_rate``, which falls by half a cosine.
    """

    dense: bool = False
    folder: str | None = None
    model: str | None = None
    epochs: int = Field(5, ge=1, le=1000)
    learning_rate: float = Field(1e-3, gt=0, le=1)

    @model_validator(mode="after")
    def _one_source(self) -> Teacher:
        if self.dense + (self.folder is not None) + (self.model is not None) != 1:
            raise ValueError("a teacher is one of dense = true, folder, model")
        if self.model is not None:
            try:
                model_entry(self.model)
            except BadInput as error:
                raise ValueError(str(error)) from error
        return self


class Distill(TeachingStep):
    """``(1 - alpha) CE + alpha T^2 KL + feature MSE + attention AT``; the last two are sums over ``layers``, and means over the teachers.

    Attributes:
        layers: of the student, by name. teacher_layers: what they are drawn to, by default the layers of the same names.
        feature: weight of the squared error of what these layers give; through a regressor, thrown away afterwards, where widths differ.
        attention: weight of the squared distance of where they look; convolutions only.
    """

    step: Literal["distill"] = "distill"
    teachers: tuple[Teacher, ...] = Field((Teacher(dense=True),), min_length=1, max_length=10)
    temperature: float = Field(4.0, gt=0, le=100)
    alpha: float = Field(0.7, ge=0, le=1)
    layers: tuple[str, ...] = Field((), max_length=50)
    teacher_layers: tuple[str, ...] = Field((), max_length=50)
    feature: float = Field(0.0, ge=0, le=1e6)
    attention: float = Field(0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _hints(self) -> Distill:
        if bool(self.layers) != (self.feature > 0 or self.attention > 0):
            raise ValueError("layers go with a weight: feature, attention or both")
        if self.teacher_layers and len(self.teacher_layers) != len(self.layers):
            raise ValueError(f"{len(self.layers)} layers and {len(self.teacher_layers)} teacher_layers: they go in pairs")
        if not (self.alpha or self.layers):
            raise ValueError("alpha 0 and no layers: nothing is learnt from the teacher")
        return self

    def reads(self) -> list[Path]:
        return [Path(teacher.folder, name) for teacher in self.teachers if teacher.folder is not None for name in (RECORD, WEIGHTS)]

    def run(self, subject: Subject) -> Record:
        self.begin(subject)
        classes = classes_of(subject.layer, subject)
        teachers = [self._teacher(source, subject, number) for number, source in enumerate(self.teachers, 1)]
        logits = [predict(teacher, subject.train.images) for teacher in teachers]
        if wrong := next((each.shape[1] for each in logits if each.shape[1] != classes), None):
            raise BadInput(f"a teacher of {wrong} classes cannot teach a net of {classes}")
        target = softened(logits, self.temperature)
        config = self.training(subject.seed)
        with contextlib.ExitStack() as stack:
            hints = _Hints(self, subject, teachers, stack)
            helpers = [regressor for regressor in hints.regressors if regressor is not None]
            subject.fit(config, self._loss(subject, target, hints), helpers)
        held_out = [top1(predict(teacher, subject.held_out.images), subject.held_out.labels) for teacher in teachers]
        return {"teachers_held_out": held_out, "regressors": len(helpers)}

    def _loss(self, subject: Subject, softened: NDArray[np.float32], hints: _Hints) -> BatchLoss:
        import paddle

        targets = paddle.to_tensor(softened)

        def loss(images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
            logits = subject.layer(images)
            return taught_loss(logits, labels, paddle.gather(targets, positions), self.temperature, self.alpha) + hints.loss(images)

        return loss

    def _teacher(self, source: Teacher, subject: Subject, number: int) -> nn.Layer:
        from edge.compress.folder import load

        if source.folder is not None:
            return load(Path(source.folder))
        if source.model is not None:
            check_fits(source.model, subject.train)
            seed = subject.seed + number
            pupil = replace(subject, model=source.model, layer=untrained(source.model, seed), constraints={}, surgery=[])
            pupil.fit(TrainConfig(source.epochs, source.learning_rate, self.batch_size, seed, cosine=True))
            return pupil.layer
        if subject.teacher is None:
            raise BadInput("there is no dense net to learn from yet", hint="put a train step first, or name another teacher: model or folder")
        return subject.teacher


@dataclass(frozen=True)
class _Pair:
    """A hidden layer of the student and one of a teacher: what each gave is looked up in what was seen of it."""

    student: str
    teacher: str
    seen: dict[str, Tensor]
    taught: dict[str, Tensor]

    def outputs(self) -> tuple[Tensor, Tensor]:
        return self.seen[self.student], self.taught[self.teacher]

    def check(self, attention: bool) -> None:
        for name, seen in ((self.student, self.seen), (self.teacher, self.taught)):
            if name not in seen:
                raise BadInput(f"the net never calls {name!r}, so there is nothing to learn from it")
        a, b = self.outputs()
        if a.ndim != b.ndim:
            raise BadInput(f"{self.student!r} of the student gives {a.ndim} axes, {self.teacher!r} of the teacher {b.ndim}: they cannot be compared")
        if attention and a.ndim != 4:
            raise BadInput(f"{self.student!r} gives no map, so there is no attention in it", hint="name convolutions only, or use feature")


class _Hints:
    """The hidden layers of the student and of each teacher, watched for as long as the stack is open."""

    def __init__(self, step: Distill, subject: Subject, teachers: list[nn.Layer], stack: contextlib.ExitStack) -> None:
        import paddle

        self.step, self.teachers = step, teachers if step.layers else []
        names = step.teacher_layers or step.layers
        seen = stack.enter_context(watched(subject.layer, step.layers))
        taught = [stack.enter_context(watched(teacher, names)) for teacher in self.teachers]
        self.pairs = [_Pair(a, b, seen, of_one) for of_one in taught for a, b in zip(step.layers, names, strict=True)]
        for net in (subject.layer, *self.teachers):
            predict(net, subject.train.images[:2])
        for pair in self.pairs:
            pair.check(step.attention > 0)
        paddle.seed(subject.seed)
        self.regressors = [regressor_for(*pair.outputs()) if step.feature else None for pair in self.pairs]

    def loss(self, images: Tensor) -> Tensor | float:
        """Of the images that the student has just seen."""
        import paddle

        with paddle.no_grad():
            for teacher in self.teachers:
                teacher(images)
        total: Tensor | float = 0.0
        for pair, regressor in zip(self.pairs, self.regressors, strict=True):
            if self.step.feature:
                total = total + self.step.feature * hint_loss(*pair.outputs(), regressor)
            if self.step.attention:
                total = total + self.step.attention * attention_loss(*pair.outputs())
        return total / max(len(self.teachers), 1)
