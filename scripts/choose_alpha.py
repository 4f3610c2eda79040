#!/usr/bin/env python3
"""How `edge.workflows.demo.YOUNG_TEACHER` was chosen: the demo's training with several alphas, judged on held-out training images.

.venv/bin/python scripts/choose_alpha.py     (about 12 minutes on two cores)
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

from edge.compress.distill import DistillConfig
from edge.workflows.training import cores, student_roles, teacher_role, train_students, train_teacher

DATASET, ALPHAS, SEEDS = "mnist:held-out", (0.3, 0.5, 0.7), (0, 1)
#: What the demo trains on the machine whose figures stand in the README.
TEACHER_EPOCHS, STUDENT_EPOCHS = 1, 3


def main() -> None:
    folder = Path("out/choose_alpha")
    train_teacher(teacher_role(DATASET, TEACHER_EPOCHS), folder, lambda *_: None, threads=cores())
    roles = {}
    for seed in SEEDS:
        for alpha in ALPHAS:
            _, distilled = student_roles(DATASET, STUDENT_EPOCHS, seed, distill=DistillConfig(alpha=alpha))
            roles[alpha, seed] = replace(distilled, name=f"student_a{alpha}_s{seed}")
    records = train_students(list(roles.values()), folder, lambda *_: None)
    for alpha in ALPHAS:
        top1 = [records[roles[alpha, seed].name]["test_top1"] for seed in SEEDS]
        print(f"alpha {alpha}: {' '.join(f'{value:.2f}' for value in top1)} % of held-out images, mean {statistics.mean(top1):.2f}", flush=True)


if __name__ == "__main__":
    main()
