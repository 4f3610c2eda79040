"""Training jobs (they run in a child, see `edge.jobs`): the teacher, the student alone, the student distilled.

Each writes ``ROLE.safetensors`` and then ``ROLE.json``, its record; a record that matches the request and the weights is
taken as it is, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge.compress.distill import DistillConfig, TeacherOutputs, teacher_outputs, train_alone, train_distilled
from edge.compress.teaching import untrained
from edge.compress.train import Progress, TrainConfig, predict, top1
from edge.datasets import Dataset, load_dataset
from edge.errors import BadInput
from edge.files import new_folder, sha256_of, write_atomic
from edge.models.weights import load_weights, save_weights

if TYPE_CHECKING:
    pass


class Reporter(Protocol):
    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Role:
    """One training run.

    Attributes:
        name: of the files, e.g. ``student_distilled``.
        model: zoo name.
        teacher: name of the teacher's role, or None to learn from the labels only.
        init_seed: of the initial weights; ``train.seed`` is that of the batch order.
    """

    name: str
    model: str
    dataset: str
    train: TrainConfig
    init_seed: int = 0
    teacher: str | None = None
    distill: DistillConfig | None = None


def finished_record(role: Role, folder: Path) -> dict[str, Any] | None:
    """The record of a run of exactly this role whose weights are intact, else None."""
    try:
        record: dict[str, Any] = json.loads((folder / f"{role.name}.json").read_text())
        same = record["role"] == json.loads(json.dumps(asdict(role)))
        return record if same and record["sha256"] == sha256_of(folder / f"{role.name}.safetensors") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_role(role: dict[str, Any], folder: str, progress: Reporter) -> dict[str, Any]:
    """Train one role and return its record (accuracy in %, seconds of training)."""
    order = _role_from(role)
    home = Path(folder)
    if done := finished_record(order, home):
        return done
    data = load_dataset(order.dataset)
    taught = _taught_by(order, home, data, progress)
    model = untrained(order.model, order.init_seed)
    began = time.perf_counter()
    report = _every(20, progress, order.name)
    if taught:
        train_distilled(model, taught, data.train, order.train, order.distill or DistillConfig(), report)
    else:
        train_alone(model, data.train, order.train, report)
    seconds = time.perf_counter() - began
    weights = home / f"{order.name}.safetensors"
    save_weights(model, weights)
    record = {
        "role": asdict(order),
        "sha256": sha256_of(weights),
        "test_top1": top1(predict(model, data.test.images), data.test.labels),
        "test_count": len(data.test),
        "seconds": round(seconds, 1),
    }
    write_atomic(home / f"{order.name}.json", json.dumps(record, indent=1))
    return record


def compute_teacher_outputs(teacher: dict[str, Any], folder: str, threads: int, progress: Reporter) -> str:
    """Run the trained teacher over the training set once; later students read the arrays from disk."""
    order, home = _role_from(teacher), Path(folder)
    target = home / f"{order.name}.outputs"
    weights = home / f"{order.name}.safetensors"
    digest = sha256_of(weights)
    mark = target / "teacher.sha256"
    if not (mark.is_file() and mark.read_text() == digest):
        model = untrained(order.model, order.init_seed)
        load_weights(model, weights)
        data = load_dataset(order.dataset)
        outputs = teacher_outputs(model, data.train, _every(4, progress, "teacher outputs"), threads)
        with new_folder(target) as scratch:
            np.save(scratch / "features.npy", outputs.features)
            np.save(scratch / "logits.npy", outputs.logits)
            (scratch / "teacher.sha256").write_text(digest)
    return str(target)


def seconds_per_epoch(model: str, dataset: str, progress: Reporter, batches: int = 20) -> float:
    """Time a few batches of plain training and scale to an epoch: ``measured`` on this machine, now."""
    data = load_dataset(dataset).train
    batch = TrainConfig(1).batch_size
    short = data.head(min(len(data), batch * (batches + 5)))
    net = untrained(model, 0)
    marks: list[float] = []
    train_alone(net, short, TrainConfig(1), lambda *_: marks.append(time.perf_counter()))
    return float(np.median(np.diff(marks[3:]))) * (len(data) // batch)


def _taught_by(order: Role, home: Path, data: Dataset, progress: Reporter) -> TeacherOutputs | None:
    if order.teacher is None:
        return None
    folder = home / f"{order.teacher}.outputs"
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing: the teacher's outputs have not been computed")
    taught = TeacherOutputs(np.load(folder / "features.npy", allow_pickle=False), np.load(folder / "logits.npy", allow_pickle=False))
    if len(taught.logits) != len(data.train):
        raise BadInput(f"{folder} holds outputs for {len(taught.logits)} images, the training set has {len(data.train)}")
    return taught


def _every(stride: int, progress: Reporter, name: str) -> Progress:
    def report(done: int, total: int, loss: float) -> None:
        if done % stride == 0 or done == total:
            progress(done, total, f"{name} loss {loss:.3f}" if loss else name)

    return report


def _role_from(role: dict[str, Any]) -> Role:
    distill = DistillConfig(**role["distill"]) if role.get("distill") else None
    return Role(**{**role, "train": TrainConfig(**role["train"]), "distill": distill})
