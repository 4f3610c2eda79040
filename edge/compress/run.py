"""The steps of a recipe for one seed, in a child (see `edge.jobs`). What a step has made is on disk before the next begins, and is taken up again."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.compress.changes import compare, compare_logits, compare_recall
from edge.compress.constraints import as_arrays, from_arrays
from edge.compress.folder import Compressed, StepRecord, packed_state, write_folder
from edge.compress.packing import dense_bytes
from edge.compress.recipe import Recipe, steps_of
from edge.compress.steps import rebuild
from edge.compress.tasks import check_fits
from edge.compress.technique import Subject, trained
from edge.compress.train import predict, top1
from edge.datasets import load_dataset
from edge.errors import CheckFailed
from edge.files import write_atomic
from edge.models import model_entry
from edge.models.weights import load_weights, read_weights, save_weights

#: Folder of what the steps have made so far.
STATES = ".steps"


class Reporter(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def run_recipe(recipe: dict[str, Any], seed: int, folder: str, progress: Reporter) -> dict[str, Any]:
    """Run all steps and write the compressed model into the folder; returns its record.

    The test images are looked at once, when all is done: by the dense net, which the first step has trained, and by what became of it.

    Raises:
        BadInput: a step cannot be done to the model.
        CheckFailed: training diverged, or the error of the held-out images passed the recipe's bound.
    """
    import paddle

    read, home = Recipe.model_validate(recipe), Path(folder)
    paddle.seed(seed)
    data = load_dataset(read.data)
    check_fits(read.model, data.train)
    choosing = data.held_out()
    subject = Subject(read.model, model_entry(read.model).build(), choosing.train, choosing.test, seed)
    dense = dense_bytes([np.asarray(value.numpy()) for value in subject.layer.state_dict().values()])
    records: list[StepRecord] = []
    states = _States(home / STATES, read, seed, choosing.name)
    of_dense = cache(lambda: predict(subject.teacher, choosing.test.images))
    for number, step in enumerate(steps_of(read), 1):
        name = f"{number}/{len(read.steps)} {step.step}"
        subject.progress = _report(progress, name)
        record = states.load(number, subject)
        if record is None:
            began = time.perf_counter()
            found = step.run(subject)
            seconds, logits = time.perf_counter() - began, predict(subject.layer, choosing.test.images)
            changes = compare_logits(of_dense(), logits, choosing.test.labels) if subject.teacher else None
            held_out = top1(logits, choosing.test.labels)
            record = StepRecord(step=read.steps[number - 1], record=found, seconds=seconds, held_out=held_out, changes=changes)
            states.save(number, subject, record)
        records.append(record)
        _within(read, record, name)
        if subject.teacher is None:  # what the first step has trained is the dense net
            subject.teacher = copy.deepcopy(subject.layer)
    progress(len(records), len(records), "what changed, on the test images")
    packed = packed_state(subject.layer)
    different = compare(subject.teacher or subject.layer, subject.layer, data.test, seed)
    if model_entry(read.model).task == "retrieval":
        recall = compare_recall(subject.teacher or subject.layer, subject.layer, data.test, seed)
        different = different.model_copy(update={"recall": recall})
    result = Compressed(
        model=read.model,
        data=data.name,
        seed=seed,
        surgery=tuple((name, details) for name, details in subject.surgery),
        steps=tuple(records),
        baseline_bytes=dense,
        packed_bytes=len(packed),
        error_before=100.0 - different.accuracy.before,
        error_after=100.0 - different.accuracy.after,
        parameters=sum(int(np.count_nonzero(value.numpy())) for value in trained(subject.layer).values()),
        seconds=sum(record.seconds for record in records),
        changes=different,
    )
    write_folder(home, subject.layer, packed, result)
    shutil.rmtree(home / STATES, ignore_errors=True)
    return result.model_dump(mode="json")


def _within(recipe: Recipe, record: StepRecord, name: str) -> None:
    if 100.0 - record.held_out > recipe.stop_above_error:
        wrong = f"{100.0 - record.held_out:.2f} % of the held-out images are wrong after step {name}"
        raise CheckFailed(
            f"{wrong}, the recipe stops above {recipe.stop_above_error:g} %", hint="prune less, train longer, or raise stop_above_error"
        )


def _report(progress: Reporter, name: str) -> Any:
    def report(done: int, total: int, loss: float) -> None:
        if done % 20 == 0 or done == total:
            progress(done, total, f"{name} loss {loss:.3f}")

    return report


class _States:
    """What each step has left: weights, constraints and surgery, found again by all that decides them."""

    def __init__(self, folder: Path, recipe: Recipe, seed: int, data: str) -> None:
        self.folder, self.recipe, self.seed, self.data = folder, recipe, seed, data

    def save(self, number: int, subject: Subject, record: StepRecord) -> None:
        from safetensors.numpy import save

        path = self._path(number)
        save_weights(subject.layer, path.with_suffix(".safetensors"))
        write_atomic(path.with_suffix(".held.safetensors"), save(as_arrays(subject.constraints)))
        write_atomic(path, json.dumps({"record": record.model_dump(mode="json"), "surgery": subject.surgery}))

    def load(self, number: int, subject: Subject) -> StepRecord | None:
        """The record of a finished step, whose state is put into the subject; None where it has not been done."""
        path = self._path(number)
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        subject.surgery = [(str(name), details) for name, details in state["surgery"]]
        subject.layer = rebuild(model_entry(subject.model).build(), subject.surgery)
        load_weights(subject.layer, path.with_suffix(".safetensors"))
        subject.constraints = from_arrays(read_weights(path.with_suffix(".held.safetensors")))
        return StepRecord.model_validate(state["record"])

    def _path(self, number: int) -> Path:
        decides = [self.recipe.model, self.data, self.seed, self.recipe.steps[:number]]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{number:03d}-{digest}.json"
