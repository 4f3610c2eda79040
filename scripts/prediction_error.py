#!/usr/bin/env python3
"""The error of predicted latencies: every published cell predicted without its device, every net measured on x86 predicted without that net.

.venv/bin/python scripts/prediction_error.py                         the tables, from the data in bench/
.venv/bin/python scripts/prediction_error.py --measure ARTIFACT...   rows for bench/measured.toml, measured here; nothing is stored

ARTIFACT: folders that edge export wrote, format onnx.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from math import exp
from pathlib import Path

from count_instructions import emulated, figures_of

from edge.artifact import Artifact, load_artifact
from edge.bench.predict import SHARE, judged_cells, measured_rates, published_fit
from edge.bench.roofline import Judged, factor_of, leave_one_device_out, published_cells

#: What the table shows, for a reader who expects 10 % for 90 % of the cells.
WHY = """
The cost of a core is what the tables tell too little about: operations per cycle and clock do not hold it, and most cores stand in one device only.
Where another device has the core, and the Kirin 990 is set aside, the error is near 10 % for 90 %. Its times are those of its cores of 2.09 GHz,
though the tables say the big ones, of 2.86 GHz. With several threads, the system's choice of cores adds to it."""
#: For which inferences are timed.
SECONDS = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", type=Path, metavar="ARTIFACT")
    arguments = parser.parse_args()
    if arguments.measure:
        for folder in arguments.measure:
            measure(load_artifact(folder))
    else:
        published()
        measured()


def published() -> None:
    print("Paddle Lite, one published device left out at a time. * no other device has its core\n")
    print(f"{'device':<15}{'core':<12}{'net':<19}{'precision':<10}{'threads':>7}{'published ms':>14}{'predicted ms':>14}{'error %':>9}")
    for judged in judged_cells():
        cell = judged.cell
        name = f"{cell.machine.core}{'' if judged.core_known else '*'}"
        row = f"{cell.device:<15}{name:<12}{cell.net:<19}{cell.precision.value:<10}{cell.threads:>7}"
        print(f"{row}{cell.ms:>14.2f}{judged.predicted:>14.2f}{100 * judged.error:>9.1f}")
    print()
    for name, chosen in groups(judged_cells()).items():
        errors = sorted(abs(judged.error) for judged in chosen)
        within = sum(error <= 0.1 for error in errors) / len(errors)
        factor = factor_of([judged.factor for judged in chosen], SHARE)
        quantiles = f"median {statistics.median(errors):5.1%}  90th percentile {errors[int(0.9 * (len(errors) - 1))]:5.1%}"
        print(f"{name:<36} n {len(errors):3}  within 10 % {within:4.0%}  {quantiles}  factor that {SHARE:.0%} keep {factor:.2f}")
    fitted = published_fit()
    for name, logs in (("cost of cores", fitted.cores), ("speed-up of threads", fitted.speedups)):
        print(f"{name}, from all cells: {', '.join(f'{key} {exp(value):.2f}' for key, value in logs.items())}")
    print(WHY)


def groups(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The Kirin 990's times fit the 2.09 GHz of its other two Cortex-A76: one group shows what the rest of the tables would give without it."""
    one_thread = [j for j in judged if j.cell.threads == 1]
    undoubted = leave_one_device_out([cell for cell in published_cells() if cell.device != "Kirin 990"])
    return {
        "all": list(judged),
        "1 thread, core known": [j for j in one_thread if j.core_known],
        "the same, the Kirin 990 in no fit": [j for j in undoubted if j.core_known and j.cell.threads == 1],
        "1 thread, core not known": [j for j in one_thread if not j.core_known],
        "2 and 4 threads": [j for j in judged if j.cell.threads > 1],
        **{device: [j for j in judged if j.cell.device == device] for device in dict.fromkeys(j.cell.device for j in judged)},
    }


def measured() -> None:
    for precision, rate in measured_rates().items():
        factors = rate.left_out()
        print(f"\nonnxruntime {precision.value} on {rate.processor}, {rate.date}, one net left out at a time: {rate.mean:.2f} instructions per cycle")
        for net, factor in factors.items():
            print(f"  {net:<22}{rate.ipc[net]:>6.2f} instructions per cycle, off by a factor of {factor:.2f}")
        within = sum(factor <= 1.1 for factor in factors.values()) / len(factors)
        median, most = statistics.median(factors.values()), factor_of(list(factors.values()), SHARE)
        print(f"  n {len(factors)}  within a factor of 1.10 {within:.0%}  median {median:.2f}  factor that {SHARE:.0%} keep {most:.2f}")


def measure(artifact: Artifact) -> None:
    """Print one row: instructions of an inference, and ms of processor time of the fastest, which on a busy machine is the nearest to a latency."""
    instructions = statistics.median(figures_of(artifact, emulated("x86_64:max"), "count")["instructions"])
    manifest = artifact.manifest
    print(f"{manifest.precision.value} {manifest.model} = {{ instructions = {instructions:.0f}, ms = {min(times_ms(artifact)):.3f} }}", flush=True)


def times_ms(artifact: Artifact) -> list[float]:
    """ms of processor time of each inference, after one that is not timed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    session = onnxruntime.InferenceSession(artifact.path("model"), options, providers=["CPUExecutionProvider"])
    vectors = artifact.vectors()
    inputs = {tensor.name: vectors[f"input_{index}"][:1] for index, tensor in enumerate(session.get_inputs())}
    session.run(None, inputs)
    times = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        began = time.thread_time()
        session.run(None, inputs)
        times.append(1e3 * (time.thread_time() - began))
    return times


if __name__ == "__main__":
    main()
