"""The machine the tool runs on."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from edge.children import child_environment, run_child
from edge.environments import lite_python
from edge.vocabulary import Format


class LocalTarget:
    name = "local"

    def __init__(self) -> None:
        self.device = platform.node() or "local"

    def run(self, worker: Path, format: Format, spec: Path, result: Path, log: Path, threads: int, timeout: float) -> int:
        python = lite_python() if format is Format.PADDLE_LITE else Path(sys.executable)
        environment = child_environment({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"})
        return run_child([python, worker, spec, result], environment=environment, log=log, timeout=timeout)
