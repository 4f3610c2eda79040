"""What the machine draws anyway: measured before the work, taken off after it."""

from __future__ import annotations

import time


def idle_power(readers: dict, seconds: float) -> dict:
    """{name: mW, or None where the reader has no answer} of every energy_* reader over ``seconds`` of sleep.

    Without one that answers nothing is slept, so that a machine without meters loses no time.
    """
    meters = {name: reader for name, reader in readers.items() if name.startswith("energy_")}
    began = {}
    for name, meter in meters.items():
        meter.start()
        began[name] = time.monotonic()
    if any(meter.reason is None for meter in meters.values()):
        time.sleep(seconds)
    found = {}
    for name, meter in meters.items():
        wall = time.monotonic() - began[name]
        energy, _ = meter.stop()
        found[name] = None if energy is None or wall <= 0 else energy / wall
    return found


def net_of_idle(energy_mj: float | None, idle_mw: float | None, wall_s: float) -> float | None:
    """Energy in mJ beyond what the idle machine would have used in ``wall_s`` seconds; None where either was not measured.

    Below 0 the work cannot be told from the idle machine's noise; it is not cut off at 0, which would look measured.
    """
    return None if energy_mj is None or idle_mw is None else energy_mj - idle_mw * wall_s
