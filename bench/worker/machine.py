"""What machine this is: stands in every result, so that figures of several machines can share a file."""

from __future__ import annotations

import os
import platform
import sys

#: Processor features that decide which kernels run (names of /proc/cpuinfo, x86 and ARM).
TELLING_FLAGS = (
    "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "f16c",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


def describe_machine(threads: int) -> dict:
    cpu = cpuinfo()
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    return {
        "machine": platform.machine(),
        "cpu": cpu.get("model name") or cpu.get("Model") or cpu.get("Hardware") or platform.processor() or "unknown",
        "isa": [flag for flag in TELLING_FLAGS if flag in flags],
        "virtualised": "hypervisor" in flags,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _versions() -> dict:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package, module in (("numpy", "numpy"), ("onnxruntime", "onnxruntime"), ("paddlepaddle", "paddle"), ("paddlelite", "paddlelite")):
        if module in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return found


def cpuinfo() -> dict:
    """First value of each field of /proc/cpuinfo."""
    fields: dict = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return fields
