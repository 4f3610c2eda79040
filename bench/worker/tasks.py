"""What a worker can be asked for, one process each: machine, latency, memory, count, outputs, kernels, profile."""

from __future__ import annotations

import importlib
import os
import time

import numpy as np
from edge_worker import probes
from edge_worker.failures import BadOutput
from edge_worker.probes.counts import Counts
from edge_worker.probes.idle import idle_power, net_of_idle
from edge_worker.probes.memory import memory as memory_of
from edge_worker.probes.memory import pss
from edge_worker.probes.nvml import gpu_memory
from edge_worker.probes.state import others_busy, state
from edge_worker.runtimes import on_gpu
from edge_worker.warmup import warm_up

#: Seconds over which the idle power is read before a measurement, where there is a meter.
IDLE_SECONDS = 2.0
#: Inferences over which the growth of memory is looked at, and how many lie between two looks.
GROWTH_INFERENCES, GROWTH_STEP = 1000, 50
#: Inferences that are not counted after the first, and those that are: at least, at most, and the seconds after which there are enough.
WARM_UNCOUNTED, COUNTED = (1, 3, 10.0), (3, 5, 20.0)


def latency(spec: dict) -> dict:
    """Import, load and first inference, then the scenario on the warm model: times in ms, samples in ns, energy per inference."""
    clock = time.perf_counter_ns
    runtime = _runtime(spec)
    began = clock()
    runtime.start(spec)
    imported = clock()
    feeds = _feeds(spec)
    before_load = clock()
    resident = spec.get("copies") == "out"
    infer, feeds = runtime.load_resident(spec, feeds) if resident else (runtime.load(spec), feeds)
    loaded = clock()
    results = infer(feeds[0])
    if not resident:  # what stays on the card is not looked at
        _checked(results, spec["batch"])
    first = clock()
    warmup = warm_up(infer, feeds, spec["warmup"]["min_seconds"], spec["warmup"]["max_seconds"])
    scenario = importlib.import_module("edge_worker.scenarios." + spec["scenario"]["name"].replace("-", "_"))
    measured = _metered(lambda: scenario.run(infer, feeds, spec["scenario"]), spec["batch"])
    return {
        "import_ms": (imported - began) / 1e6,
        "load_ms": (loaded - before_load) / 1e6,
        "first_ms": (first - loaded) / 1e6,
        "warmup": warmup,
        "timer_ns": _timer_step(),
        **measured,
    }


def _metered(run, batch: int) -> dict:
    """What ``run`` gives, with the time, the processor time and the energy that it took, and the machine's state before and after.

    Meters that must be asked for the power again and again do so in this process. Where one answers, ``run`` is repeated for them: the times
    are those of a run without.
    """
    readers = probes.energy_readers()
    counters = probes.Energy({name: reader for name, reader in readers.items() if not name.startswith("energy_")})
    meters = probes.Energy({name: reader for name, reader in readers.items() if name.startswith("energy_")})
    idle = idle_power(meters.readers, IDLE_SECONDS)
    before, wall, cpu = state(), time.perf_counter(), time.process_time()
    counters.start()
    found = run()
    counted = counters.stop()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = state()
    energy = {**_each(counted, found["inferences"] * batch), **_energy(meters, run, idle, batch)}
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        **found,
        "energy": energy,
        "before": before,
        "after": after,
        "others_busy": others_busy(before, after, cpu),
    }


def _energy(meters, run, idle: dict, batch: int) -> dict:
    """Energy per inference beyond that of the idle machine, from a run of its own; no run where no meter answers."""
    answers = any(power is not None for power in idle.values())
    began = time.perf_counter()
    meters.start()
    inferences = run()["inferences"] if answers else 1
    readings = meters.stop()
    wall = time.perf_counter() - began
    for name, reading in readings.items():
        reading["idle_mw"] = idle[name]
        if reading["value"] is not None:
            reading["value"] = net_of_idle(reading["value"], idle[name], wall)
            reading["reason"] = None if reading["value"] is not None else "the idle power could not be read"
    return _each(readings, inferences * batch)


def _each(readings: dict, inferences: int) -> dict:
    """Readings per inference."""
    return {name: {**reading, "value": None if reading["value"] is None else reading["value"] / inferences} for name, reading in readings.items()}


def _timer_step() -> int:
    """Smallest step of the clock between two readings, in ns."""
    steps = []
    for _ in range(100):
        start = end = time.perf_counter_ns()
        while end == start:
            end = time.perf_counter_ns()
        steps.append(end - start)
    return min(steps)


def memory(spec: dict) -> dict:
    """Bytes: with the runtime imported and no model, of the loaded, warm model, at the peak, and along up to 1,000 further inferences."""
    runtime = _runtime(spec)
    feeds = _feeds(spec)
    runtime.start(spec)
    baseline, baseline_pss = memory_of("VmRSS"), pss()
    infer = runtime.load(spec)
    for run in range(20):
        infer(feeds[run % len(feeds)])
    loaded, loaded_pss = memory_of("VmRSS"), pss()
    growth, stop_at = [], time.monotonic() + spec["growth_seconds"]
    for run in range(GROWTH_INFERENCES + 1):
        if run % GROWTH_STEP == 0:
            growth.append([run, memory_of("VmRSS")])
            if time.monotonic() > stop_at:
                break
        infer(feeds[run % len(feeds)])
    return {
        **({"gpu_memory": gpu_memory()} if on_gpu(spec) else {}),
        "baseline_rss": baseline,
        "baseline_pss": baseline_pss,
        "model_rss": None if None in (baseline, loaded) else loaded - baseline,
        "model_pss": None if None in (baseline_pss, loaded_pss) else loaded_pss - baseline_pss,
        "peak_rss": memory_of("VmHWM"),
        "growth": growth,
    }


def count(spec: dict) -> dict:
    """On an emulated processor: instructions of the import, of the load and of some inferences, and bytes of the guest's memory.

    ``instructions`` holds one number an inference, ``dot``, ``matrix`` and ``half`` how many of these were int8 dot products, int8 matrix
    products and fp16 multiply-accumulates of vectors, null where the processor is no aarch64.

    Raises:
        Unavailable: no plugin counts here.
    """
    counts = Counts()
    runtime = _runtime(spec)
    feeds = _feeds(spec)
    counts.mark()
    runtime.start(spec)
    counts.mark()
    infer = runtime.load(spec)
    counts.mark()
    _checked(infer(feeds[0]), spec["batch"])
    counts.mark()
    for run in _times(*WARM_UNCOUNTED):
        infer(feeds[run % len(feeds)])
    for run in _times(*COUNTED):
        counts.mark()
        infer(feeds[run % len(feeds)])
    counts.mark()
    importing, loading, first, _warming, *inferences = counts.regions()
    return {
        "import_instructions": importing["instructions"],
        "load_instructions": loading["instructions"],
        "first_instructions": first["instructions"],
        **{name: [region[name] for region in inferences] for name in ("instructions", "dot", "matrix", "half")},
        "baseline_rss": importing["resident"],
        "model_rss": inferences[-1]["resident"] - importing["resident"],
        "peak_rss": inferences[-1]["peak"],
    }


def _times(least: int, most: int, seconds: float):
    began = time.monotonic()
    for run in range(most):
        if run >= least and time.monotonic() - began > seconds:
            return
        yield run


def outputs(spec: dict) -> dict:
    """Run every sample and write each output, [N, ...], to ``output_I.npy`` in the spec's folder ``outputs``."""
    runtime = _runtime(spec)
    runtime.start(spec)
    infer = runtime.load(spec)
    arrays = _arrays(spec)
    count, batch, rows = len(arrays[0]), spec["batch"], []
    if count % batch:
        raise BadOutput("%d samples do not divide into batches of %d" % (count, batch))
    for start in range(0, count, batch):
        rows.append(_checked(infer([np.ascontiguousarray(a[start : start + batch]) for a in arrays]), batch))
    for index in range(len(rows[0])):
        path = os.path.join(spec["outputs"], "output_%d.npy" % index)
        np.save(path + ".part.npy", np.concatenate([row[index] for row in rows]))
        os.replace(path + ".part.npy", path)
    return {"samples": count}


def kernels(spec: dict) -> dict:
    """Which precision the compute nodes of one inference ran in, from the runtime's own account: {precision: count}."""
    return {"kernels": _runtime(spec).executed_kernels(spec, _feeds(spec)[0])}


def profile(spec: dict) -> dict:
    """Mean time of each operator over some warm inferences, from the runtime's own account; rows are [name, kind, ms], slowest first.

    Profiling slows the run down: the shares tell more than the times.
    """
    if on_gpu(spec):
        return {"operators": None, "reason": "the runtimes' profiles of a GPU time the start of a kernel, not its work"}
    rows, reason = _runtime(spec).operator_times(spec, _feeds(spec)[0])
    return {"operators": rows, "reason": reason}


def machine(spec: dict) -> dict:
    """Which energy counters answer here: read around a short loop."""
    meters = probes.Energy()
    meters.start()
    time.sleep(0.25)  # some counters move ten times a second
    return {"counters": meters.stop()}


TASKS = {"machine": machine, "latency": latency, "memory": memory, "count": count, "outputs": outputs, "kernels": kernels, "profile": profile}


def _runtime(spec: dict):
    return importlib.import_module(
        "edge_worker.runtimes." + {"onnx": "onnx", "paddle-inference": "paddle_inference", "paddle-lite": "paddle_lite"}[spec["format"]]
    )


def _arrays(spec: dict) -> list:
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in spec["inputs"]]


def _feeds(spec: dict) -> list:
    """Up to 16 different feeds of ``batch`` rows; rows repeat when there are too few."""
    arrays, batch = _arrays(spec), spec["batch"]
    count = len(arrays[0])
    rows = [[(feed * batch + row) % count for row in range(batch)] for feed in range(max(1, min(16, count // batch)))]
    return [[np.ascontiguousarray(array[chosen]) for array in arrays] for chosen in rows]


def _checked(results: list, batch: int) -> list:
    for array in results:
        if array.ndim == 0 or len(array) != batch:
            raise BadOutput("%d rows went in, an output of shape %s came out" % (batch, list(array.shape)))
        if not np.isfinite(array).all():
            raise BadOutput("the output holds NaN or infinity")
    return results
