"""Paddle Lite: its ``opt`` turns the legacy program into one ``.nb`` file, in the Paddle Lite environment."""

from __future__ import annotations

from pathlib import Path

from edge.children import cause_of_death, child_environment, last_words, run_child
from edge.environments import lite_python, paddlelite_version
from edge.errors import ConversionFailed
from edge.export.workspace import Made, Workspace, versions
from edge.vocabulary import Arch, Precision

#: Runs in the Paddle Lite environment.
OPT_SCRIPT = Path(__file__).with_name("lite_opt.py")


def make(precision: Precision, arch: Arch, workspace: Workspace, folder: Path) -> Made:
    """Write ``model.nb`` for one precision and architecture into ``folder``.

    Raises:
        Unavailable: no Paddle Lite environment.
        ConversionFailed: opt died or wrote nothing.
    """
    python = lite_python()
    program = _program(precision, arch, workspace)
    log = folder.with_suffix(".opt.log")
    command = [python, OPT_SCRIPT, program, folder / "model", arch.value, precision.value]
    status = run_child(command, environment=child_environment(), log=log, timeout=600)
    words = last_words(log)
    log.unlink()
    target = folder / "model.nb"
    if status != 0 or not target.is_file() or target.stat().st_size == 0:
        raise ConversionFailed(f"Paddle Lite's opt died of {cause_of_death(status)}; its last words: {words}")
    return Made({"model.nb": "model"}, "naive buffer", {**versions("paddlepaddle"), "paddlelite": paddlelite_version(python)})


def _program(precision: Precision, arch: Arch, workspace: Workspace) -> Path:
    if precision is Precision.INT8:
        return workspace.quantized(f"lite-{arch.value}")
    return workspace.legacy()
