"""Inferences that are not counted, until they have stopped getting faster."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np

#: A window is at least so long (s) and so many calls; two successive windows' medians may differ by this share.
WINDOW_SECONDS, WINDOW_CALLS, TOLERANCE = 0.1, 5, 0.02


def warm_up(infer, feeds, min_seconds: float, max_seconds: float) -> dict:
    """Run windows of calls until one's median is no more than 2 % below that of the window before it, or ``max_seconds`` have passed.

    Returns:
        seconds, inferences, and whether it was stable at the end.
    """
    began, calls, stable, last = perf_counter_ns(), 0, False, None
    while True:
        window, times = perf_counter_ns(), []
        while perf_counter_ns() - window < WINDOW_SECONDS * 1e9 or len(times) < WINDOW_CALLS:
            start = perf_counter_ns()
            infer(feeds[calls % len(feeds)])
            times.append(perf_counter_ns() - start)
            calls += 1
            if len(times) > 1 and perf_counter_ns() - began > max_seconds * 1e9:
                break
        median = float(np.median(times))
        stable = last is not None and median > last * (1 - TOLERANCE)
        last, passed = median, (perf_counter_ns() - began) / 1e9
        if passed >= max_seconds or (stable and passed >= min_seconds):
            return {"seconds": passed, "inferences": calls, "stable": stable}
