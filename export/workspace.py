"""The steps that several cells share (traced programs, quantized programs, calibration samples), each done once, when first asked for."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.jobs import run_job

LEGACY = {"FLAGS_enable_pir_api": "0"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class Workspace:
    """Scratch folder of one export.

    Attributes:
        model: zoo name of the source. weights: its safetensors file.
        samples: calibration inputs, .npy [N, ...], or None when there are none (int8 cells are then refused).
    """

    folder: Path
    model: str
    weights: Path
    samples: Path | None
    opset: int = 17
    _steps: dict[str, Future[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pir(self) -> Path:
        """Folder of the PIR program."""
        return self._folder_of("pir", lambda out: self._program(out, {}))

    def legacy(self) -> Path:
        """Folder of the legacy program, which Paddle Lite and the static quantizer read."""
        return self._folder_of("legacy", lambda out: self._program(out, LEGACY))

    def described(self) -> dict[str, Any]:
        """Inputs and the number of compute operators, from the legacy program."""
        self.legacy()
        return dict(self._steps["legacy"].result())

    def quantized(self, scope: str) -> Path:
        """Folder with ``stored`` and ``lite``, see `edge.export.quantize.quantize_program`."""
        program = self.legacy()
        arguments = {"program": str(program), "samples": str(self.samples), "scope": scope}
        return self._folder_of(f"ptq-{scope}", lambda out: self.job("edge.export.quantize:quantize_program", {**arguments, "out": str(out)}, LEGACY))

    def onnx_fp32(self) -> Path:
        """The fp32 ONNX file that the other ONNX precisions start from."""
        program = self.pir()

        def convert(out: Path) -> Any:
            return self.job("edge.export.onnx:convert", {"program": str(program), "out": str(out), "opset": self.opset})

        return self._folder_of("onnx", convert) / "model.onnx"

    def job(self, target: str, arguments: dict[str, Any], flags: dict[str, str] | None = None) -> Any:
        return run_job(target, arguments, flags={**ONE_THREAD, **(flags or {})}, timeout=600)

    def _program(self, out: Path, flags: dict[str, str]) -> Any:
        arguments = {"model": self.model, "weights": str(self.weights), "out": str(out)}
        return self.job("edge.export.source:save_program", arguments, flags)

    def _folder_of(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Run a step once, whichever cell comes first; the others wait for it and share its failure."""
        with self._lock:
            future = self._steps.get(name)
            mine = future is None
            if future is None:
                future = self._steps[name] = Future()
        out = self.folder / name
        if mine:
            try:
                out.mkdir(parents=True)
                future.set_result(make(out))
            except BaseException as error:
                future.set_exception(error)
        future.result()
        return out


@dataclass(frozen=True)
class Made:
    """The files of a cell: name in the artifact -> role; the program's kind; the tools that made it and their versions."""

    files: dict[str, str]
    program: str
    tools: dict[str, str]


def versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}
