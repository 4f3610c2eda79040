"""Will the export fit? Estimates (`modelled`) of disk and memory before a large one, from the size of the parameters."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from edge.errors import Unavailable
from edge.export.support import Cell
from edge.vocabulary import Format, Precision

#: Size of an artifact over that of the fp32 parameters, counted on LeNet, mobilenet_v1 and resnet18. Paddle Lite's int8 file for x86 may keep
#: most layers in float: 1 is reckoned for all of its files.
RATIO = {Precision.FP32: 1.0, Precision.FP16: 0.5, Precision.BF16: 1.0, Precision.INT8: 0.3}
#: Copies of the parameters in the scratch folder: traced and repaired legacy program, PIR program, raw and clean ONNX, the calibrator's.
SCRATCH = 6.0
#: Memory of two conversions at once, a guess on the safe side: Paddle itself, and copies of the parameters. Not measured.
BASE_MEMORY, MEMORY = 600 << 20, 6.0


def needed_disk(parameter_bytes: int, cells: Iterable[Cell]) -> int:
    """Bytes that the artifacts and the scratch folder take at their peak."""
    made = sum(1.0 if cell.format is Format.PADDLE_LITE else RATIO[cell.precision] for cell in cells if cell.makes != "unsupported")
    return int(parameter_bytes * (made + SCRATCH))


def needed_memory(parameter_bytes: int) -> int:
    return int(2 * BASE_MEMORY + parameter_bytes * MEMORY)


def available_memory() -> int | None:
    """MemAvailable of /proc/meminfo in bytes; None where there is none."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def check_room(out: Path, parameter_bytes: int, cells: Iterable[Cell]) -> None:
    """Refuse an export that will not fit.

    Raises:
        Unavailable: names what is needed and what is there.
    """
    disk, free = needed_disk(parameter_bytes, cells), shutil.disk_usage(out).free
    if disk > free:
        raise Unavailable(
            f"the export needs about {_mib(disk)} of disk in {out}, {_mib(free)} are free",
            hint="free some space, or export fewer cells: --format, --precision",
        )
    memory, there = needed_memory(parameter_bytes), available_memory()
    if there is not None and memory > there:
        raise Unavailable(
            f"the export needs about {_mib(memory)} of memory, {_mib(there)} are available", hint="stop other programs, or take a larger machine"
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
