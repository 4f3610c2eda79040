#!/usr/bin/env python3
"""What the harness claims of itself, measured on this machine: that it adds no time, sees what LoadGen sees, repeats itself, and mostly measures.

    .venv/bin/python scripts/check_harness.py overhead        # our loop beside a bare onnxruntime loop written by hand
    .venv/bin/python scripts/check_harness.py loadgen         # our loop beside MLPerf LoadGen
    .venv/bin/python scripts/check_harness.py repeatability   # equal runs compared, and with a slow-down that was put in
    .venv/bin/python scripts/check_harness.py share           # how much of the wall time is measuring

Sides take turns, each in a fresh process with one thread. Before a round the script waits until other processes leave the machine alone, and a round
during which they did not is measured again while there is patience; the tables say how many such rounds are in them. Files go to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact, load_artifact
from edge.bench.compare import FIGURES, compare_results
from edge.bench.launch import WORKER, run_worker, write_inputs
from edge.bench.lock import measuring
from edge.bench.measure import BenchRequest
from edge.bench.results import Cell, Process, Results, read_results, write_results
from edge.bench.samples import pack
from edge.bench.scenarios import LoadGen, Scenario, SingleStream, timing
from edge.devices.local import LocalTarget
from edge.devices.target import LOG, RESULT, Ending, Job
from edge.models.source import resolve_model
from edge.vocabulary import Format, Precision
from edge.workflows.bench import Matrix, plan_cells, run_bench, run_matrix
from edge.workflows.export import export_model
from edge.workflows.export_source import ExportRequest

#: Models of about 15 us and about 5 ms a call on two cores of an AMD EPYC (Zen 1).
SMALL, LARGE = "paddle.vision:lenet", "paddle.vision:shufflenet_v2_x1_0"
#: Cores that other processes may use while something is measured, and for how long they must have been quiet before (s).
OTHERS, QUIET_SECONDS = 0.2, 1.0
#: The bare loop: what a careful user writes by hand. Arguments as the worker's: a spec and a result file.
BARE = """
import json, sys
from time import perf_counter_ns
import numpy as np
import onnxruntime

with open(sys.argv[1]) as file:
    spec = json.load(file)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(spec["model"], options, providers=["CPUExecutionProvider"])
array, name = np.load(spec["input"]), session.get_inputs()[0].name
feeds = [{name: np.ascontiguousarray(array[row : row + 1])} for row in range(min(16, len(array)))]


def loop(seconds):
    times, turns, end, run = [], len(feeds), perf_counter_ns() + int(seconds * 1e9), session.run
    while True:
        feed = feeds[len(times) % turns]
        start = perf_counter_ns()
        run(None, feed)
        stop = perf_counter_ns()
        times.append(stop - start)
        if stop >= end:
            return times


loop(spec["warmup"])
with open(sys.argv[2], "w") as file:
    json.dump(loop(spec["seconds"]), file)
"""

#: A script that calls the worker's own code: the beginning of the next two.
WITH_WORKER = """
import importlib.util, json, sys
from time import perf_counter_ns
import numpy as np

with open(sys.argv[1]) as file:
    spec = json.load(file)
package = importlib.util.spec_from_file_location("edge_worker", spec["worker"] + "/__init__.py", submodule_search_locations=[spec["worker"]])
sys.modules["edge_worker"] = importlib.util.module_from_spec(package)
from edge_worker.runtimes import onnx
from edge_worker.scenarios import loadgen

session = onnx._session(spec)
infer, run, array, name = onnx._runner(session, spec), session.run, np.load(spec["input"]), spec["input_names"][0]
arrays = [[np.ascontiguousarray(array[row : row + 1])] for row in range(min(16, len(array)))]
"""
#: The bare call and the worker's, in turns on one session of one process: what the harness adds to a call, whatever else goes on on the machine.
PAIRED = (
    WITH_WORKER
    + """
feeds = [{name: each[0]} for each in arrays]


def loop(seconds):
    bare, ours, turns, end = [], [], len(feeds), perf_counter_ns() + int(seconds * 1e9)
    while perf_counter_ns() < end:
        feed, given = feeds[len(bare) % turns], arrays[len(bare) % turns]
        start = perf_counter_ns()
        run(None, feed)
        stop = perf_counter_ns()
        bare.append(stop - start)
        start = perf_counter_ns()
        infer(given)
        stop = perf_counter_ns()
        ours.append(stop - start)
    return [bare, ours]


loop(spec["warmup"])
with open(sys.argv[2], "w") as file:
    json.dump(loop(spec["seconds"]), file)
"""
)
#: The same queries of LoadGen, timed by it and, inside, by us.
SAME = (
    WITH_WORKER
    + """
ours = []


def timed(given):
    start = perf_counter_ns()
    infer(given)
    ours.append(perf_counter_ns() - start)


found = loadgen.run(timed, arrays, {"min_seconds": spec["seconds"], "min_count": 100, "max_seconds": 600})
theirs = found["samples_ns"]
with open(sys.argv[2], "w") as file:
    json.dump([ours[-len(theirs) :], theirs], file)
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/harness"))
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait, in all, for a quiet machine")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, work in (("overhead", overhead), ("loadgen", loadgen)):
        command = commands.add_parser(name)
        command.add_argument("--models", nargs="*", default=[SMALL, LARGE])
        command.add_argument("--rounds", type=int, default=9)
        command.add_argument("--seconds", type=float, default=3.0, help="of a timed loop")
        command.set_defaults(work=work)
    command = commands.add_parser("repeatability")
    command.add_argument("--model", default=SMALL)
    command.add_argument("--runs", type=int, default=40)
    command.add_argument("--repeats", type=int, default=5, help="processes of a run")
    command.add_argument("--seconds", type=float, default=0.5, help="of a process")
    command.add_argument("--slower", type=float, default=5.0, help="the slow-down that is put in, in %%")
    command.add_argument("--above", type=float, default=2.0, help="what edge compare is told by --fail-above, in %%")
    command.set_defaults(work=repeatability)
    command = commands.add_parser("share")
    command.add_argument("--model", default=SMALL)
    command.set_defaults(work=share)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.work(options, Patience(options.patience))


# what both tables of latencies need


@dataclass
class Patience:
    """Seconds that may still be spent on waiting for a quiet machine."""

    seconds: float

    def wait(self) -> None:
        while self.seconds > 0:
            busy, began = busy_s(), time.monotonic()
            time.sleep(QUIET_SECONDS)
            passed = time.monotonic() - began
            if busy_s() - busy < OTHERS * passed:
                return
            self.seconds -= passed


def busy_s() -> float:
    """CPU seconds since boot that all processors were not idle (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def watched(work: Callable[[], Any]) -> tuple[Any, float]:
    """(what it gives, cores that other processes kept busy meanwhile)."""
    busy, own, began = busy_s(), own_s(), time.monotonic()
    found = work()
    return found, max(0.0, (busy_s() - busy - (own_s() - own)) / (time.monotonic() - began))


@dataclass(frozen=True)
class Rounds:
    """What each round gave, {side: [p50, p90] in ms}, and how many of the rounds were disturbed all the same."""

    found: list[dict[str, np.ndarray]]
    disturbed: int

    def median(self, side: str) -> np.ndarray:
        """[p50, p90], the medians of the rounds."""
        return np.median([found[side] for found in self.found], axis=0)

    def apart(self, side: str, other: str) -> np.ndarray:
        """[p50, p90] of how far ``side`` lies above ``other``, ms: medians of the rounds' differences, so that slow drift cancels."""
        return np.median([found[side] - found[other] for found in self.found], axis=0)


def in_turns(sides: dict[str, Callable[[], np.ndarray]], rounds: int, patience: Patience) -> Rounds:
    """Undisturbed rounds of all sides; where patience ends, the least disturbed ones."""
    seen: list[tuple[float, dict[str, np.ndarray]]] = []
    order = list(sides)
    while len(seen) < rounds or (patience.seconds > 0 and sum(others <= OTHERS for others, _ in seen) < rounds):
        patience.wait()
        began = time.monotonic()
        with measuring(lambda _: None):
            watches = {side: watched(sides[side]) for side in order}
        order.reverse()
        seen.append((max(others for _, others in watches.values()), {side: found for side, (found, _) in watches.items()}))
        if seen[-1][0] > OTHERS:
            patience.seconds -= time.monotonic() - began
    best = sorted(seen, key=lambda entry: entry[0])[:rounds]
    return Rounds([found for _, found in best], sum(others > OTHERS for others, _ in best))


def exported(model: str, out: Path) -> Artifact:
    source = resolve_model(model)
    request = ExportRequest(source, source.label, None, formats=frozenset({Format.ONNX}), precisions=frozenset({Precision.FP32}))
    return load_artifact(out / "artifacts" / str(export_model(request, out / "artifacts")[0].artifact))


def figures(artifact: Artifact, scenario: Scenario) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_inputs(Path(scratch), [artifact.vectors()["input_0"]])
        return run_worker("latency", artifact, inputs, LocalTarget(), settings={"threads": 1, "batch": 1, **timing(scenario)}).figures


def ours(artifact: Artifact, seconds: float) -> np.ndarray:
    """[p50, p90] of our single stream, ms."""
    return np.percentile(np.asarray(figures(artifact, SingleStream(min_seconds=seconds))["samples_ns"]) / 1e6, [50, 90])


def bare(artifact: Artifact, seconds: float) -> np.ndarray:
    """[p50, p90] of the bare loop, ms."""
    return np.percentile(by_script(BARE, artifact, seconds) / 1e6, [50, 90])


def by_script(text: str, artifact: Artifact, seconds: float) -> np.ndarray:
    """The times in ns that a script writes; it is started like a worker, with the same environment."""
    with tempfile.TemporaryDirectory() as scratch:
        script, job = Path(scratch, "script.py"), Path(scratch, "job")
        script.write_text(text)
        inputs = write_inputs(Path(scratch), [artifact.vectors()["input_0"]])
        asked: dict[str, Any] = {"model": str(artifact.path("model")), "input": str(inputs[0]), "warmup": 0.5, "seconds": seconds}
        job.mkdir()
        asked |= {"worker": str(WORKER), "threads": 1, "input_names": [artifact.manifest.inputs[0].name]}
        if LocalTarget().run(Job(str(script), Format.ONNX, asked, job, 600)).status:
            raise SystemExit(f"the script failed: {(job / LOG).read_text()[-500:]}")
        return np.asarray(json.loads((job / RESULT).read_text()))


def loadgen_s(artifact: Artifact, seconds: float) -> np.ndarray:
    """[p50, p90] that LoadGen states, ms."""
    found = figures(artifact, LoadGen(min_seconds=seconds))["figures"]
    return np.array([found["loadgen_p50"][0], found["loadgen_p90"][0]])


# overhead, loadgen


def overhead(options: argparse.Namespace, patience: Patience) -> None:
    """Targets: within 1 us where a call takes 15 us, within 0.5 % where it takes 5 ms."""
    print_head("net", "bare p50 us", "ours p50 us", "difference us", "difference %", "rounds", "disturbed")
    for model in options.models:
        artifact = exported(model, options.out)
        rounds = in_turns(
            {"bare": lambda a=artifact: bare(a, options.seconds), "ours": lambda a=artifact: ours(a, options.seconds)}, options.rounds, patience
        )  # type: ignore[misc]
        a, b, apart = (1e3 * value[0] for value in (rounds.median("bare"), rounds.median("ours"), rounds.apart("ours", "bare")))
        print_row(artifact.manifest.model, f"{a:.2f}", f"{b:.2f}", f"{apart:+.2f}", f"{100 * apart / a:+.2f}", len(rounds.found), rounds.disturbed)
    print("\nCall by call, in turns in one process:\n")
    print_head("net", "bare p50 us", "ours p50 us", "difference us", "difference %")
    for model in options.models:
        artifact = exported(model, options.out)
        with measuring(lambda _: None):
            a, b = 1e-3 * np.median(by_script(PAIRED, artifact, 2 * options.seconds), axis=1)
        print_row(artifact.manifest.model, f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}", f"{100 * (b / a - 1):+.2f}")


def loadgen(options: argparse.Namespace, patience: Patience) -> None:
    """Target: p50 and p90 within 2 % where a call takes 5 ms. LoadGen itself takes about 1.5 us a query."""
    print_head("net", "figure", "LoadGen us", "ours us", "LoadGen - ours us", "difference %", "rounds", "disturbed")
    for model in options.models:
        artifact = exported(model, options.out)
        rounds = in_turns(
            {"ours": lambda a=artifact: ours(a, options.seconds), "loadgen": lambda a=artifact: loadgen_s(a, options.seconds)},
            options.rounds,
            patience,
        )  # type: ignore[misc]
        for index, name in enumerate(("p50", "p90")):
            a, b, apart = (1e3 * value[index] for value in (rounds.median("loadgen"), rounds.median("ours"), rounds.apart("loadgen", "ours")))
            print_row(
                artifact.manifest.model, name, f"{a:.2f}", f"{b:.2f}", f"{apart:+.2f}", f"{100 * apart / b:+.2f}", len(rounds.found), rounds.disturbed
            )
    print("\nThe same queries, timed by LoadGen and inside by us:\n")
    print_head("net", "figure", "LoadGen us", "ours us", "LoadGen - ours us", "difference %")
    for model in options.models:
        artifact = exported(model, options.out)
        with measuring(lambda _: None):
            mine, theirs = np.percentile(by_script(SAME, artifact, options.seconds) / 1e3, [50, 90], axis=1).T
        for name, b, a in zip(("p50", "p90"), mine, theirs, strict=True):
            print_row(artifact.manifest.model, name, f"{a:.2f}", f"{b:.2f}", f"{a - b:+.2f}", f"{100 * (a / b - 1):+.2f}")


# repeatability


def repeatability(options: argparse.Namespace, patience: Patience) -> None:
    """Targets, of 20 pairs of runs: at most 1 alarm between equal ones, and a slow-down of 5 % found in 19."""
    artifact = exported(options.model, options.out)
    runs, began = [], time.monotonic()
    folder = options.out / "runs"
    folder.mkdir(exist_ok=True)
    for number in range(options.runs):
        patience.wait()
        runs.append(watched(lambda n=number: one_run(artifact, folder / f"run{n}.json", options)))  # type: ignore[misc]
    took, cells = time.monotonic() - began, [found.cells[0] for found, _ in runs]
    print(f"{options.runs} runs of {artifact.name}, {options.repeats} processes of {options.seconds:g} s each: {took / 60:.1f} minutes.")
    print(f"{sum(others > OTHERS for _, others in runs)} runs were disturbed by other processes (more than {OTHERS} cores).\n")
    print_spread(cells)
    print_head("processes", "pairs", f"alarms above {options.above:g} %", f"slow-downs of {options.slower:g} % found")
    for count in sorted({3, options.repeats // 2, options.repeats} - {0, 1}):
        if count <= options.repeats:
            results = [first(found, count) for found, _ in runs]
            pairs = list(zip(results[::2], results[1::2], strict=False))
            alarms = sum(alarmed(a, b, options.above) for a, b in pairs)
            detected = sum(alarmed(a, saved_slower(b, options.slower, folder), options.above) for a, b in pairs)
            print_row(count, len(pairs), alarms, detected)


def one_run(artifact: Artifact, out: Path, options: argparse.Namespace) -> Results:
    scenario = SingleStream(min_seconds=options.seconds)
    return run_bench([artifact.folder], out, BenchRequest(LocalTarget(), scenario, repeats=options.repeats, parts=("latency",)))


def first(results: Results, count: int) -> Results:
    """As if only so many processes had been run."""
    cell = results.cells[0]
    return results.model_copy(update={"cells": (cell.model_copy(update={"processes": cell.processes[:count]}),)})


def saved_slower(results: Results, percent: float, folder: Path) -> Results:
    """The same with all samples longer, through the file as a user's would go."""
    cell = results.cells[0]
    processes = tuple(process.model_copy(update={"samples": scaled(process, 1 + percent / 100)}) for process in cell.processes)
    write_results(folder / "slower.json", results.model_copy(update={"cells": (cell.model_copy(update={"processes": processes}),)}))
    return read_results(folder / "slower.json")


def scaled(process: Process, factor: float) -> Any:
    return pack(np.rint(process.samples.milliseconds() * 1e6 * factor).astype(np.int64))


def alarmed(a: Results, b: Results, percent: float) -> bool:
    """Whether ``edge compare A B --fail-above`` would end with exit code 1."""
    return any(one.regression(percent / 100) for one in compare_results(a, b, FIGURES["p50"]))


def print_spread(cells: Sequence[Cell]) -> None:
    """How far the medians of runs and of processes lie apart."""
    medians = np.array([cell.latency.p50.value for cell in cells], dtype=float)
    processes = [np.array([np.median(process.samples.milliseconds()) for process in cell.processes]) for cell in cells]
    within = float(np.sqrt(np.mean([np.log(each).var(ddof=1) for each in processes])))
    print_head("p50 us of a run", "first 5 runs, largest - smallest %", "all runs, largest - smallest %", "standard deviation of a run's processes %")
    five = medians[:5]
    print_row(f"{1e3 * np.median(medians):.2f}", *(f"{100 * np.ptp(some) / np.median(some):.2f}" for some in (five, medians)), f"{100 * within:.2f}")
    print()


# share


class TimedTarget(LocalTarget):
    """The local target that notes of each child: its life, what of that its task took (both s), and the CPU seconds of this process meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, float, float]] = []

    def run(self, job: Job) -> Ending:
        began, cpu = time.perf_counter(), time.process_time()
        ending = super().run(job)
        lived, cpu = time.perf_counter() - began, time.process_time() - cpu
        found = json.loads((job.folder / RESULT).read_text())
        self.seen.append((found["task"], lived, found["seconds"], cpu))
        return ending


def share(options: argparse.Namespace, patience: Patience) -> None:
    """Targets: at least 85 % of the wall time inside the workers' tasks, and no CPU time of the parent while they run."""
    source = resolve_model(options.model)
    folder = options.out / "share"
    export_model(ExportRequest(source, source.label, "random", precisions=frozenset({Precision.FP32, Precision.INT8})), folder)
    target = TimedTarget()
    matrix = Matrix(plan_cells([folder], BenchRequest(target)))
    patience.wait()
    held: list[tuple[float, float]] = []  # from the first progress on: what passes before it is waiting for another measurement
    results, others = watched(
        lambda: run_matrix(matrix, options.out / "share.json", lambda *_: held.append((time.perf_counter(), time.process_time())))
    )
    wall, cpu = time.perf_counter() - held[0][0], time.process_time() - held[0][1]
    print_share(target, wall, cpu)
    measured = sum(cell.status.value == "ok" for cell in results.cells)
    print(f"\n{measured} cells measured, {len(results.cells)} rows; other processes used {others:.2f} cores.")


def print_share(target: TimedTarget, wall: float, cpu: float) -> None:
    lived, inside, parent = (sum(entry[index] for entry in target.seen) for index in (1, 2, 3))
    print_head("where", "s", "% of the wall time", "CPU s of the parent")
    for task in sorted({entry[0] for entry in target.seen}):
        spent = [entry[2] for entry in target.seen if entry[0] == task]
        name = f"inside the task {task}, {len(spent)} workers, median {statistics.median(spent):.2f} s"
        print_row(name, f"{sum(spent):.2f}", f"{100 * sum(spent) / wall:.1f}", "")
    print_row("**inside the workers' tasks**", f"{inside:.2f}", f"{100 * inside / wall:.1f}", f"{parent:.3f}")
    print_row("start and end of the workers", f"{lived - inside:.2f}", f"{100 * (lived - inside) / wall:.1f}", "")
    print_row("the parent between workers", f"{wall - lived:.2f}", f"{100 * (wall - lived) / wall:.1f}", f"{cpu - parent:.2f}")


def print_head(*heads: str) -> None:
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}", flush=True)


def print_row(*values: object) -> None:
    print(f"| {' | '.join(map(str, values))} |", flush=True)


if __name__ == "__main__":
    main()
