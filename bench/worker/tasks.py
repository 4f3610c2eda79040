"""What a worker can be asked for, one process each: machine, latency, memory, outputs, kernels."""

from __future__ import annotations

import importlib
import os
import time

import numpy as np
from edge_worker import probes


class BadOutput(Exception):
    """The runtime gave NaN, infinity, or another number of rows than it was fed."""


class UnsupportedPrecision(Exception):
    """A precision was asked for and the runtime would quietly compute in another."""


def latency(spec: dict) -> dict:
    """Load, first inference and a warm closed loop: times in ms, samples in ns, energy proxies per inference.

    A sample is one call: host arrays in, host arrays out. Inputs of different samples take turns.
    """
    clock = time.perf_counter_ns
    runtime = _runtime(spec)
    began = clock()
    runtime.start(spec)
    imported = clock()
    feeds = _feeds(spec)
    before_load = clock()
    infer = runtime.load(spec)
    loaded = clock()
    _checked(infer(feeds[0]), spec["batch"])
    first = clock()
    warm_until, runs = clock() + int(spec["warmup_seconds"] * 1e9), 0
    while clock() < warm_until or runs < 10:
        infer(feeds[runs % len(feeds)])
        runs += 1
    samples: list = []
    readers = {name: reader() for name, reader in probes.ENERGY_PROBES.items()}
    for reader in readers.values():
        reader.start()
    loop_began = clock()
    stop_at = loop_began + int(spec["min_seconds"] * 1e9)
    while (len(samples) < spec["min_count"] or clock() < stop_at) and len(samples) < spec["max_count"]:
        feed = feeds[len(samples) % len(feeds)]
        start = clock()
        infer(feed)
        samples.append(clock() - start)
    wall = (clock() - loop_began) / 1e9
    energy = {}
    for name, reader in readers.items():
        value, reason = reader.stop()
        energy[name] = {"value": None if value is None else value / (len(samples) * spec["batch"]), "unit": reader.unit, "reason": reason}
    return {
        "import_ms": (imported - began) / 1e6,
        "load_ms": (loaded - before_load) / 1e6,
        "first_ms": (first - loaded) / 1e6,
        "samples_ns": samples,
        "wall_s": wall,
        "energy": energy,
    }


def memory(spec: dict) -> dict:
    """Resident bytes: with the runtime imported and no model, at the peak, and what the loaded, warm model adds."""
    runtime = _runtime(spec)
    feeds = _feeds(spec)
    runtime.start(spec)
    baseline = probes.memory("VmRSS")
    infer = runtime.load(spec)
    for run in range(100):
        infer(feeds[run % len(feeds)])
    peak, now = probes.memory("VmHWM"), probes.memory("VmRSS")
    model = None if baseline is None or now is None else now - baseline
    return {"baseline_rss": baseline, "peak_rss": peak, "model_rss": model}


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


def machine(spec: dict) -> dict:
    """Which energy counters answer here: read around a short loop."""
    readers = {name: reader() for name, reader in probes.ENERGY_PROBES.items()}
    for reader in readers.values():
        reader.start()
    sum(range(100_000))
    answers = {name: (reader.unit, *reader.stop()) for name, reader in readers.items()}
    return {"counters": {name: {"value": value, "unit": unit, "reason": reason} for name, (unit, value, reason) in answers.items()}}


TASKS = {"machine": machine, "latency": latency, "memory": memory, "outputs": outputs, "kernels": kernels}


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
