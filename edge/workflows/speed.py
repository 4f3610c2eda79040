"""How fast a compressed model is beside its dense one: both exported, proven and timed in turns, in each runtime."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bench.compare import FIGURES, process_values, ratio_of, ratio_test
from edge.bench.measure import BenchRequest
from edge.bench.results import Cell
from edge.bench.scenarios import SingleStream
from edge.compress.folder import DENSE, RECORD, read_record
from edge.compress.recipe import NO_DATA
from edge.compress.result import Speed
from edge.datasets.samples import RANDOM
from edge.devices.profile import load_profile
from edge.devices.target import Target
from edge.devices.targets import make_target
from edge.errors import CheckFailed, Unsupported
from edge.models import model_entry
from edge.models.source import resolve_model
from edge.vocabulary import Format, Measurement, Precision, Status, absent
from edge.workflows.bench import run_bench
from edge.workflows.export import export_model
from edge.workflows.export_index import ExportedCell
from edge.workflows.export_source import ExportRequest

if TYPE_CHECKING:
    from paddle import nn

#: Test images that judge an export; and random inputs, which say only whether the file computes the same.
JUDGES, RANDOM_JUDGES = 1000, 16
#: Fresh processes that time a model; of a latency that a step aims at, seconds of each.
PROCESSES, SHORT = 3, 0.5
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Clock:
    """Where a latency is measured: a target, and the name of the device that it stands for."""

    target: str = "local"
    device: str | None = None

    @property
    def place(self) -> str:
        """Empty for this machine as it is."""
        return "" if (self.target, self.device) == ("local", None) else f"{self.target} {self.device}"

    def make(self) -> Target:
        """
        Raises:
            BadInput, Unsupported, Unavailable: see `edge.devices.targets.make_target`. Unsupported: the target's time is not latency.
        """
        target = make_target(self.target, load_profile(self.device) if self.device else None)
        if target.emulated:
            raise Unsupported(f"the target {self.target} is emulated: its time is no latency", hint="take local, limited or ssh:HOST")
        return target


@dataclass(frozen=True)
class Timing:
    """``exports``: cell -> ``ok``, or the reason why there is none; of the compressed model."""

    speed: dict[str, Speed]
    exports: dict[str, str]
    environment: dict[str, Any]


def measure_speed(folder: Path, out: Path, clock: Clock, progress: Progress = lambda *_: None, repeats: int = PROCESSES) -> Timing:
    """Export the compressed model of a folder to every cell, its dense net in fp32, and time both in each format's fp32.

    Median latency, 1 thread, batch 1, in ``repeats`` fresh processes of each. Writes ``out/artifacts`` and ``out/timing.json``; interrupted, it goes
    on with what is missing.

    Raises:
        BadInput: no compressed model. Else as `Clock.make`.
    """
    record, target = read_record(folder), clock.make()
    dense = folder / DENSE if (folder / DENSE / RECORD).is_file() else folder  # a recipe that only trains is its own dense net
    artifacts = out / "artifacts"
    # a data set holds images alone; that the file computes the same shows on any input
    data = RANDOM if record.data == NO_DATA or len(model_entry(record.model).inputs) > 1 else record.data
    made = _export(folder, "compressed", data, None, artifacts / "compressed", progress)
    beside = _export(dense, "dense", data, frozenset({Precision.FP32}), artifacts / "dense", progress)
    found = [artifacts / cell.model / cell.artifact for cell in (*made, *beside) if cell.artifact and cell.precision is Precision.FP32]
    request = BenchRequest(target, repeats=repeats, parts=("latency",))
    results = run_bench(found, out / "timing.json", request, lambda what, done, total, _: progress(done, total, what))
    cells = {(cell.model, cell.format): cell for cell in results.cells if cell.status is Status.OK}
    exports = {cell.key.removeprefix("compressed-"): "ok" if cell.artifact else str(cell.reason) for cell in made}
    speed = {each.value: _speed(cells.get(("dense", each)), cells.get(("compressed", each)), _reason(made, results.cells, each)) for each in Format}
    return Timing(speed, exports, _environment(results.cells))


def layer_latency(layer: nn.Layer, inputs: Mapping[str, Any], clock: Clock) -> float:
    """Median latency of a layer in ms: onnxruntime fp32, 1 thread, batch 1.

    Raises:
        CheckFailed: it could not be exported or timed. Else as `Clock.make`.
    """
    import paddle

    with tempfile.TemporaryDirectory(prefix="edge-latency.") as name:
        folder, target = Path(name), clock.make()
        specs = [paddle.static.InputSpec(list(shape), dtype, known) for known, (shape, dtype) in inputs.items()]
        traced = copy.deepcopy(layer)  # to_static leaves a layer that gives no gradients
        traced.eval()
        paddle.jit.save(paddle.jit.to_static(traced, input_spec=specs[:1], full_graph=True), str(folder / "net"))
        request = ExportRequest(
            resolve_model(str(folder / "net")), "net", formats=frozenset({Format.ONNX}), precisions=frozenset({Precision.FP32}), judge_samples=4
        )
        (cell,) = export_model(request, folder / "out")
        if cell.artifact is None:
            raise CheckFailed(f"the latency of the model cannot be measured: {cell.reason}")
        scenario = SingleStream(min_seconds=SHORT)
        timed = run_bench([folder / "out"], folder / "results.json", BenchRequest(target, scenario, repeats=PROCESSES, parts=("latency",)))
        (row,) = timed.cells
        if row.latency.p50.value is None:
            raise CheckFailed(f"the latency of the model could not be measured: {row.reason}")
        return float(row.latency.p50.value)


def _export(model: Path, name: str, data: str, precisions: frozenset[Precision] | None, out: Path, progress: Progress) -> list[ExportedCell]:
    judges = RANDOM_JUDGES if data == RANDOM else JUDGES
    request = ExportRequest(resolve_model(str(model)), name, data, precisions=precisions, judge_samples=judges)
    return export_model(request, out, progress=lambda done, total, note: progress(done, total, f"export {name}: {note}"))


def _speed(dense: Cell | None, compressed: Cell | None, reason: str) -> Speed:
    if dense is None or compressed is None or not dense.latency.p50.value or not compressed.latency.p50.value:
        none = absent("ms", reason)
        return Speed(dense=none, compressed=none, speedup=absent("1", reason), reason=reason)
    times = [process_values(cell, FIGURES["p50"]) for cell in (compressed, dense)]
    low, high, _ = ratio_test(*times)
    speedup = Measurement(value=ratio_of(*times), unit="1", interval=(low, high))
    return Speed(dense=dense.latency.p50, compressed=compressed.latency.p50, speedup=speedup)


def _reason(made: Iterable[ExportedCell], cells: Iterable[Cell], wanted: Format) -> str:
    """Why a format has no latency here: it was not made, or not timed; that a file for another processor does not run here is no reason."""
    unmade = [cell.reason for cell in made if cell.format is wanted and cell.precision is Precision.FP32 and cell.reason]
    untimed = [cell.reason for cell in cells if cell.format is wanted and cell.reason and cell.status is not Status.EXPORTED]
    return str(next(iter([*unmade, *untimed]), "it was not timed"))


def _environment(cells: Iterable[Cell]) -> dict[str, Any]:
    """What of the machine decides the times."""
    found = next((cell.environment for cell in cells if cell.environment), {})
    return {name: found[name] for name in ("cpu", "cores", "isa", "kernel", "python", "versions") if name in found}
