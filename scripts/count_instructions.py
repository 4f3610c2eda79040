#!/usr/bin/env python3
"""Instructions per inference of artifacts on emulated processors, by the counting plugin (devices/counter.c), as a table.

    .venv/bin/edge export paddle.vision:mobilenet_v1 --format onnx --calibration random --out out/counted
    .venv/bin/python scripts/count_instructions.py out/counted/*-onnx-*
    .venv/bin/python scripts/count_instructions.py out/counted/*-onnx-fp32 --cpu x86_64:max --memory

Figures are medians of the worker's inferences with one thread and batch 1. ``--memory`` runs x86-64 artifacts natively too and puts the kernel's own
account of their memory beside the plugin's: how wrong the plugin is.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from edge.artifact import Artifact, load_artifact
from edge.bench.launch import Task, run_worker, write_inputs
from edge.devices.local import LocalTarget
from edge.devices.profile import load_profile
from edge.devices.qemu import QemuTarget
from edge.devices.target import Target

PROCESSORS = ("aarch64:cortex-a53", "aarch64:cortex-a72", "aarch64:cortex-a76", "aarch64:max,sve=off")
MEMORY = ("baseline_rss", "model_rss", "peak_rss")
#: Profiles whose processor is replaced.
PROFILES = {"aarch64": "raspberry-pi-5", "x86_64": "x86-server"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--cpu", action="append", metavar="MACHINE:CPU", help=f"one or more; default {' '.join(PROCESSORS)}")
    parser.add_argument("--memory", action="store_true", help="beside the kernel's account, natively")
    arguments = parser.parse_args()
    print("| artifact | processor | million instructions (range) | dot | matrix | half | load | baseline, model, peak MiB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for path in arguments.artifacts:
        artifact = load_artifact(path)
        for processor in arguments.cpu or PROCESSORS:
            print_row(artifact.name, processor, figures_of(artifact, emulated(processor), "count"))
        if arguments.memory:
            found = figures_of(artifact, LocalTarget(), "memory")
            print(f"| {artifact.name} | native, by the kernel | | | | | | {mebibytes(found)} |", flush=True)


def emulated(processor: str) -> QemuTarget:
    machine, _, cpu = processor.partition(":")
    return QemuTarget(load_profile(PROFILES[machine]).model_copy(update={"qemu_cpu": cpu}))


def figures_of(artifact: Artifact, target: Target, task: Task) -> dict[str, Any]:
    vectors = artifact.vectors()
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), [vectors[f"input_{index}"] for index in range(len(artifact.manifest.inputs))])
        return run_worker(task, artifact, inputs, target, settings={"growth_seconds": 0}, timeout=3600).figures


def print_row(name: str, processor: str, found: dict[str, Any]) -> None:
    each = found["instructions"]
    kinds = [found[kind] for kind in ("dot", "matrix", "half")]
    shown = ["–" if None in values else millions(statistics.median(values)) for values in kinds]
    total = f"{millions(statistics.median(each))} ({millions(min(each))} to {millions(max(each))})"
    print("|", " | ".join([name, processor, total, *shown, millions(found["load_instructions"]), mebibytes(found)]), "|", flush=True)


def millions(count: float) -> str:
    return f"{count / 1e6:.4g}"


def mebibytes(found: dict[str, Any]) -> str:
    return ", ".join(f"{found[name] / (1 << 20):.1f}" for name in MEMORY)


if __name__ == "__main__":
    main()
