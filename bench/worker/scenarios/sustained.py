"""Minute by minute under full load: the ranking of the first minute is not that of the thirtieth. Every minute is a row with the machine's state."""

from __future__ import annotations

import numpy as np
from edge_worker.probes.state import state
from edge_worker.scenarios import single_stream

#: Queries of a minute whose times are kept, evenly spread; the percentiles are those of all.
KEPT = 1000


def run(infer, feeds, settings):
    samples, inferences, minutes = [], 0, []
    for _ in range(settings["minutes"]):
        before = state()
        found = single_stream.run(infer, feeds, {**settings, "min_seconds": settings["minute_seconds"], "max_seconds": settings["minute_seconds"]})
        after, times = state(), np.asarray(found["samples_ns"])
        inferences += len(times)
        samples += times[np.linspace(0, len(times) - 1, min(KEPT, len(times))).astype(int)].tolist()
        p50, p99 = np.percentile(times, [50, 99], method="inverted_cdf")
        minutes.append({"count": len(times), "p50_ms": p50 / 1e6, "p99_ms": p99 / 1e6, "before": before, "after": after})
    return {"samples_ns": samples, "inferences": inferences, "figures": {}, "minutes": minutes}
