"""Will it live on the device? Every budget of a device profile against what is known of an artifact there: PASS, FAIL or UNKNOWN.

A pass needs a figure of the device itself, a count under emulation of its processor, or a prediction that holds over its whole interval. Nothing
that is missing passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from edge.artifact import artifact_name
from edge.bench.evidence import Evidence
from edge.bench.measure import OUT_OF_MEMORY
from edge.bench.results import Cell
from edge.devices.profile import Profile
from edge.errors import BadInput
from edge.vocabulary import Arch, Format, Frozen, Measurement, Precision, Provenance, Status

Outcome = Literal["PASS", "FAIL", "UNKNOWN"]
#: From the best to the worst.
ORDER: tuple[Outcome, ...] = ("PASS", "UNKNOWN", "FAIL")
#: More instructions than this, over those of fp32, are a slow-down worth a sentence.
SLOWER = 1.02
SIZES = {30: "GiB", 20: "MiB", 10: "KiB"}


class Budget(Frozen):
    """One budget of one artifact.

    Attributes:
        at_least: the limit is the least that is allowed, not the most.
        value, limit, margin: in ``unit``; the margin is what is left, negative where the budget is missed. Null where nothing is known.
        interval: of what is modelled; its upper end is null, and the value with it, where nothing is known of how large it may be.
        says: the same in words, with the reason of an unknown.
    """

    name: str
    verdict: Outcome
    says: str
    value: float | None = None
    limit: float | None = None
    at_least: bool = False
    margin: float | None = None
    unit: str | None = None
    provenance: Provenance | None = None
    interval: tuple[float, float | None] | None = None

    @property
    def shown(self) -> str:
        """``~12 ms``: the tilde stands for modelled. Empty where nothing is known."""
        if self.unit is None or (self.value is None and self.interval is None):
            return ""
        if self.value is None and self.interval:
            return f">= ~{amount(self.interval[0], self.unit)}"
        return f"{'~' * (self.provenance == 'modelled')}{amount(self.value or 0.0, self.unit)}"


class Verdict(Frozen):
    """Of one artifact with one number of threads: all its budgets passed, one failed, or neither is known. ``basis``: of its latency."""

    cell: str
    artifact: str
    threads: int
    verdict: Outcome
    budgets: tuple[Budget, ...]
    basis: str


class Check(Frozen):
    """The verdict on every artifact for a device; the best one's is that of the whole.

    Attributes:
        remarks: what the user should know beside it, e.g. a precision that is slower there. help: who passes what another fails.
    """

    schema_version: Literal[1] = 1
    device: str
    cell: str | None
    verdict: Outcome
    budgets: tuple[Budget, ...]
    cells: tuple[Verdict, ...]
    remarks: tuple[str, ...] = ()
    help: tuple[str, ...] = ()


def check(cells: Iterable[Cell], profile: Profile) -> Check:
    """Judge every artifact in the cells, those of several results files together.

    Raises:
        BadInput: there is no artifact in them that could be put on the device.
    """
    found = [evidence for evidence in _by_artifact(cells, profile) if _made_for(evidence.cells[0], profile)]
    if not found:
        reason = f"the results hold no artifact for {profile.name}, whose processor is {profile.arch.value}, measured with batch 1"
        raise BadInput(reason, hint="export one: edge export MODEL --out DIR")
    verdicts = sorted((_judge(evidence) for evidence in found), key=_rank)
    best = verdicts[0]
    return Check(
        device=profile.name,
        cell=best.cell,
        verdict=best.verdict,
        budgets=best.budgets,
        cells=tuple(verdicts),
        remarks=tuple(_remarks(found)),
        help=tuple(_help(verdicts, found)),
    )


def _by_artifact(cells: Iterable[Cell], profile: Profile) -> list[Evidence]:
    """Single samples at the shape that judged: what a camera feeds. Rows without an artifact are none; another size is that of another export."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        if cell.artifact is not None and cell.batch == 1 and not cell.shapes:
            key = (cell.model, cell.format, cell.precision, cell.target_arch, cell.threads, cell.size.value, cell.target == "gpu")
            groups.setdefault(key, []).append(cell)
    return [Evidence(profile, tuple(group)) for group in groups.values()]


def _made_for(cell: Cell, profile: Profile) -> bool:
    return cell.target_arch is Arch.ANY or cell.target_arch is profile.arch


def _judge(evidence: Evidence) -> Verdict:
    cell = evidence.cells[0]
    budgets = tuple(_budgets(evidence))
    worst = max((budget.verdict for budget in budgets), key=ORDER.index)
    return Verdict(
        cell=_name(cell),
        artifact=artifact_name(cell.model, cell.format, cell.precision, cell.target_arch),
        threads=cell.threads,
        verdict=worst,
        budgets=budgets,
        basis=evidence.latency.basis,
    )


def _name(cell: Cell) -> str:
    return f"{cell.model} {cell.label}, {cell.threads} thread{'s' * (cell.threads > 1)}{', GPU' * (cell.target == 'gpu')}"


def _rank(verdict: Verdict) -> tuple[int, int, int, float, float]:
    """The best first: by its verdict, by how many budgets fail and how many are unknown, by its latency, by its size."""
    outcomes = [budget.verdict for budget in verdict.budgets]
    values = {budget.name: budget.value for budget in verdict.budgets}
    frame_rate, size = values.get("frame_rate"), values.get("storage")
    return ORDER.index(verdict.verdict), outcomes.count("FAIL"), outcomes.count("UNKNOWN"), -(frame_rate or 0.0), size or 0.0


def _budgets(evidence: Evidence) -> Iterator[Budget]:
    profile, asked = evidence.profile, evidence.profile.budgets
    yield _runs(evidence)
    yield _at_most("storage", evidence.storage, profile.storage_limit)
    yield _memory(evidence)
    if asked.latency_p99:
        yield _p99(evidence, asked.latency_p99.base * 1e3)
    if asked.frame_rate:
        yield _at_least("frame_rate", evidence.frame_rate, asked.frame_rate.base)
    if asked.energy_per_day:
        yield _at_most("energy_per_day", evidence.energy_per_day, asked.energy_per_day.base)
    if asked.battery_life:
        yield _at_least("battery_life", evidence.battery_life, asked.battery_life.base / 3600)


def _p99(evidence: Evidence, limit_ms: float) -> Budget:
    found, tail = _at_most("latency_p99", evidence.latency_p99, limit_ms), evidence.tail
    if found.provenance != "modelled" or tail is None:
        return found
    return found.model_copy(update={"says": f"{found.says}, if its p99 is {tail:.3g} times its median as measured elsewhere"})


def _runs(evidence: Evidence) -> Budget:
    """Whether it gave right results on the device, or on its processor emulated."""
    where = {"on the device": evidence.there, "on its processor, emulated": evidence.emulated}
    for place, cells in where.items():
        if failed := next((cell for cell in cells if cell.status is Status.FAILED), None):
            return Budget(name="runs", verdict="FAIL", says=f"failed {place}: {failed.reason}")
        if any(cell.status is Status.OK and cell.judged for cell in cells):
            return Budget(name="runs", verdict="PASS", says=f"right results {place}", provenance="measured")
    rows = [*evidence.there, *evidence.emulated, *evidence.cells]
    wrong = next((cell for cell in rows if cell.status is Status.FAILED and cell.failure != OUT_OF_MEMORY), None)
    if wrong:
        return Budget(name="runs", verdict="FAIL", says=f"failed on {wrong.target}: {wrong.reason}")
    why = next((cell.reason for cell in rows if cell.reason), None)
    if evidence.there or evidence.emulated:
        why = why or "it ran there, and its results were not judged: measure with the part accuracy"
    return Budget(name="runs", verdict="UNKNOWN", says=why or f"never run there: {evidence.next_command}")


def _memory(evidence: Evidence) -> Budget:
    limit = evidence.profile.memory_limit
    rows = [*evidence.there, *evidence.limited]
    if starved := next((cell for cell in rows if cell.failure == OUT_OF_MEMORY), None):
        where = "on the device" if starved in evidence.there else "on this machine within the device's limit"
        says = f"out of memory {where}: {starved.reason}"
        return Budget(name="memory", verdict="FAIL", says=says, limit=limit, unit="B", provenance="measured")
    found = _at_most("memory", evidence.memory, limit)
    if found.verdict == "UNKNOWN" and any(cell.status is Status.OK for cell in evidence.limited):
        return found.model_copy(update={"says": f"it ran within the limit on another processor, which proves nothing; {found.says}"})
    return found


def _at_most(name: str, figure: Measurement, limit: float) -> Budget:
    return _against(name, figure, limit, sense=1)


def _at_least(name: str, figure: Measurement, limit: float) -> Budget:
    return _against(name, figure, limit, sense=-1)


def _against(name: str, figure: Measurement, limit: float, sense: Literal[1, -1]) -> Budget:
    """``sense``: 1 where the limit is the most that is allowed, -1 where it is the least.

    What is measured or counted decides by its value; what is modelled decides only where its whole interval lies on one side.
    """
    shared: dict[str, Any] = {"name": name, "limit": limit, "unit": figure.unit, "at_least": sense < 0}
    if figure.value is None:
        return Budget(**shared, verdict="UNKNOWN", says=figure.reason or "not known")
    low, high = figure.interval if figure.provenance == "modelled" and figure.interval else (figure.value, figure.value)
    known = high < float("inf")
    fits = [sense * (limit - end) >= 0 for end in (low, high)]
    outcome: Outcome = "PASS" if all(fits) else "UNKNOWN" if any(fits) else "FAIL"
    margin = sense * (limit - figure.value)
    return Budget(
        **shared,
        verdict=outcome,
        value=figure.value if known else None,
        margin=margin if known else None,
        provenance=figure.provenance,
        interval=(low, high if known else None) if low < high else None,
        says=_words(figure, limit, margin, outcome, sense),
    )


def _words(figure: Measurement, limit: float, margin: float, outcome: Outcome, sense: Literal[1, -1]) -> str:
    value, unit = float(figure.value or 0.0), figure.unit
    low, high = figure.interval or (value, value)
    endless = high == float("inf")
    if outcome == "UNKNOWN":
        if endless:
            return f"{amount(low, unit)} or more: how much longer than its median its p99 is was not measured on any machine"
        return f"too close to call: {amount(low, unit)} to {amount(high, unit)}"
    if outcome == "FAIL":
        ratio = ((low if endless else value) / limit) ** sense if limit else float("inf")
        missed = f"{100 * (ratio - 1):.2g} %" if ratio < 1.1 else _fold(ratio)
        return f"misses {amount(limit, unit)} by {missed}{' or more' * endless}"
    return f"fits with {amount(margin, unit)} to spare" if sense > 0 else f"reaches {_fold(value / limit)} of what is asked for"


def _fold(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 1e3 else f"{ratio:.3g}x"


def amount(value: float, unit: str) -> str:
    """For people: ``31 MiB``, ``12.5 ms``, ``15 /s``, ``13 kJ``."""
    if unit == "B":
        power = next(power for power in (30, 20, 10) if value >= 1 << power or power == 10)
        return f"{value / (1 << power):.3g} {SIZES[power]}"
    if unit == "J" and abs(value) >= 1e3:
        return f"{value / 1e3:,.3g} kJ"
    digits = f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.3g}"
    return f"{digits} {'/s' if unit == '1/s' else unit}"


def _remarks(found: Sequence[Evidence]) -> Iterator[str]:
    """Figures under the device's name that are another processor's, and reduced precisions that bring nothing on the device, by the instructions that
    were counted or the times that were measured there."""
    for evidence in found:
        for machine, cell in {str(cell.environment.get("cpu") or cell.environment.get("machine"))[:80]: cell for cell in evidence.mistaken}.items():
            said = f"what was measured as {evidence.profile.name} on {machine} is left out"
            yield f"{_name(evidence.cells[0])}: {said}: beside the profile's, that processor {evidence.unlike(cell)}"
    plain = {_family(evidence): evidence for evidence in found if evidence.cells[0].precision is Precision.FP32}
    for evidence in found:
        cell = evidence.cells[0]
        if cell.precision is Precision.FP32 or (base := plain.get(_family(evidence))) is None:
            continue
        mine, theirs = evidence.latency.latency, base.latency.latency
        if "measured" == mine.provenance == theirs.provenance and mine.value and theirs.value and mine.value > SLOWER * theirs.value:
            yield f"{_name(cell)}: slower than fp32 on the device, {mine.value:.3g} against {theirs.value:.3g} ms (measured)"
        yield from _executed(evidence, base)


def _executed(evidence: Evidence, base: Evidence) -> Iterator[str]:
    emulated = [cell for cell in evidence.emulated if cell.status is Status.OK]
    if not emulated:
        return
    cell = emulated[0]
    mine, theirs = evidence.instructions.value, base.instructions.value
    if mine and theirs and mine > SLOWER * theirs:
        counts = f"{mine / 1e6:.3g} against {theirs / 1e6:.3g} M, counted"
        yield f"{_name(cell)}: {mine / theirs:.2f} times the instructions of fp32 ({counts}): it will hardly be faster"
    dot, matrix, half = (figure and figure.value for figure in (cell.figures.get(f"instructions_{kind}") for kind in ("dot", "matrix", "half")))
    if cell.precision is Precision.INT8 and dot == 0 == matrix:
        yield f"{_name(cell)}: no dot-product instruction was executed, the processor has none or the kernels do not use it"
    if cell.precision is Precision.FP16 and half == 0:
        yield f"{_name(cell)}: no fp16 arithmetic was executed, it is stored in fp16 and computed in fp32"


def _family(evidence: Evidence) -> tuple[str, Format, int]:
    cell = evidence.cells[0]
    return cell.model, cell.format, cell.threads


def _help(verdicts: Sequence[Verdict], found: Sequence[Evidence]) -> Iterator[str]:
    """For each budget that an artifact of a model fails, which artifacts of the same model pass it."""
    models = {_name(evidence.cells[0]): evidence.cells[0].model for evidence in found}
    for model in dict.fromkeys(models.values()):
        mine = [verdict for verdict in verdicts if models[verdict.cell] == model]
        for name in dict.fromkeys(budget.name for verdict in mine for budget in verdict.budgets if budget.limit is not None):
            by_outcome: dict[Outcome, list[tuple[str, Budget]]] = {outcome: [] for outcome in ORDER}
            for verdict in mine:
                for budget in verdict.budgets:
                    if budget.name == name:
                        by_outcome[budget.verdict].append((verdict.cell.removeprefix(f"{model} "), budget))
            if by_outcome["FAIL"] and by_outcome["PASS"]:
                fails = "; ".join(f"{cell} {budget.says}" for cell, budget in by_outcome["FAIL"])
                passes = "; ".join(f"{cell} {budget.says}" for cell, budget in by_outcome["PASS"])
                yield f"{name} of {model}: {fails}. What helps: {passes}"
