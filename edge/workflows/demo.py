"""The main job on real data: train, distil, export, measure, report, what three devices would make of it, and a bundle for the first of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.artifact import Artifact, load_artifact
from edge.bench.measure import BenchRequest, Plan
from edge.bench.report import write_report
from edge.bench.results import Accuracy, Cell, Results, Training
from edge.bench.rows import row
from edge.bench.scenarios import SingleStream
from edge.bench.verdict import Check, check
from edge.compress.distill import DistillConfig
from edge.compress.roles import Role
from edge.datasets import load_dataset
from edge.devices.local import LocalTarget
from edge.devices.profile import load_profile
from edge.devices.targets import make_target
from edge.files import write_atomic
from edge.jobs import run_job
from edge.models.source import resolve_model
from edge.vocabulary import Format, Measurement, Precision
from edge.workflows.bench import Matrix, plan_cells, rows_not_made, run_matrix
from edge.workflows.export import export_model
from edge.workflows.export_index import ExportedCell, read_index
from edge.workflows.export_source import ExportRequest
from edge.workflows.pack import PackRequest, pack
from edge.workflows.training import (
    STUDENT,
    TEACHER,
    cores,
    plan_epochs,
    student_roles,
    teacher_role,
    train_students,
    train_teacher,
    training_flags,
    training_seconds,
)

#: The demo's teacher has had an epoch or two and is right less often than the labels: it gets a smaller say than in `edge study`.
#: Chosen on 10,000 held-out training images, two seeds (`scripts/choose_alpha.py`): 0.3 98.65 %, 0.5 98.54 %, 0.7 98.35 %.
YOUNG_TEACHER = DistillConfig(alpha=0.3)
DISTILLED, ALONE = "mnist_student_distilled", "mnist_student_alone"
#: A net that is large for a camera: what compressing it brings there. Its weights are random, so it says nothing of accuracy.
LARGE = "paddle.vision:resnet18"
DEVICES = ("camera", "raspberry-pi-4b", "raspberry-pi-5")
#: Of these the processor is emulated; the camera's executes the same instructions as the first.
EMULATED = ("raspberry-pi-4b", "raspberry-pi-5")


@dataclass(frozen=True)
class DemoEvents:
    """What the demo tells as it goes: a line, a step's progress (task, done, total, note), a finished export cell."""

    say: Callable[[str], None]
    progress: Callable[[str, int, int, str], None]
    cell: Callable[[ExportedCell], None]


def run_demo(
    out: Path, events: DemoEvents, *, dataset: str = "mnist", train_seconds: float = 300.0, devices: bool = True
) -> tuple[Results, Path | None]:
    """Run the demo into ``out``; what an interrupted run has trained is taken up again.

    Args:
        train_seconds: the epochs are chosen so that training fits about this time (at least 1 of the teacher and 3 of the students).
        devices: also emulate the processors of `DEVICES`, on these artifacts and on those of a larger net.

    Returns:
        The results, as written to ``out/results.json``; ``out/report.html`` shows them, with the verdicts on the devices. And the bundle of what
        is best on the first of `DEVICES`; None where the verdict on it is FAIL.
    """
    data = load_dataset(dataset)
    events.say(data.note or f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images")
    models = out / "models"
    teacher_epochs, student_epochs = _plan(models, data.name, train_seconds, events)
    teacher = teacher_role(data.name, teacher_epochs)
    alone, distilled = student_roles(data.name, student_epochs, distill=YOUNG_TEACHER)
    records = {teacher.name: train_teacher(teacher, models, events.progress, threads=cores())}
    records |= train_students([alone, distilled], models, events.progress)
    training = [_training(role, records[role.name]) for role in (teacher, alone, distilled)]
    for trained in training:
        events.say(f"{trained.name}: {trained.epochs} epochs, {trained.top1.value:.2f} % of {trained.test_count:,} test images")
    for name, role in ((DISTILLED, distilled), (ALONE, alone)):
        events.say(f"export {name}")
        recipe = json.loads(json.dumps(records[role.name]["role"]))
        source = resolve_model(STUDENT, weights=models / f"{role.name}.safetensors")
        export_model(ExportRequest(source, name, data.name, recipe=recipe), out / "artifacts", events.cell)
    if devices:
        _export_large(out / "artifacts", events)
    results = _measure(out, training, events, devices)
    return results, _pack(out, next(iter(verdicts(results))), events)


def verdicts(results: Results) -> list[Check]:
    """On each of `DEVICES`; the student alone is the same network."""
    cells = [cell for cell in results.cells if cell.model != ALONE]
    return [check(cells, load_profile(name)) for name in DEVICES]


def alone_top1(results: Results, cell: Cell) -> Measurement | None:
    """Top-1 of the same cell made from the student trained alone."""
    key = (cell.format, cell.precision, cell.target_arch)
    return next((c.accuracy.top1 for c in results.cells if c.model == ALONE and (c.format, c.precision, c.target_arch) == key), None)


def _export_large(artifacts: Path, events: DemoEvents) -> None:
    events.say(f"export {LARGE}, with random weights: a net that is large for a camera")
    source = resolve_model(LARGE)
    formats, precisions = frozenset({Format.ONNX}), frozenset({Precision.FP32, Precision.INT8})
    export_model(ExportRequest(source, source.label, "random", formats=formats, precisions=precisions, judge_samples=2), artifacts, events.cell)


def _on_devices(artifacts: Path, request: BenchRequest) -> list[Plan | Cell]:
    """The larger net here, and what onnxruntime runs on the emulated processors."""
    large = resolve_model(LARGE).label
    made = [cell for cell in read_index(artifacts).cells if cell.artifact and cell.format is Format.ONNX]
    plans = plan_cells([artifacts / str(cell.artifact) for cell in made if cell.model == large], replace(request, repeats=1))
    for name in EMULATED:
        emulated = replace(request, target=make_target("qemu", load_profile(name)))
        plans += plan_cells([artifacts / str(cell.artifact) for cell in made if cell.model in (DISTILLED, large)], emulated)
    return plans


def _measure(out: Path, training: list[Training], events: DemoEvents, devices: bool) -> Results:
    """Everything of the distilled student; of the student alone what its export has measured: the same network, the same times."""
    artifacts = out / "artifacts"
    request = BenchRequest(LocalTarget(), scenario=SingleStream(min_seconds=1.0))
    made = [cell for cell in read_index(artifacts).cells if cell.artifact]
    also = [cell for model in (DISTILLED, ALONE) for cell in rows_not_made(artifacts, request, model)]
    also += [_as_proven(load_artifact(artifacts / str(cell.artifact)), request) for cell in made if cell.model == ALONE]
    plans = plan_cells([artifacts / str(cell.artifact) for cell in made if cell.model == DISTILLED], request)
    if devices:
        plans += _on_devices(artifacts, request)
    events.say(f"measure {DISTILLED}" + (f", and emulate {' and '.join(EMULATED)}" if devices else ""))

    def progress(what: str, done: int, total: int, left: float | None) -> None:
        events.progress("measure", done, total, what)

    results = run_matrix(Matrix([*also, *plans]), out / "results.json", progress, say=events.say, training=training)
    write_report(results, out / "report.html", verdicts(results) if devices else ())
    return results


def _pack(out: Path, found: Check, events: DemoEvents) -> Path | None:
    bundle, best = out / f"{found.device}.bundle.tar.gz", found.cells[0]
    if best.verdict == "FAIL":
        bundle.unlink(missing_ok=True)  # of an earlier run
        events.say(f"nothing is packed for {found.device}: nothing would live there")
        return None
    events.say(f"pack {best.artifact} for {found.device}")
    request = PackRequest([out / "artifacts" / best.artifact], found.device, bundle, [out / "results.json"])
    return pack(request, lambda done, total, note: events.progress("pack", done, total, note)).path


def _as_proven(artifact: Artifact, request: BenchRequest) -> Cell:
    """A row without a measurement of its own: accuracy and agreement as the parity gate measured them just now."""
    cell, parity = row(Plan(artifact, replace(request, parts=())), {}, {}), artifact.manifest.parity
    if parity.accuracy is None or parity.top1_agreement is None or parity.twin:
        return cell
    top1 = {"accuracy": parity.accuracy, "agreement": parity.top1_agreement}
    return cell.model_copy(update={name: Accuracy(top1=Measurement(value=value, unit="%")) for name, value in top1.items()})


def _plan(models: Path, dataset: str, seconds: float, events: DemoEvents) -> tuple[int, int]:
    """Epochs of (teacher, students) that fit the time on this machine; an earlier plan for the same budget holds."""
    path = models / "plan.json"
    asked = {"dataset": dataset, "train_seconds": seconds}
    try:
        plan = json.loads(path.read_text())
        if plan["asked"] == asked:
            return int(plan["teacher"]), int(plan["students"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    events.say("timing a few batches")
    teacher_s, student_s = (_epoch_seconds(model, dataset, threads) for model, threads in ((TEACHER, cores()), (STUDENT, 1)))
    teacher, students = plan_epochs(seconds, teacher_s, student_s)
    write_atomic(path, json.dumps({"asked": asked, "teacher": teacher, "students": students}))
    events.say(
        f"one epoch takes about {teacher_s:.0f} s (teacher) and {student_s:.0f} s (student): training {teacher} and {students} epochs,"
        f" about {training_seconds(teacher, students, teacher_s, student_s):.0f} s; all 10 epochs and 3 seeds: edge study"
    )
    return teacher, students


def _epoch_seconds(model: str, dataset: str, threads: int) -> float:
    return float(run_job("edge.compress.roles:seconds_per_epoch", {"model": model, "dataset": dataset}, flags=training_flags(threads)))


def _training(role: Role, record: dict[str, Any]) -> Training:
    return Training(
        name=role.name,
        epochs=role.train.epochs,
        top1=Measurement(value=record["test_top1"], unit="%"),
        test_count=record["test_count"],
        seconds=Measurement(value=record["seconds"], unit="s"),
    )
