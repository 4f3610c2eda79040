#!/usr/bin/env python3
"""The real PP-OCR nets in every format: accuracy of the text-direction classifier, agreement of the text detector's masks.

python3 scripts/fetch_ppocr.py && .venv/bin/python scripts/study_ppocr.py --out out/ppocr
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edge.artifact import load_artifact
from edge.bench.runnable import why_not_runnable
from edge.datasets.ppocr import page_masks
from edge.datasets.samples import export_data
from edge.devices.local import LocalTarget
from edge.models.source import resolve_model
from edge.vocabulary import Precision
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest
from edge.workflows.prove import outputs_of

#: PP-OCR's own threshold of the detector's map (Du et al. 2020).
THRESHOLD = 0.3
PRECISIONS = frozenset({Precision.FP32, Precision.FP16, Precision.INT8})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/ppocr"))
    parser.add_argument("--out", type=Path, default=Path("out/ppocr"))
    parser.add_argument("--pages", type=int, default=32, help="that judge the detector")
    options = parser.parse_args()
    classifier(options.models / "cls", options.out)
    detector(options.models / "det", options.out, options.pages)


def classifier(model: Path, out: Path) -> None:
    cells = export_model(ExportRequest(resolve_model(str(model)), "ppocr-cls", "text_directions", precisions=PRECISIONS, allow_mismatch=True), out)
    print("| classifier | status | of fp32 | top-1 % | agreement % | kernels |\n|---|---|---:|---:|---:|---:|")
    for cell in cells:
        if cell.artifact and cell.parity and cell.parity.accuracy is not None and not cell.parity.twin and cell.kernels and cell.ratio:
            kernels = "" if cell.kernels.reduced is None else f"{cell.kernels.reduced}/{cell.kernels.total}"
            shares = f"{cell.parity.accuracy:.2f} | {cell.parity.top1_agreement:.2f}"
            print(f"| {cell.format.value} {cell.precision.value} | {cell.status.value} | {cell.ratio:.2f} | {shares} | {kernels} |", flush=True)


def detector(model: Path, out: Path, pages: int) -> None:
    """Intersection over union of the masks with the source's, in %, and how much of the marked area is text."""
    request = ExportRequest(
        resolve_model(str(model)), "ppocr-det", "text_pages", precisions=PRECISIONS, allow_mismatch=True, judge_samples=pages
    )  # fmt: skip
    cells = export_model(request, out)
    made = [load_artifact(out / cell.artifact) for cell in cells if cell.artifact]
    data = export_data("text_pages", made[0].manifest.inputs, judge_count=pages)
    text = page_masks("test")[:pages]
    judge = out / "pages.npy"
    np.save(judge, data.judge.inputs[0])
    exact = None
    print("| detector | of fp32 | mask IoU % | precision % | cosine | kernels |\n|---|---:|---:|---:|---:|---:|")
    for cell, artifact in zip([cell for cell in cells if cell.artifact], made, strict=True):
        if why_not_runnable(artifact, LocalTarget()) or cell.parity is None or cell.kernels is None or not cell.ratio:
            continue
        mask = outputs_of(artifact, [judge], pages)[0][:, 0] > THRESHOLD
        exact = mask if exact is None else exact  # the first cell is ONNX fp32, which its gate holds to 1e-4
        iou = 100 * np.sum(mask & exact) / max(np.sum(mask | exact), 1)
        precision = 100 * np.sum(mask & text) / max(np.sum(mask), 1)
        kernels = "" if cell.kernels.reduced is None else f"{cell.kernels.reduced}/{cell.kernels.total}"
        print(
            f"| {cell.format.value} {cell.precision.value} | {cell.ratio:.2f} | {iou:.2f} | {precision:.2f} | {cell.parity.cosine:.4f} | {kernels} |",
            flush=True,
        )
    judge.unlink()


if __name__ == "__main__":
    main()
