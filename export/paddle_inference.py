"""Paddle Inference: the PIR program for fp32; for bf16 and int8 the legacy program, whose oneDNN passes are complete."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge.export.workspace import Made, Workspace, versions
from edge.vocabulary import Arch, Precision


def make(precision: Precision, arch: Arch, workspace: Workspace, folder: Path) -> Made:
    """Copy the program of one precision into ``folder``. bf16 is chosen when it is loaded; the file stays fp32."""
    if precision is Precision.FP32:
        source, program = workspace.pir(), "model.json"
    elif precision is Precision.BF16:
        source, program = workspace.legacy(), "model.pdmodel"
    else:
        source, program = workspace.quantized("all") / "stored", "model.pdmodel"
    for name in (program, "model.pdiparams"):
        shutil.copyfile(source / name, folder / name)
    kind = "pir" if program.endswith(".json") else "legacy"
    return Made({program: "model", "model.pdiparams": "params"}, kind, versions("paddlepaddle"))
