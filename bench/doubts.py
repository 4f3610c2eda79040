"""Why a row's figures may not be repeatable: one sentence each, with the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.bench.measure import Part, Plan
from edge.bench.results import Process
from edge.bench.statistics import slope

#: Largest spread of the processes' medians, over their median.
SPREAD = 0.05
#: A call shorter than so many steps of the clock is not timed well.
CLOCK_STEPS = 100
#: Cores that other processes may use meanwhile; and that a runtime may use beyond its threads, or leave of them.
OTHERS, SURPLUS = 0.2, 0.2
#: Frequency lost during a measurement, as a share.
SLOWED = 0.1
#: Bytes that memory must have grown by, beside a slope that is surely positive, to be called a leak.
LEAK = 64 << 10


def doubts(plan: Plan, processes: Sequence[Process], findings: Mapping[Part, Sequence[dict[str, Any]]]) -> tuple[str, ...]:
    """Sentences about one row; empty when there is nothing to say."""
    found = [*_about_times(plan, processes), *_about_machine(plan, processes), *_about_quota(findings.get("latency", ()))]
    if memory := findings.get("memory"):
        found += _about_growth(memory[0]["figures"]["growth"])
    if profile := findings.get("profile"):
        reason = profile[0]["figures"]["reason"]
        found += [f"no profile: {reason}"] if reason else []
    return tuple(found)


def _about_times(plan: Plan, processes: Sequence[Process]) -> list[str]:
    found = []
    if "latency" in plan.request.parts and 0 < len(processes) < plan.request.repeats:
        found.append(f"{len(processes)} of {plan.request.repeats} processes: the run was interrupted")
    medians = [float(np.median(times)) for process in processes if len(times := process.samples.milliseconds())]
    if not medians:
        return found
    middle, spread = float(np.median(medians)), max(medians) - min(medians)
    if spread > SPREAD * middle:
        found.append(
            f"unstable: the medians of {len(medians)} processes lie {100 * spread / middle:.1f} % apart ({min(medians):.4g} to {max(medians):.4g} ms)"
        )
    if cold := sum(not process.warm for process in processes):
        found.append(f"{cold} of {len(processes)} processes still got faster when the warm-up ended")
    step = max(process.timer_ns for process in processes) / 1e6
    if middle < CLOCK_STEPS * step:
        found.append(f"the timer is coarse: its steps of {step * 1e6:.0f} ns are {100 * step / middle:.1f} % of the median")
    return found


def _about_machine(plan: Plan, processes: Sequence[Process]) -> list[str]:
    found = []
    others = max((process.others_busy or 0.0 for process in processes), default=0.0)
    if others > OTHERS:
        found.append(f"the machine was busy: other processes used up to {others:.1f} cores")
    used = [process.cpu_s / process.wall_s for process in processes if process.wall_s > 0]
    waits = plan.request.scenario.name in ("server", "camera")
    if used and max(used) > plan.threads + SURPLUS:
        found.append(f"more than was asked for: {plan.threads} thread{'s' * (plan.threads > 1)} used {max(used):.1f} cores")
    if used and not waits and plan.threads > 1 and max(used) < 1 + SURPLUS:
        found.append(f"{plan.threads} threads used {max(used):.1f} cores only")
    befores, afters = [p.before for p in processes], [p.after for p in processes]
    governors = sorted({str(state["governor"]) for state in befores if state.get("governor") not in (None, "performance")})
    if governors:
        found.append(f"the frequency governor is {', '.join(governors)}, not performance")
    pairs = list(zip(befores, afters, strict=True))
    if any((after.get("throttle_count") or 0) > (before.get("throttle_count") or 0) for before, after in pairs):
        found.append("throttled: the processor counted thermal throttling during the measurement")
    if any(state.get("throttled_now") or state.get("under_voltage") for state in afters):
        found.append("throttled or under-voltage, says vcgencmd")
    slowed = [
        after["frequency_mhz"] / before["frequency_mhz"] for before, after in pairs if before.get("frequency_mhz") and after.get("frequency_mhz")
    ]
    if slowed and min(slowed) < 1 - SLOWED:
        found.append(f"the clock fell by {100 * (1 - min(slowed)):.0f} % during the measurement")
    return found


def _about_quota(latency: Sequence[dict[str, Any]]) -> list[str]:
    """A process that has used up its share of a period stands still until the next, which hits few calls of a short model."""
    seen = [record.get("seen", {}) for record in latency]
    throttled, periods = (sum(int(figures[name][0]) for figures in seen if name in figures) for name in ("throttled_periods", "periods"))
    if not throttled:
        return []
    return [f"throttled in {throttled:,} of {periods:,} periods by the CPU quota: the throughput shows it, the median may not"]


def _about_growth(looks: Sequence[tuple[int, int | None]]) -> list[str]:
    sizes = [(run, size) for run, size in looks[len(looks) // 2 :] if size is not None]  # what a runtime takes at first is no leak
    growth = slope(sizes, "B")
    if growth.value is None or growth.interval is None or growth.interval[0] <= 0 or sizes[-1][1] - sizes[0][1] < LEAK:
        return []
    return [f"leaks {growth.value / 1024:.2g} KiB per inference (over {sizes[-1][0] - sizes[0][0]:,} inferences)"]
