"""The steps of a recipe for one seed, in a child (see `edge.jobs`). What a step has made is on disk before the next begins, and is taken up again."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge.compress.changes import Changes, compare, compare_recall
from edge.compress.constraints import as_arrays, from_arrays
from edge.compress.folder import DENSE, Compressed, StepRecord, bytes_of, packed_state, parameters_of, trained_of, write_folder
from edge.compress.recipe import NO_DATA, Recipe, fingerprint, steps_of
from edge.compress.steps import rebuild
from edge.compress.structure import macs_of
from edge.compress.tasks import check_fits
from edge.compress.technique import LatencyOf, Subject
from edge.compress.train import predict, top1
from edge.datasets import Dataset, Split, load_dataset
from edge.errors import BadInput, CheckFailed, Unavailable
from edge.files import write_atomic
from edge.models import model_entry
from edge.models.weights import load_weights, read_weights, save_weights

if TYPE_CHECKING:
    from paddle import nn

#: Folder of what the steps have made so far.
STATES = ".steps"
#: Held-out images that are disturbed after each step, and those of them whose saliency maps are compared.
OF_A_STEP = (100, 50)


class Reporter(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def run_recipe(
    recipe: dict[str, Any],
    seed: int,
    folder: str,
    progress: Reporter,
    cache: str | None = None,
    latency_of: LatencyOf | None = None,
    place: str = "",
) -> dict[str, Any]:
    """Run all steps and write the compressed model into the folder; returns its record.

    The test images are looked at once, when all is done: by the dense net, which is that of the first step that trains, and by what became of it.
    One that was narrowed or pruned before has none: its size and its speed are compared with those of the model as built, its error with nothing.

    Args:
        cache: where each step's outcome is kept, and found by any recipe that begins with the same steps; without it, until all is done.
        latency_of: for steps that aim at a latency. place: where it measures, see `edge.compress.recipe.fingerprint`.

    Raises:
        BadInput: a step cannot be done to the model.
        Unavailable: the data are not on this machine.
        CheckFailed: training diverged, or the error of the held-out images passed the recipe's bound.
    """
    read, home = Recipe.model_validate(recipe), Path(folder)
    data, choosing = _data(read, seed)
    subject = _subject(read, choosing, seed, latency_of)
    untouched = copy.deepcopy(subject.layer)
    records = _run_steps(read, subject, _States(Path(cache) if cache else home / STATES, read, seed, place), progress)
    dense, made_by = _dense_net(read, subject, records) or (untouched, [])
    progress(len(records), len(records), "what changed, on the test images")
    changes, before, after = _judge(read, None if subject.teacher and not subject.teacher_is_dense else dense, subject, data.test)
    run = _Run(read, seed, place, data.name, untouched, before)
    shutil.rmtree(home / DENSE, ignore_errors=True)  # of a run whose record is lost
    if len(made_by) < len(records):  # later steps have made another net of it
        run.write(home / DENSE, dense, (), made_by, before, packs=False)
    result = run.write(home, subject.layer, subject.surgery, records, after, changes)
    shutil.rmtree(home / STATES, ignore_errors=True)
    return result.model_dump(mode="json")


@dataclass(frozen=True)
class _Run:
    """What the records of the dense and of the compressed net have in common."""

    recipe: Recipe
    seed: int
    place: str
    data: str
    untouched: nn.Layer
    error_before: float | None

    def write(
        self,
        home: Path,
        layer: nn.Layer,
        surgery: Sequence[tuple[str, dict[str, Any]]],
        records: Sequence[StepRecord],
        error: float | None,
        changes: Changes | None = None,
        *,
        packs: bool = True,
    ) -> Compressed:
        packed = packed_state(layer) if packs else None
        inputs = model_entry(self.recipe.model).inputs.values()
        result = Compressed(
            model=self.recipe.model,
            data=self.data,
            seed=self.seed,
            fingerprint=fingerprint(self.recipe, self.seed, len(records), self.place),
            surgery=tuple((name, details) for name, details in surgery),
            steps=tuple(records),
            baseline_bytes=bytes_of(self.untouched),
            plain_bytes=bytes_of(layer),
            packed_bytes=None if packed is None else len(packed),
            error_before=self.error_before,
            error_after=error,
            parameters_before=trained_of(self.untouched),
            parameters=parameters_of(layer),
            macs_before=macs_of(self.untouched, inputs),
            macs=macs_of(layer, inputs),
            seconds=sum(record.seconds for record in records),
            changes=changes,
        )
        return write_folder(home, layer, packed, result)


def _data(recipe: Recipe, seed: int) -> tuple[Dataset, Dataset]:
    """All data, and the training images with those held out of them to choose by."""
    if recipe.data == NO_DATA:  # two images of noise: layers are observed at work, nothing is learnt or judged
        sides = [side or 1 for side in next(iter(model_entry(recipe.model).inputs.values()))[0][1:]]
        noise = np.random.default_rng(seed).normal(size=(2, *sides)).astype(np.float32)
        split = Split(noise, np.arange(2))
        data = Dataset(NO_DATA, split, split)
        return data, data
    data = load_dataset(recipe.data)
    if data.note:  # a figure of other data would stand under the recipe's name
        raise Unavailable(data.note, hint="run: make data")
    check_fits(recipe.model, data.train)
    return data, data.held_out()


def _subject(recipe: Recipe, choosing: Dataset, seed: int, latency_of: LatencyOf | None) -> Subject:
    import paddle

    paddle.seed(seed)
    layer = model_entry(recipe.model).build()
    return Subject(recipe.model, layer, choosing.train, choosing.test, seed, learns=recipe.data != NO_DATA, latency_of=latency_of)


def _dense_net(recipe: Recipe, subject: Subject, records: Sequence[StepRecord]) -> tuple[nn.Layer, Sequence[StepRecord]] | None:
    """The first one that was trained and what made it; None where none was trained as the model is built."""
    if subject.teacher is None or not subject.teacher_is_dense:
        return None
    return subject.teacher, records[: next(number for number, step in enumerate(steps_of(recipe), 1) if step.trains)]


def _judge(recipe: Recipe, dense: nn.Layer | None, subject: Subject, test: Split) -> tuple[Changes | None, float | None, float | None]:
    """What changed against the dense net, and the error of both in %; None where there are no data, or no dense net."""
    if recipe.data == NO_DATA:
        return None, None, None
    if dense is None:
        return None, None, 100.0 - top1(predict(subject.layer, test.images), test.labels)
    found = compare(dense, subject.layer, test, subject.seed)
    if model_entry(recipe.model).task == "retrieval":
        found = found.model_copy(update={"recall": compare_recall(dense, subject.layer, test, subject.seed)})
    return found, 100.0 - found.accuracy.before, 100.0 - found.accuracy.after


def _run_steps(recipe: Recipe, subject: Subject, states: _States, progress: Reporter) -> list[StepRecord]:
    """Each step that is not on disk yet."""
    records: list[StepRecord] = []
    for number, step in enumerate(steps_of(recipe), 1):
        name = f"{number}/{len(recipe.steps)} {step.step}"
        subject.progress = _report(progress, name)
        record = states.load(number, subject)
        if record is None:
            began = time.perf_counter()
            found = step.run(subject)
            seconds, held_out, changes = time.perf_counter() - began, None, None
            if subject.learns:
                held_out = subject.accuracy()
            if subject.learns and subject.teacher:
                changes = compare(subject.teacher, subject.layer, subject.held_out, subject.seed, *OF_A_STEP)
            record = StepRecord(step=recipe.steps[number - 1], record=found, seconds=seconds, held_out=held_out, changes=changes)
            states.save(number, subject, record)
        records.append(record)
        if subject.teacher or step.trains:  # a net that is narrowed before it is trained knows nothing yet
            _within(recipe, record, name)
        if subject.teacher is None and step.trains:
            subject.teacher, subject.teacher_is_dense = copy.deepcopy(subject.layer), not (subject.surgery or subject.constraints)
    return records


def _within(recipe: Recipe, record: StepRecord, name: str) -> None:
    if record.held_out is not None and 100.0 - record.held_out > recipe.stop_above_error:
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

    def __init__(self, folder: Path, recipe: Recipe, seed: int, place: str) -> None:
        self.folder, self.recipe, self.seed, self.place = folder, recipe, seed, place

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
            record = StepRecord.model_validate(state["record"])
            surgery = [(str(name), details) for name, details in state["surgery"]]
            layer = rebuild(model_entry(subject.model).build(), surgery)
            load_weights(layer, path.with_suffix(".safetensors"))
            constraints = from_arrays(read_weights(path.with_suffix(".held.safetensors")))
        except (OSError, ValueError, LookupError, TypeError, BadInput):  # damaged: the step is done again
            return None
        subject.surgery, subject.layer, subject.constraints = surgery, layer, constraints
        return record

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:03d}-{fingerprint(self.recipe, self.seed, number, self.place)[:32]}.json"
