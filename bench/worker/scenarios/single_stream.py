"""One query after another, each of one call: host arrays in, host arrays out (MLPerf Inference, SingleStream)."""

from __future__ import annotations

from time import perf_counter_ns


def run(infer, feeds, settings):
    samples = []
    began = perf_counter_ns()
    enough, limit = began + int(settings["min_seconds"] * 1e9), began + int(settings["max_seconds"] * 1e9)
    count, turns = settings["min_count"], len(feeds)
    keep = samples.append
    while True:
        feed = feeds[len(samples) % turns]
        start = perf_counter_ns()
        infer(feed)
        end = perf_counter_ns()
        keep(end - start)
        if (end >= enough and len(samples) >= count) or end >= limit:
            return {"samples_ns": samples, "inferences": len(samples), "figures": {}}
