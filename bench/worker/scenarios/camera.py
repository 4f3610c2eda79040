"""Frames come at a fixed rate; the newest one is taken, older ones that were not are dropped, as a camera's one-frame buffer does.

A frame's age is the time from its arrival to its result. It misses its deadline when the result is not there before the next frame arrives
(or ``deadline_ms`` after its own arrival). The duty cycle is the share of the time that the processor works on frames.
"""

from __future__ import annotations

import time
from time import perf_counter_ns


def run(infer, feeds, settings):
    period = 1e9 / settings["fps"]
    deadline = period if settings["deadline_ms"] is None else settings["deadline_ms"] * 1e6
    ages, works, dropped, frame, turns = [], [], 0, 0, len(feeds)
    began = perf_counter_ns()
    enough, limit = began + int(settings["min_seconds"] * 1e9), began + int(settings["max_seconds"] * 1e9)
    while True:
        arrival = began + frame * period
        ahead = arrival - perf_counter_ns()
        if ahead > 0:
            time.sleep(ahead / 1e9)
        start = perf_counter_ns()
        infer(feeds[frame % turns])
        end = perf_counter_ns()
        ages.append(int(end - arrival))
        works.append(end - start)
        newest = max(frame + 1, int((end - began) // period))
        if (end >= enough and len(ages) >= settings["min_count"]) or max(end, began + newest * period) >= limit:
            break
        dropped += newest - frame - 1
        frame = newest
    shown = len(ages) + dropped
    late = sum(age > deadline for age in ages)
    return {
        "samples_ns": ages,
        "inferences": len(ages),
        "figures": {
            "frames": (shown, "count"),
            "dropped": (100.0 * dropped / shown, "%"),
            "deadline_misses": (100.0 * (late + dropped) / shown, "%"),
            "frame_rate": (len(ages) / ((perf_counter_ns() - began) / 1e9), "1/s"),
            "duty_cycle": (100.0 * sum(works) / (perf_counter_ns() - began), "%"),
        },
    }
