#!/usr/bin/env python3
"""Our int8 beside what a user gets by hand from the same toolchain: same net, same calibration and test data, same machine, one run.

.venv/bin/python scripts/compare_quantizers.py MODEL --data DATA [--weights FILE] [--out out/quantizers]

by hand, onnx:              paddle2onnx, then onnxruntime's ``quantize_static`` with its defaults
by hand, paddle-inference:  Paddle's ``PostTrainingQuantization`` with its defaults, ``onnx_format=True`` (without it the weights stay fp32)
ours:                       ``edge.export_model``

Accuracy is that of each file in its own runtime. Latencies (ms, one thread, batch 1) are medians of runs that take turns, each in a fresh process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact, file_entry, load_artifact, write_manifest
from edge.bench.launch import run_worker
from edge.bench.scenarios import SingleStream, timing
from edge.datasets.samples import export_data
from edge.devices.local import LocalTarget
from edge.errors import EdgeError
from edge.export.parity import agreement_of
from edge.export.workspace import LEGACY
from edge.jobs import run_job
from edge.models.source import resolve_model
from edge.vocabulary import Format, Precision
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest
from edge.workflows.prove import outputs_of

ROUNDS = 5
FORMATS = frozenset({Format.ONNX, Format.PADDLE_INFERENCE})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=64, help="that calibrate both (Paddle takes about a second each)")
    parser.add_argument("--out", type=Path, default=Path("out/quantizers"))
    options = parser.parse_args()
    source = resolve_model(options.model, weights=options.weights)
    out = options.out / source.label
    precisions = frozenset({Precision.FP32, Precision.INT8})
    request = ExportRequest(
        source, source.label, options.data, formats=FORMATS, precisions=precisions, allow_mismatch=True, calibration_samples=options.samples
    )  # fmt: skip
    cells = export_model(request, out)
    made = {(cell.format, cell.precision): load_artifact(out / str(cell.artifact)) for cell in cells if cell.artifact}
    inputs = made[Format.ONNX, Precision.FP32].manifest.inputs
    data = export_data(options.data, inputs, calibration_count=options.samples)
    judge, calibration = (
        saved(out / f"{name}.npy", samples.inputs[0]) for name, samples in (("judge", data.judge), ("calibration", data.calibration))
    )
    sides = {f"{format.value} fp32": made[format, Precision.FP32] for format in (Format.ONNX, Format.PADDLE_INFERENCE)}
    for format in (Format.ONNX, Format.PADDLE_INFERENCE):
        sides[f"{format.value} int8, by hand"] = by_hand(format, made, source.as_dict(), calibration, inputs[0].name, out)
        sides[f"{format.value} int8, ours"] = made[format, Precision.INT8]
    exact = outputs_of(sides["onnx fp32"], [judge], len(data.judge))[0]
    times = latencies(sides, judge)
    print(f"{source.label}: {data.description}")
    print("| file | top-1 % | agreement % | p50 ms | min ms | KiB |\n|---|---:|---:|---:|---:|---:|")
    for name, artifact in sides.items():
        found = outputs_of(artifact, [judge], len(data.judge))[0]
        top1 = "" if data.judge.labels is None else f"{agreement_of(found, data.judge.labels):.2f}"
        p50, least = times[name]
        print(f"| {name} | {top1} | {agreement_of(found, exact.argmax(1)):.2f} | {p50:.3f} | {least:.3f} | {artifact.size / 1024:,.0f} |", flush=True)


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def by_hand(format: Format, made: dict[Any, Artifact], source: dict[str, Any], calibration: Path, name: str, out: Path) -> Artifact:
    """An artifact folder around the hand-made file, so that the same worker runs it."""
    folder = out / f"by-hand-{format.value}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made[format, Precision.INT8].folder, folder)
    if format is Format.ONNX:
        fp32 = str(made[Format.ONNX, Precision.FP32].path("model"))
        quantize_onnx_by_hand(fp32, calibration, name, str(folder / "model.onnx"))
    else:
        (folder / "source").mkdir()
        run_job("edge.export.source:save_legacy", {"source": source, "out": str(folder / "source")}, flags=LEGACY)
        quantize_paddle_by_hand(folder, calibration, name)
    manifest = made[format, Precision.INT8].manifest
    files = tuple(file_entry(folder, entry.path, entry.role) for entry in manifest.files)
    return write_manifest(folder, manifest.model_copy(update={"files": files}))


def quantize_onnx_by_hand(model: str, calibration: Path, name: str, target: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = ({name: sample[None]} for sample in np.load(calibration))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    quantize_static(model, target, Reader())


PADDLE_BY_HAND = """
import sys
import numpy as np, paddle
from paddle.static.quantization import PostTrainingQuantization
source, samples, name, out = sys.argv[1:5]
paddle.enable_static()
array = np.load(samples)
quantizer = PostTrainingQuantization(
    paddle.static.Executor(paddle.CPUPlace()), model_dir=source, model_filename="model.pdmodel", params_filename="model.pdiparams",
    data_loader=lambda: ({name: array[i : i + 8]} for i in range(0, len(array), 8)), batch_nums=len(array) // 8, onnx_format=True,
)
quantizer.quantize()
quantizer.save_quantized_model(out, model_filename="model.pdmodel", params_filename="model.pdiparams")
"""


def quantize_paddle_by_hand(folder: Path, calibration: Path, name: str) -> None:
    import subprocess
    import sys

    from edge.children import child_environment

    command = [sys.executable, "-c", PADDLE_BY_HAND, str(folder / "source"), str(calibration), name, str(folder)]
    done = subprocess.run(command, env=child_environment(LEGACY), capture_output=True, text=True)
    shutil.rmtree(folder / "source")
    if done.returncode:
        raise SystemExit(f"Paddle's quantizer failed: {done.stderr[-500:]}")


def latencies(sides: dict[str, Artifact], judge: Path) -> dict[str, tuple[float, float]]:
    """Name -> (median of the rounds' medians, least), ms. The files take turns."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    settings = {"threads": 1, "batch": 1, **timing(SingleStream(min_seconds=1.0))}
    for _ in range(ROUNDS):
        for name, artifact in sides.items():
            try:
                figures = run_worker("latency", artifact, [judge], LocalTarget(), settings=settings).figures
            except EdgeError as error:
                raise SystemExit(f"{name}: {error}") from None
            seen[name].append(np.asarray(figures["samples_ns"]) / 1e6)
    return {name: (statistics.median(float(np.median(s)) for s in samples), min(float(s.min()) for s in samples)) for name, samples in seen.items()}


if __name__ == "__main__":
    main()
