"""Teacher, student alone and student distilled, trained side by side: shared by the demo and by the study."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

from edge.children import side_by_side
from edge.compress.distill import DistillConfig
from edge.compress.roles import Role
from edge.compress.train import TrainConfig
from edge.environments import cpu_flags, cpu_vendor
from edge.jobs import run_job

#: Called with (name of the run, done, total, note).
RoleProgress = Callable[[str, int, int, str], None]

TEACHER, STUDENT = "mnist_teacher", "mnist_student"
#: Epochs of the user's own example.
FULL_EPOCHS = 10


def plan_epochs(budget: float, teacher_epoch: float, student_epoch: float) -> tuple[int, int]:
    """How many epochs (teacher, each student) fit a time budget in seconds; see `training_seconds` for what they cost.

    The teacher gets half as many epochs as the students, rounded up; at least 1 and 3, at most `FULL_EPOCHS`.
    The two students train side by side, so one student's time counts.
    """
    for students in range(FULL_EPOCHS, 3, -1):
        teacher = ceil(students / 2)
        if training_seconds(teacher, students, teacher_epoch, student_epoch) <= budget:
            return teacher, students
    return 1, 3


def training_seconds(teacher: int, students: int, teacher_epoch: float, student_epoch: float) -> float:
    """Estimate: the teacher's epochs, its outputs (a tenth of an epoch), and one student's epochs."""
    return (teacher + 0.1) * teacher_epoch + students * student_epoch


def teacher_role(dataset: str, epochs: int) -> Role:
    return Role("teacher", TEACHER, dataset, TrainConfig(epochs))


def student_roles(dataset: str, epochs: int, seed: int = 0, suffix: str = "", distill: DistillConfig | None = None) -> tuple[Role, Role]:
    """(alone, distilled): the same epochs, initial weights and batches."""
    train = TrainConfig(epochs, seed=seed)
    alone = Role(f"student_alone{suffix}", STUDENT, dataset, train, init_seed=seed)
    distilled = Role(f"student_distilled{suffix}", STUDENT, dataset, train, init_seed=seed, teacher="teacher", distill=distill or DistillConfig())
    return alone, distilled


def train_teacher(role: Role, folder: Path, progress: RoleProgress, threads: int) -> dict[str, Any]:
    """Train the teacher and compute its outputs once; returns its record."""
    record = _train(role, folder, progress, threads)
    run_job(
        "edge.compress.roles:compute_teacher_outputs",
        {"teacher": asdict(role), "folder": str(folder), "threads": threads},
        flags=training_flags(threads),
        on_progress=lambda done, total, note: progress("teacher outputs", done, total, note),
    )
    return record


def train_students(roles: list[Role], folder: Path, progress: RoleProgress) -> dict[str, dict[str, Any]]:
    """Train students side by side, one thread each: Paddle's small convolutions gain 1.2x from a second thread."""
    with side_by_side(min(cores(), len(roles))) as pool:
        futures = {pool.submit(_train, role, folder, progress, 1): role.name for role in roles}
        return {futures[future]: future.result() for future in as_completed(futures)}


def training_flags(threads: int) -> dict[str, str]:
    """The environment of a process that trains.

    MKL 2019, which Paddle's wheels carry, takes its slowest code on a processor of another maker than Intel; MKL_DEBUG_CPU_TYPE=5 names its code for
    AVX2 (Zen 4: 130 instead of 260 ms for a batch of the AlexNet-style net).
    """
    flags = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return {**flags, "MKL_DEBUG_CPU_TYPE": "5"} if cpu_vendor() == "AuthenticAMD" and "avx2" in cpu_flags() else flags


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def _train(role: Role, folder: Path, progress: RoleProgress, threads: int) -> dict[str, Any]:
    record: dict[str, Any] = run_job(
        "edge.compress.roles:run_role",
        {"role": asdict(role), "folder": str(folder)},
        flags=training_flags(threads),
        on_progress=lambda done, total, note: progress(role.name, done, total, note),
    )
    return record
