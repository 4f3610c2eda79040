"""Queries arrive at random, independent of each other, at a mean rate, and wait their turn (MLPerf Inference, Server: Poisson arrivals).

A query's time runs from its arrival to its end, waiting included. The worker sleeps until the next arrival; what the system wakes it late counts,
as it would on the device.
"""

from __future__ import annotations

import time
from time import perf_counter_ns

import numpy as np


def run(infer, feeds, settings):
    gaps = np.random.default_rng(settings["seed"])
    mean_gap, bound = 1e9 / settings["rate"], settings["bound_ms"] * 1e6
    samples, busy, late_start, turns = [], 0, 0, len(feeds)
    began = perf_counter_ns()
    enough, limit = began + int(settings["min_seconds"] * 1e9), began + int(settings["max_seconds"] * 1e9)
    arrival = began + gaps.exponential(mean_gap)
    while (arrival < enough or len(samples) < settings["min_count"]) and max(arrival, perf_counter_ns()) < limit:
        ahead = arrival - perf_counter_ns()
        if ahead > 0:
            time.sleep(ahead / 1e9)
        start = perf_counter_ns()
        infer(feeds[len(samples) % turns])
        end = perf_counter_ns()
        late_start += start - arrival > mean_gap
        busy += end - start
        samples.append(int(end - arrival))
        arrival += gaps.exponential(mean_gap)
    if not samples:
        raise ValueError("no query came within %g s at a rate of %g a second" % (settings["max_seconds"], settings["rate"]))
    wall = perf_counter_ns() - began
    over = sum(sample > bound for sample in samples)
    return {
        "samples_ns": samples,
        "inferences": len(samples),
        "figures": {
            "over_bound": (100.0 * over / len(samples), "%"),
            "utilisation": (100.0 * busy / wall, "%"),
            "waited_a_gap": (100.0 * late_start / len(samples), "%"),
            "unanswered": (max(0, int((perf_counter_ns() - arrival) / mean_gap)), "count"),
        },
    }
