"""What distillation brings over the student alone: full training, several seeds."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from edge.errors import BadInput
from edge.files import write_atomic
from edge.workflows.training import FULL_EPOCHS, RoleProgress, cores, student_roles, teacher_role, train_students, train_teacher


def study_distillation(out: Path, progress: RoleProgress, *, seeds: int = 3, epochs: int = FULL_EPOCHS, dataset: str = "mnist") -> dict[str, Any]:
    """Train one teacher, and ``seeds`` pairs of students that differ in nothing but the loss.

    Returns:
        The written ``study.json``: per seed and in all the top-1 of both students in %, and their paired difference in points.
    """
    if seeds < 1 or epochs < 1:
        raise BadInput("a study needs at least one seed and one epoch")
    teacher = train_teacher(teacher_role(dataset, epochs), out / "models", progress, threads=cores())
    roles = [role for seed in range(seeds) for role in student_roles(dataset, epochs, seed, f"_seed{seed}")]
    records = train_students(roles, out / "models", progress)
    pairs = [
        {"seed": seed, "alone": records[f"student_alone_seed{seed}"]["test_top1"], "distilled": records[f"student_distilled_seed{seed}"]["test_top1"]}
        for seed in range(seeds)
    ]
    gains = [pair["distilled"] - pair["alone"] for pair in pairs]
    result = {
        "schema_version": 1,
        "dataset": dataset,
        "epochs": epochs,
        "unit": "%",
        "provenance": "measured",
        "test_count": teacher["test_count"],
        "teacher": teacher["test_top1"],
        "pairs": pairs,
        "alone_mean": statistics.mean(pair["alone"] for pair in pairs),
        "distilled_mean": statistics.mean(pair["distilled"] for pair in pairs),
        "gain_mean": statistics.mean(gains),
        "gain_stdev": statistics.stdev(gains) if seeds > 1 else None,
        "distill": records["student_distilled_seed0"]["role"]["distill"],
    }
    write_atomic(out / "study.json", json.dumps(result, indent=1))
    return result
