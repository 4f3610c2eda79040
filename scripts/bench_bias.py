#!/usr/bin/env python3
"""Why `edge.models.convnet.Conv3x3` expands its bias: the time of both forms on this machine.

.venv/bin/python scripts/bench_bias.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import paddle

RUNS = 30


def median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[3:])


def main() -> None:
    y, bias = paddle.randn([64, 32, 28, 28]), paddle.randn([32])
    forms: dict[str, Callable[[], object]] = {
        "broadcast": lambda: y + bias.reshape([1, 32, 1, 1]),
        "expanded": lambda: y + bias.reshape([1, 32, 1, 1]).expand(y.shape),
    }
    same = paddle.equal_all(forms["broadcast"](), forms["expanded"]())
    for name, form in forms.items():
        print(f"{name:<10} {median_ms(form):6.2f} ms, median of {RUNS - 3} runs")
    print(f"the sums are {'the same' if bool(same) else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
