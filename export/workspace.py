"""The steps that several cells share (programs, ranges, quantized programs), each done once, when first asked for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Work
from edge.errors import ConversionFailed, Unavailable, Unsupported
from edge.export.calibrate import Method
from edge.jobs import JobProgress, WarmServers, run_job
from edge.models.source import ModelSource

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: Flags of the jobs that make or read legacy programs; the others have `ONE_THREAD`.
LEGACY = {**ONE_THREAD, "FLAGS_enable_pir_api": "0"}
#: Written by `edge.export.onnx.convert` before it converts: the sentence for when it ends with these words.
UNKNOWN_OPERATORS, ABORTED = "unknown_operators.txt", "Due to the unsupported operators"
#: Seconds that one conversion, or the model itself over all samples, may take.
TIMEOUT = 3600


@dataclass(frozen=True)
class Options:
    """How to convert.

    Attributes:
        opset: of the ONNX files.
        half_io: the fp16 ONNX file takes and gives float16 too.
        method: how int8 ranges are taken from the calibration samples.
        signed_activations: of the int8 ONNX file: S8 instead of U8.
        full_range: all 8 bits of int8, see `edge.export.quantize`.
    """

    opset: int = 17
    half_io: bool = False
    method: Method = "minmax"
    signed_activations: bool = False
    full_range: bool = False


class _Steps:
    """Runs a step once, whichever thread comes first; the others wait for it and share its result or its failure."""

    def __init__(self) -> None:
        self.futures: dict[str, Future[Any]] = {}
        self.lock = threading.Lock()

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        with self.lock:
            future = self.futures.get(name)
            mine = future is None
            if future is None:
                future = self.futures[name] = Future()
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
        return future.result()


@dataclass(frozen=True)
class Workspace:
    """Scratch folder of one export.

    Attributes:
        servers: where the jobs are forked.
        samples: calibration inputs, one .npy [N, ...] an input; empty when there are none (int8 cells are then refused).
        float_layers: weights of the layers that stay float in int8 cells.
    """

    folder: Path
    source: ModelSource
    servers: WarmServers
    options: Options = Options()
    samples: tuple[Path, ...] = ()
    float_layers: tuple[str, ...] = ()
    progress: JobProgress = lambda done, total, note: None
    _steps: _Steps = field(default_factory=_Steps)

    def keeping(self, float_layers: tuple[str, ...]) -> Workspace:
        """The same workspace for int8 cells with these layers in float."""
        return replace(self, float_layers=float_layers)

    def pir(self) -> Path:
        """Folder of the PIR program.

        Raises:
            Unsupported: the source is a legacy program.
        """
        return self._folder("pir", lambda out: self.job("edge.export.source:save_pir", {"source": self.source.as_dict(), "out": str(out)}))

    def legacy(self) -> Path:
        """Folder of the repaired legacy program, which Paddle Lite and Paddle's quantizer read.

        Raises:
            Unsupported: the source is a PIR program, or a layer that Paddle traces into one only.
        """

        def save(out: Path) -> None:
            try:
                facts = self.job("edge.export.source:save_legacy", {"source": self.source.as_dict(), "out": str(out)}, LEGACY)
            except ConversionFailed as error:
                if self.source.kind == "legacy":
                    raise
                raise Unsupported(f"there is no legacy program to make it from: {error.message}") from error
            (out / "facts.json").write_text(json.dumps(facts))

        return self._folder("legacy", save)

    def without_legacy(self) -> str | None:
        """Why the source has no legacy program, only a PIR one; None where it has one."""
        try:
            self.legacy()
        except Unsupported as error:
            return error.message
        return None

    def program(self) -> tuple[Path, Path]:
        """(program, parameters) that everything else is made from: the legacy one, the PIR one where there is none."""
        if self.without_legacy():
            return self.pir() / "model.json", self.pir() / "model.pdiparams"
        return self.legacy() / "model.pdmodel", self.legacy() / "model.pdiparams"

    def described(self) -> dict[str, Any]:
        """inputs, outputs, layers and parameter_bytes, see `edge.export.source.save_legacy`."""
        program, _ = self.program()
        folder, source = str(program.parent), self.source.as_dict()
        facts: dict[str, Any]
        if program.suffix == ".json":
            facts = self.once("facts", lambda: self.job("edge.export.source:describe_pir", {"source": source, "folder": folder}))
        else:
            facts = json.loads((program.parent / "facts.json").read_text())
        return facts

    def onnx_fp32(self) -> Path:
        """The fp32 ONNX file that the other ONNX precisions and the ranges start from.

        Raises:
            Unsupported: an operator that paddle2onnx does not know.
        """
        program, params = (str(path) for path in self.program())

        def convert(out: Path) -> Any:
            arguments = {"program": program, "params": params, "out": str(out), "opset": self.options.opset}
            try:
                return self.job("edge.export.onnx:convert", arguments)
            except ConversionFailed as error:
                if ABORTED in error.message:
                    raise Unsupported((out / UNKNOWN_OPERATORS).read_text()) from error
                raise

        return self._folder("onnx", convert) / "model.onnx"

    def ranges(self) -> Path:
        """The ranges of all activations, `edge.export.calibrate.Ranges`.

        Raises:
            Unavailable: there are no calibration samples.
        """
        if not self.samples:
            raise Unavailable("int8 needs calibration data", hint="name some: --calibration DATASET|FOLDER|FILE.npz (or: random)")
        model = str(self.onnx_fp32())

        def observe(out: Path) -> Any:
            arguments = {"model": model, "inputs": self._named_samples(), "method": self.options.method}
            return self.job("edge.export.calibrate:observe", {**arguments, "out": str(out / "ranges.json")})

        return self._folder("ranges", observe) / "ranges.json"

    def largest(self) -> Path:
        """Largest magnitudes of the legacy program's activations, see `edge.export.calibrate.observe_program`."""
        arguments = {"program": str(self.legacy()), "samples": self._named_samples()}

        def observe(out: Path) -> Any:
            return self.job("edge.export.calibrate:observe_program", {**arguments, "out": str(out / "largest.json")}, LEGACY)

        return self._folder("largest", observe) / "largest.json"

    def quantized(self, runtime: str) -> Path:
        """Folder of the int8 legacy program for one runtime, see `edge.export.quantize.quantize_program`."""
        program, ranges = self.legacy(), self.ranges()
        largest = str(self.largest()) if runtime == "paddle-inference" else None
        arguments: dict[str, Any] = {"program": str(program), "ranges": str(ranges), "largest": largest, "samples": self._named_samples()}
        arguments |= {"runtime": runtime, "float_layers": list(self.float_layers), "full_range": self.options.full_range}

        def quantize(out: Path) -> Any:
            return self.job("edge.export.quantize:quantize_program", {**arguments, "out": str(out)}, LEGACY)

        kept = hashlib.sha256(" ".join(self.float_layers).encode()).hexdigest()[:16]
        return self._folder(f"int8-{runtime}-{kept}", quantize)

    def source_outputs(self, inputs: Sequence[Path]) -> list[np.ndarray]:
        """What the Paddle model itself gives for the inputs, one .npy each: see `edge.export.source.source_outputs`."""
        names = [str(path) for path in inputs]

        def run() -> list[np.ndarray]:
            with tempfile.TemporaryDirectory(prefix="edge-source.") as folder:
                shapes = self.job("edge.export.source:source_outputs", {"source": self.source.as_dict(), "inputs": names, "out": folder})
                return [np.load(Path(folder, f"output_{index}.npy"), allow_pickle=False) for index in range(len(shapes))]

        outputs: list[np.ndarray] = self.once(f"outputs for {names}", run)
        return outputs

    def work(self, inputs: Sequence[Path]) -> Work:
        """The counted work for the first of the inputs, one .npy each: see `edge.export.work.count`.

        Raises:
            Unsupported: there is no ONNX graph to count from, or the count does not see into it.
        """
        model, named = str(self.onnx_fp32()), self._named(inputs)

        def count() -> Work:
            return Work.model_validate(self.job("edge.export.work:count", {"model": model, "inputs": named}))

        work: Work = self.once(f"work for {named}", count)
        return work

    def ranked_layers(self) -> list[str]:
        """Quantizable layers by the error that each alone brings, see `edge.export.sensitivity.rank_layers`."""
        model, ranges = str(self.onnx_fp32()), str(self.ranges())

        def rank() -> Any:
            arguments: dict[str, Any] = {
                "model": model,
                "ranges": ranges,
                "inputs": self._named_samples(),
                "scratch": str(self.folder),
            }
            arguments |= {"signed": self.options.signed_activations, "full_range": self.options.full_range}
            return self.job("edge.export.sensitivity:rank_layers", arguments)

        return list(self.once("ranked", rank))

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of a named step; the first to ask runs it."""
        return self._steps.once(name, make)

    def job(self, target: str, arguments: dict[str, Any], flags: dict[str, str] = ONE_THREAD) -> Any:
        return run_job(target, arguments, flags=flags, timeout=TIMEOUT, on_progress=self.progress, servers=self.servers)

    def _named_samples(self) -> dict[str, str]:
        """Input -> file of its calibration samples."""
        return self._named(self.samples)

    def _named(self, inputs: Sequence[Path]) -> dict[str, str]:
        """Input -> its file. Converters may reorder the inputs; the names stay."""
        names = [tensor["name"] for tensor in self.described()["inputs"]]
        return {name: str(path) for name, path in zip(names, inputs, strict=True)}

    def _folder(self, name: str, make: Callable[[Path], Any]) -> Path:
        out = self.folder / name

        def fill() -> None:
            out.mkdir(parents=True)
            make(out)

        self._steps.once(name, fill)
        return out


@dataclass(frozen=True)
class Made:
    """The files of a cell: name in the artifact -> role; the program's kind; the tools that made it and their versions."""

    files: dict[str, str]
    program: str
    tools: dict[str, str]


def versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}
