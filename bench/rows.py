"""A row of the results from what the workers found: figures of all processes together, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifact import Kernels
from edge.bench.doubts import doubts
from edge.bench.energy import battery_hours, device_power_energy, model_energy, per_day
from edge.bench.measure import Part, Plan
from edge.bench.meter import PowerLog
from edge.bench.results import (
    ENERGY_UNITS,
    NO_CLASSES,
    Accuracy,
    Cell,
    Latency,
    Memory,
    Minute,
    Operator,
    Process,
    empty_figures,
)
from edge.bench.samples import pack
from edge.bench.scenarios import Camera
from edge.bench.statistics import mean, median_deviation, percentile, slope, smallest, trimmed_mean
from edge.errors import EdgeError
from edge.vocabulary import Measurement, Precision, Status, absent

#: Part -> what its runs found, in their order.
Findings = Mapping[Part, Sequence[dict[str, Any]]]
NO_QUERY_TIMES = "the scenario offline has no times of single queries"
NO_PROC = "this system has no such figure under /proc"
EMULATED = "it ran under emulation: its time and power there are not the device's"
ON_A_PROCESSOR = Kernels(reduced=None, total=None, reason="they were counted on a processor when it was exported, not on this card")


def row(plan: Plan, findings: Findings, tool: dict[str, str], log: PowerLog | None = None) -> Cell:
    """The cell with what has been found so far; never raises for what a worker wrote: the row says what happened.

    Args:
        tool: version and commit of this tool, for the environment. log: of an external power meter.
    """
    failure = plan.blocked or _failure(findings)
    if failure is None:
        why_empty = EMULATED if plan.request.target.emulated else "not asked for"
        try:
            return Cell(**_identity(plan), status=Status.OK, reason=None, **{**empty_figures(why_empty), **_figures(plan, findings, tool, log)})
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, EdgeError) as error:
            failure = Status.FAILED, f"the worker's figures make no sense: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    status, reason = failure
    kind = next((record["failure"].get("kind") for records in findings.values() for record in records if "failure" in record), None)
    return Cell(**_identity(plan), status=status, reason=reason, failure=kind, **{**empty_figures(reason), "size": _size(plan)})


def _failure(findings: Findings) -> tuple[Status, str] | None:
    found = next((record["failure"] for records in findings.values() for record in records if "failure" in record), None)
    return None if found is None else (Status(found["status"]), str(found["reason"]))


def _identity(plan: Plan) -> dict[str, Any]:
    manifest, request = plan.artifact.manifest, plan.request
    scenario = request.scenario.model_dump()
    return {
        "model": manifest.model,
        "format": manifest.format,
        "precision": manifest.precision,
        "target_arch": manifest.target_arch,
        "target": request.target.name,
        "device": request.target.device,
        "scenario": scenario.pop("name"),
        "settings": {**scenario, **request.target.settings},
        "threads": plan.threads,
        "batch": plan.batch,
        "affinity": plan.affinity,
        "shapes": dict(plan.shapes),
        "frames": plan.frames.name if plan.frames else None,
        "kernels": ON_A_PROCESSOR if request.target.name == "gpu" else manifest.kernels,
        "work": manifest.work,
        "artifact": plan.artifact.name,
        **({"macs": Measurement(value=manifest.work.macs, unit="count", provenance="counted")} if manifest.work else {}),
    }


def _size(plan: Plan) -> Measurement:
    return Measurement(value=plan.artifact.size, unit="B", provenance="counted")


def _figures(plan: Plan, findings: Findings, tool: dict[str, str], log: PowerLog | None) -> dict[str, Any]:
    groups: list[dict[str, Any]] = [{"size": _size(plan)}]
    if accuracy := findings.get("accuracy"):
        groups.append(_accuracy(accuracy[0]))
    if runs := findings.get("latency"):
        groups.append(_latency(plan, runs, log))
    if memory := findings.get("memory"):
        groups.append({"memory": _memory(memory[0]["figures"])})
    if counted := findings.get("count"):
        groups.append(_counted(plan, counted[0]["figures"]))
    if profile := findings.get("profile"):
        operators = profile[0]["figures"]["operators"] or ()
        times = tuple(Operator(name=name, kind=kind, time=Measurement(value=float(ms), unit="ms")) for name, kind, ms in operators)
        groups.append({"operators": times})
    figures = {name: value for group in groups for name, value in group.items()}
    figures["figures"] = {name: value for group in groups for name, value in group.get("figures", {}).items()}
    if where := findings.get("latency") or findings.get("count"):
        figures["environment"] = {**where[0]["environment"], "tool": tool}
    figures["warnings"] = doubts(plan, figures.get("processes", ()), findings)
    return figures


def _accuracy(found: dict[str, Any]) -> dict[str, Any]:
    def share(value: float | None, why_not: str) -> Measurement:
        return absent("%", why_not) if value is None else Measurement(value=value, unit="%")

    metrics = {name: Measurement(value=value, unit="1") for name, value in found["metrics"].items()}
    why = found["why_no_accuracy"]
    return {
        "figures": {name: Measurement(value=value, unit=unit) for name, (value, unit) in found["figures"].items()},
        "accuracy": Accuracy(top1=share(found["top1"], why), metrics=metrics),
        "agreement": Accuracy(top1=share(found["agreement"], NO_CLASSES)),
    }


def _latency(plan: Plan, records: Sequence[dict[str, Any]], log: PowerLog | None) -> dict[str, Any]:
    runs = [record["figures"] for record in records]
    times = [np.asarray(run["samples_ns"], np.int64) for run in runs]
    samples = np.concatenate(times) / 1e6
    inferences = sum(run["inferences"] for run in runs) * plan.batch
    processes = tuple(_process(run, sampled) for run, sampled in zip(runs, times, strict=True))
    energy = {name: _energy(name, unit, runs) for name, unit in ENERGY_UNITS.items()} | {"energy_modelled": _modelled(plan)}
    own = _together([run["figures"] for run in runs])
    seen = _together([record.get("seen", {}) for record in records])
    energy["energy_meter"] = log.energy(processes, plan.batch) if log else absent("mJ", "no log of an external meter was given: --meter")
    return {
        "latency": _latencies(plan, samples, runs),
        "throughput": Measurement(value=inferences / sum(run["wall_s"] for run in runs), unit="1/s"),
        "energy": energy,
        "figures": {**own, **_day(plan, energy, own), **seen},
        "processes": processes,
        "minutes": tuple(_minute(number, minute) for number, run in enumerate(runs) for minute in run.get("minutes", ())),
    }


def _latencies(plan: Plan, samples: NDArray[np.float64], runs: Sequence[dict[str, Any]]) -> Latency:
    offline = plan.request.scenario.name == "offline"

    def of(figure: Callable[..., Measurement], *arguments: float) -> Measurement:
        return absent("ms", NO_QUERY_TIMES) if offline else figure(samples, *arguments)

    return Latency(
        p50=of(percentile, 50),
        p90=of(percentile, 90),
        p95=of(percentile, 95),
        p99=of(percentile, 99),
        p99_9=of(percentile, 99.9),
        min=of(smallest),
        mean=of(mean),
        trimmed_mean=of(trimmed_mean),
        mad=of(median_deviation),
        load=_median([run["load_ms"] for run in runs], "ms"),
        first=_median([run["first_ms"] for run in runs], "ms"),
        count=Measurement(value=len(samples), unit="count", provenance="counted"),
    )


def _median(values: Sequence[float], unit: str) -> Measurement:
    return Measurement(value=float(np.median(values)), unit=unit)


def _energy(name: str, unit: str, runs: Sequence[dict[str, Any]]) -> Measurement:
    """Per inference, the median of the processes."""
    readings = [run["energy"].get(name) for run in runs]
    values = [reading["value"] for reading in readings if reading and reading["value"] is not None]
    if len(values) < len(readings) or not values:
        reason = next((reading["reason"] for reading in readings if reading and reading["value"] is None), "the worker did not report it")
        return absent(unit, str(reason))
    return Measurement(value=float(np.median(values)), unit=unit, provenance=readings[0]["provenance"])


def _modelled(plan: Plan) -> Measurement:
    """Energy of one sample by the counted work, see `edge.bench.energy`."""
    manifest = plan.artifact.manifest
    kernels, int8 = manifest.kernels, manifest.int8
    kept = int8.float_layers if int8 else ()
    if plan.request.target.name == "gpu":
        return absent("mJ", "the table of energies is that of a processor")
    if plan.shapes:
        return absent("mJ", "the work was counted at the shape of the judging samples")
    if kernels.reduced == 0:  # stored in the precision only: the runtime widens the weights when it loads them
        return model_energy(manifest.work, Precision.FP32)
    if kernels.reduced is not None and kernels.total and kernels.reduced < kernels.total - len(kept):
        return absent("mJ", f"{kernels.total - kernels.reduced} of {kernels.total} layers compute in float, and which ones is not known")
    return model_energy(manifest.work, manifest.precision, float_layers=kept)


def _day(plan: Plan, energy: Mapping[str, Measurement], own: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """Of a camera: energy in J a day, and hours on its battery; by what was measured where something was, else by a model.

    Frames that were dropped cost nothing: the rate is the one that it kept up with.
    """
    scenario = plan.request.scenario
    if not isinstance(scenario, Camera):
        return {}
    meters = (energy[name] for name in ENERGY_UNITS if name.startswith("energy_") and name != "energy_modelled")
    by_power = None
    if scenario.idle_mw is not None and scenario.busy_mw is not None:
        by_power = device_power_energy(energy["cpu_time"], scenario.idle_mw / 1e3, scenario.busy_mw / 1e3)
    each = next((figure for figure in meters if figure.value is not None and figure.value >= 0), by_power or energy["energy_modelled"])
    idle = None if scenario.idle_mw is None else Measurement(value=scenario.idle_mw, unit="mW")
    kept_up = own["frame_rate"].value if "frame_rate" in own else None
    rate = scenario.fps if kept_up is None else min(scenario.fps, kept_up)
    day = {"energy_per_day": per_day(each, rate, idle)}
    return day if scenario.battery_mwh is None else {**day, "battery_life": battery_hours(scenario.battery_mwh, each, rate, idle)}


def _together(processes: Sequence[dict[str, Any]]) -> dict[str, Measurement]:
    """Of the figures that every process has, name -> (value, unit), the medians; of a count the sum."""
    figures = {}
    for name, (_, unit) in processes[0].items():
        if not all(name in process for process in processes):
            continue
        values = [process[name][0] for process in processes]
        counted = unit == "count"
        figures[name] = Measurement(
            value=sum(values) if counted else float(np.median(values)), unit=unit, provenance="counted" if counted else "measured"
        )
    return figures


def _counted(plan: Plan, found: dict[str, Any]) -> dict[str, Any]:
    """Of an emulated run: instructions per inference (the median; its interval is the range), what kinds they are, and the guest's memory."""

    def count(value: float | None, unit: str = "count") -> Measurement:
        return Measurement(value=value, unit=unit, provenance="counted", reason="counted on aarch64 only" if value is None else None)

    def typical(name: str) -> Measurement:
        known = [value for value in found[name] if value is not None]
        return count(float(np.median(known)) if known else None)

    empty, each = empty_figures(EMULATED), found["instructions"]
    instructions = typical("instructions").model_copy(update={"interval": (min(each), max(each))})
    memory = {name: count(int(found[name]), "B") for name in ("baseline_rss", "model_rss", "peak_rss")}
    return {
        "energy": {**empty["energy"], "instructions": instructions, "energy_modelled": _modelled(plan)},
        "memory": empty["memory"].model_copy(update=memory),
        "figures": {
            **{f"instructions_{kind}": typical(kind) for kind in ("dot", "matrix", "half")},
            **{f"instructions_{part}": count(found[f"{part}_instructions"]) for part in ("load", "first")},
        },
    }


def _process(run: dict[str, Any], times: NDArray[np.int64]) -> Process:
    return Process(
        samples=pack(times),
        began=run["before"]["clock"],
        warmup_s=run["warmup"]["seconds"],
        warm=run["warmup"]["stable"],
        **{name: run[name] for name in ("wall_s", "cpu_s", "import_ms", "load_ms", "first_ms", "inferences", "timer_ns")},
        **{name: run.get(name) for name in ("others_busy", "before", "after")},
    )


def _minute(process: int, minute: dict[str, Any]) -> Minute:
    p50, p99 = (Measurement(value=minute[f"{name}_ms"], unit="ms") for name in ("p50", "p99"))
    return Minute(process=process, count=minute["count"], p50=p50, p99=p99, before=minute["before"], after=minute["after"])


def _memory(found: dict[str, Any]) -> Memory:
    looks = [(run, size) for run, size in found["growth"] if size is not None]
    figures = {
        name: absent("B", NO_PROC) if found[name] is None else Measurement(value=int(found[name]), unit="B")
        for name in Memory.model_fields
        if name not in ("growth", "gpu")
    }
    gpu = found.get("gpu_memory", {"value": None, "reason": "it ran on the CPU"})
    on_card = absent("B", str(gpu["reason"])) if gpu["value"] is None else Measurement(value=int(gpu["value"]), unit="B")
    return Memory(**figures, growth=slope(looks, "B"), gpu=on_card)
