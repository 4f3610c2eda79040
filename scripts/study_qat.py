#!/usr/bin/env python3
"""What quantization-aware fine-tuning brings over plain int8: one net, several seeds, each int8 file judged in its own runtime.

.venv/bin/python scripts/study_qat.py     (an interrupted run goes on where it stopped)

For each seed one net is trained, then fine-tuned twice from the same weights over the same batches, once as it is (the control) and once with int8
simulated (`edge.compress.qat`); both keep the running statistics of their batch norms. All three nets are exported to int8 alike. Nothing is
chosen by the test images: rate and length of the fine-tuning are `QatConfig`'s default and a quarter of an epoch, set beforehand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.artifact import load_artifact
from edge.compress.qat import QatConfig, fine_tune, running_statistics
from edge.compress.roles import Role, new_model
from edge.compress.train import TrainConfig
from edge.datasets import load_dataset
from edge.files import sha256_of, write_atomic
from edge.models.source import resolve_model
from edge.models.weights import load_weights, save_weights
from edge.vocabulary import Arch, Format, Precision, Status
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest
from edge.workflows.training import cores, train_students, training_flags

ARMS = ("trained", "control", "qat")
FORMATS = frozenset({Format.ONNX, Format.PADDLE_INFERENCE, Format.PADDLE_LITE})
FP32 = "fp32"


@dataclass(frozen=True)
class Study:
    """What is studied. ``images``: how many of the training images the fine-tuning sees, once."""

    model: str
    dataset: str
    seeds: int
    epochs: int
    images: int
    out: str

    @property
    def models(self) -> Path:
        return Path(self.out, "models")

    def role(self, seed: int) -> Role:
        return Role(f"trained_seed{seed}", self.model, self.dataset, TrainConfig(self.epochs, seed=seed), init_seed=seed)

    def weights(self, arm: str, seed: int) -> Path:
        return self.models / f"{arm}_seed{seed}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="fashion_net", help="zoo name")
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1, help="of the first training")
    parser.add_argument("--images", type=int, default=15_000, help="that the fine-tuning sees, once")
    parser.add_argument("--out", type=Path, default=Path("out/study_qat"))
    options = parser.parse_args()
    study = Study(options.model, options.dataset, options.seeds, options.epochs, options.images, str(options.out))
    seeds = range(study.seeds)
    train_students([study.role(seed) for seed in seeds], study.models, lambda name, done, total, note: None)
    os.environ.update(training_flags(1))
    with ProcessPoolExecutor(min(2, cores()), mp_context=multiprocessing.get_context("spawn")) as pool:
        tuned = list(pool.map(tune, *zip(*((study, arm, seed) for seed in seeds for arm in ARMS[1:]), strict=True)))
    judged = [{"seed": seed, "arm": arm, "top1": judge(study, arm, seed)} for seed in seeds for arm in ARMS]
    result = {"schema_version": 1, "provenance": "measured", "unit": "%", **asdict(study), "tuned": tuned, "judged": judged}
    write_atomic(options.out.with_suffix(".json"), json.dumps(result, indent=1))
    print(table(judged))


def tune(study: Study, arm: str, seed: int) -> dict[str, Any]:
    """Fine-tune a seed's net and keep its weights and its record; a record of the same work is taken as it is."""
    config, trained, kept = QatConfig(seed=seed), study.weights("trained", seed), study.weights(arm, seed)
    order = {"arm": arm, "images": study.images, "config": asdict(config), "from": sha256_of(trained)}
    if done := finished(order, kept):
        return done
    train = load_dataset(study.dataset).train.head(study.images)
    net = new_model(study.model, seed)
    load_weights(net, trained)
    record: dict[str, Any] = {"order": order}
    if arm == "qat":
        made = fine_tune(net, train, config)
        record |= {"drift": made.drift, "seconds": made.seconds, "ranges": made.ranges}
    else:
        record |= {"seconds": train_plainly(net, train, config)}
    save_weights(net, kept)
    record["sha256"] = sha256_of(kept)
    write_atomic(kept.with_suffix(".json"), json.dumps(record, indent=1))
    print(f"{kept.stem}: {record['seconds']:.0f} s", flush=True)
    return record


def train_plainly(net: Any, train: Any, config: QatConfig) -> float:
    """The same batches at the same rate, without int8; returns the seconds."""
    import time

    from edge.compress.distill import train_alone

    began = time.perf_counter()
    with running_statistics(net):
        train_alone(net, train, TrainConfig(config.epochs, config.learning_rate, config.batch_size, config.seed))
    return round(time.perf_counter() - began, 1)


def finished(order: dict[str, Any], kept: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(kept.with_suffix(".json").read_text())
        return record if record["order"] == order and record["sha256"] == sha256_of(kept) else None
    except (OSError, ValueError, KeyError):
        return None


def judge(study: Study, arm: str, seed: int) -> dict[str, float | str]:
    """Runtime -> top-1 on the test images in %, or why there is none; the fp32 figure is the Paddle model's."""
    out = Path(study.out, "artifacts")
    source = resolve_model(study.model, weights=study.weights(arm, seed))
    request = ExportRequest(
        source, f"{study.model}_{arm}_seed{seed}", study.dataset, formats=FORMATS, precisions=frozenset({Precision.INT8}), allow_mismatch=True
    )  # fmt: skip
    found: dict[str, float | str] = {FP32: "no int8 file could be run"}
    for cell in export_model(request, out):
        if cell.target_arch is Arch.ARM:
            continue
        name = f"{cell.format.value} int8"
        if cell.status in (Status.OK, Status.FAILED) and cell.artifact and cell.parity and cell.parity.accuracy is not None:
            found[name] = cell.parity.accuracy
            found[FP32] = load_artifact(out / cell.artifact).manifest.provenance.source_accuracy or 0.0
        else:
            found[name] = cell.reason or cell.status.value
    print(f"{arm} seed {seed}: {found}", flush=True)
    return found


def table(judged: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds: top-1, points lost against the arm's own fp32, and what QAT has over the control."""
    top1 = {(row["arm"], row["seed"]): row["top1"] for row in judged}
    seeds = sorted({seed for _, seed in top1})
    names = [name for name in top1[ARMS[0], seeds[0]] if name != FP32]
    lines = ["| net | fp32 | " + " | ".join(f"{name} | drop" for name in names) + " |", "|---|---:|" + "---:|---:|" * len(names)]
    for arm in ARMS:
        cells = [spread([top1[arm, seed][FP32] for seed in seeds])]
        for name in names:
            cells.append(spread([top1[arm, seed][name] for seed in seeds]))
            cells.append(spread([difference(top1[arm, seed][FP32], top1[arm, seed][name]) for seed in seeds]))
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    paired = [spread([difference(top1["qat", seed][name], top1["control", seed][name]) for seed in seeds]) for name in (FP32, *names)]
    lines.append(f"| qat - control | {paired[0]} | " + " | ".join(f"{one} | " for one in paired[1:]) + " |")
    return "\n".join(lines)


def difference(a: float | str, b: float | str) -> float | str:
    return "none" if isinstance(a, str) or isinstance(b, str) else a - b


def spread(values: list[float | str]) -> str:
    if texts := [value for value in values if isinstance(value, str)]:
        return texts[0][:60]
    numbers = [float(value) for value in values]
    return f"{statistics.mean(numbers):.2f}" + (f" ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else "")


if __name__ == "__main__":
    main()
