#!/usr/bin/env python3
"""The ten architectures in every format, and what the proof costs: this tool's time beside that of the raw converters, interleaved.

.venv/bin/python scripts/bench_export.py --out out/nets                    # the table of cells, fp32 and int8
.venv/bin/python scripts/bench_export.py --out out/nets --time --runs 3    # the times, fp32

The raw way is what a user scripts by hand: save the PIR program and convert it with paddle2onnx in one process, save the legacy program in another
(the flag is read at import), and run Paddle Lite's opt for x86 and ARM in the Lite environment. No output is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge.children import child_environment
from edge.environments import lite_python
from edge.export.paddle_lite import OPT_SCRIPT
from edge.models.source import resolve_model
from edge.vocabulary import Format, Precision
from edge.workflows.export import export_model
from edge.workflows.export_index import ExportedCell
from edge.workflows.export_source import ExportRequest

NETS = (
    "paddle.vision:lenet", "paddle.vision:mobilenet_v1", "paddle.vision:mobilenet_v2", "paddle.vision:mobilenet_v3_small", "paddle.vision:resnet18",
    "paddle.vision:squeezenet1_1", "paddle.vision:shufflenet_v2_x1_0", "paddle.vision:alexnet", "paddle.vision:vgg11", "paddle.vision:vgg16",
)  # fmt: skip
SAVE = """
import sys, paddle
from paddle.vision import models
kind, name, out = sys.argv[1:4]
paddle.seed(0)
net = models.LeNet() if name == "LeNet" else getattr(models, name)()
net.eval()
shape = [None, 1, 28, 28] if name == "LeNet" else [None, 3, 224, 224]
static = paddle.jit.to_static(net, input_spec=[paddle.static.InputSpec(shape, "float32", "image")], full_graph=True)
if kind == "legacy":
    paddle.jit.save(static, out + "/model", clip_extra=False)
else:
    import paddle2onnx
    paddle.jit.save(static, out + "/model")
    paddle2onnx.export(out + "/model.json", out + "/model.pdiparams", out + "/model.onnx", opset_version=17, optimize_tool="None", verbose=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/nets"))
    parser.add_argument("--nets", nargs="*", default=NETS, metavar="NET")
    parser.add_argument("--time", action="store_true", help="time fp32 in three formats against the raw converters")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.time:
        print_times(options.nets, options.out, options.runs)
    else:
        print_cells(options.nets, options.out)


def print_cells(nets: list[str], out: Path) -> None:
    """One line a cell, as Markdown; the artifacts stay in ``out``."""
    print("| net | cell | status | of fp32 | max error | cosine | kernels |\n|---|---|---|---:|---:|---:|---:|")
    for net in nets:
        source = resolve_model(net)
        request = ExportRequest(source, source.label, "random", precisions=frozenset({Precision.FP32, Precision.FP16, Precision.INT8}))
        for cell in export_model(request, out):
            print(line(source.label, cell), flush=True)


def line(net: str, cell: ExportedCell) -> str:
    name = f"{cell.format.value} {cell.precision.value}{'' if cell.target_arch.value == 'any' else ' ' + cell.target_arch.value}"
    if cell.parity is None or cell.kernels is None:
        return f"| {net} | {name} | {cell.status.value}: {cell.reason} | | | | |"
    p, k = cell.parity, cell.kernels
    figures = [f"{cell.ratio:.2f}" if cell.ratio else "", f"{p.max_rel:.1e}" if p.max_rel is not None else "", f"{p.cosine:.5f}" if p.cosine else ""]
    return f"| {net} | {name} | {cell.status.value} | {' | '.join(figures)} | {'' if k.reduced is None else f'{k.reduced}/{k.total}'} |"


def print_times(nets: list[str], out: Path, runs: int) -> None:
    totals: dict[str, list[float]] = {"raw": [], "edge": []}
    for net in nets:
        times: dict[str, list[float]] = {"raw": [], "edge": []}
        for _ in range(runs):
            times["raw"].append(timed(lambda n=net: raw(resolve_model(n).name, out / "raw"), out))
            times["edge"].append(timed(lambda n=net: proven(n, out / "proven"), out))
        medians = {way: statistics.median(values) for way, values in times.items()}
        for way, value in medians.items():
            totals[way].append(value)
        print(f"{net:<34} raw {medians['raw']:6.1f} s   edge {medians['edge']:6.1f} s   ratio {medians['edge'] / medians['raw']:.2f}", flush=True)
    raw_s, edge_s = sum(totals["raw"]), sum(totals["edge"])
    print(f"{'all':<34} raw {raw_s:6.1f} s   edge {edge_s:6.1f} s   ratio {edge_s / raw_s:.2f}   (medians of {runs}, measured)")


def timed(work: Callable[[], object], out: Path) -> float:
    """Seconds of ``work``, after the files of the one before are gone or have reached the disk."""
    for folder in ("raw", "proven"):
        shutil.rmtree(out / folder, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw(name: str, out: Path) -> None:
    for kind, flags in (("pir", {}), ("legacy", {"FLAGS_enable_pir_api": "0"})):
        (out / kind).mkdir(parents=True)
        run([sys.executable, "-c", SAVE, kind, name, str(out / kind)], flags)
    for arch in ("x86", "arm"):
        run([str(lite_python()), str(OPT_SCRIPT), str(out / "legacy"), str(out / f"model_{arch}"), arch, "fp32"], {})


def run(command: list[str], flags: dict[str, str]) -> None:
    done = subprocess.run(command, env=child_environment(flags), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr[-500:]}")


def proven(net: str, out: Path) -> None:
    source = resolve_model(net)
    cells = export_model(ExportRequest(source, source.label, None, formats=frozenset(Format), precisions=frozenset({Precision.FP32})), out)
    bad = [json.loads(cell.model_dump_json()) for cell in cells if cell.status.value not in ("ok", "exported")]
    if bad:
        raise SystemExit(f"{net}: {bad[0]['reason']}")


if __name__ == "__main__":
    main()
