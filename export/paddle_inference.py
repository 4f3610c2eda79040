"""Paddle Inference: the PIR program for fp32 where there is one; for bf16 and int8 the legacy program, whose oneDNN passes are complete."""

from __future__ import annotations

from pathlib import Path

from edge.export.workspace import Made, Workspace, versions
from edge.files import link_or_copy
from edge.vocabulary import Arch, Precision


def make(precision: Precision, arch: Arch, workspace: Workspace, folder: Path) -> Made:
    """Put the program of one precision into ``folder``. bf16 is chosen when it is loaded; the file stays fp32."""
    if precision is Precision.FP32 and workspace.source.kind != "legacy":
        source = workspace.pir()
        program = source / "model.json"
    elif precision is Precision.INT8:
        source = workspace.quantized("paddle-inference")
        program = source / "model.pdmodel"
    else:
        source = workspace.legacy()
        program = source / "clipped.pdmodel"
    name = "model.json" if program.suffix == ".json" else "model.pdmodel"
    link_or_copy(program, folder / name)
    link_or_copy(source / "model.pdiparams", folder / "model.pdiparams")
    kind = "pir" if program.suffix == ".json" else "legacy"
    return Made({name: "model", "model.pdiparams": "params"}, kind, versions("paddlepaddle"))
