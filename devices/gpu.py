"""An NVIDIA card of this machine: onnxruntime's CUDA provider, and Paddle Inference on the GPU, also through TensorRT.

**Nothing has been executed on a card yet**: none was at hand. What is tested is what is refused and why, and the readers of memory and energy
against a stand-in for the driver's library. The machine's own environment holds no GPU packages: they live in one of their own, `gpu_python`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edge.children import run_child
from edge.devices.local import worker_command, worker_environment
from edge.devices.profile import Profile
from edge.devices.target import LOG, Ending, Job
from edge.environments import GPU_HINT, cpu_flags, gpu_python, machine_arch, package_version
from edge.errors import Unavailable, Unsupported
from edge.vocabulary import Format, Frozen, Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Whether copying the inputs to the card and the results back is part of what is timed.
Copies = Literal["in", "out"]
COPIES: tuple[Copies, ...] = ("in", "out")
#: Where NVIDIA's driver describes itself (README of the Linux driver, "The /proc Interface").
DRIVER = Path("/proc/driver/nvidia")
LIBRARY = "libcuda.so.1"
PACKAGES = {Format.ONNX: "onnxruntime-gpu", Format.PADDLE_INFERENCE: "paddlepaddle-gpu"}
NO_LITE = "Paddle Lite's Python library does not run on NVIDIA cards: among the targets of paddlelite 2.13 (TargetType) is no CUDA"
#: PaddlePaddle/Paddle-Inference-Demo#548: enable_tensorrt_engine is for .pdmodel alone.
PIR_NEEDS_CONVERSION = "Paddle Inference hands only legacy programs (.pdmodel) to TensorRT, this artifact is a PIR program (.json)"
NO_CARD = "use a machine with an NVIDIA card and its driver, or --target local"
#: TensorFloat-32 is switched off: it computes what is asked for in fp32 with 10 bits of mantissa (NVIDIA's cuBLAS and cuDNN documentation).
#: Cards are numbered by their place on the bus, as NVML does.
CUDA_ENVIRONMENT = {"NVIDIA_TF32_OVERRIDE": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class GpuCell(Frozen):
    """One row of ``gpu.toml``; the comment at its top says what the words mean."""

    format: Format
    precision: Precision
    evidence: str
    cuda: str | None = None
    tensorrt: str | None = None


@cache
def gpu_table() -> tuple[GpuCell, ...]:
    """Every cell, in the order of the file."""
    raw = tomllib.loads(Path(__file__).with_name("gpu.toml").read_text())
    return tuple(GpuCell.model_validate(row) for row in raw["cell"])


@dataclass(frozen=True)
class Card:
    """An NVIDIA card: what CUDA_VISIBLE_DEVICES calls it, and what the driver does."""

    visible: str
    model: str


def find_card(driver: Path = DRIVER) -> Card:
    """The first card that the environment's CUDA_VISIBLE_DEVICES names, else the first on the bus.

    Raises:
        Unavailable: no driver, no card, or the driver's library does not load.
    """
    if not (driver / "version").is_file():
        raise Unavailable(f"no NVIDIA driver is loaded here: {driver / 'version'} is not there", hint=NO_CARD)
    cards = [_information(path) for path in sorted(driver.glob("gpus/*/information"))]
    if not cards:
        raise Unavailable("the NVIDIA driver has found no card", hint=NO_CARD)
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Unavailable(
            f"the NVIDIA driver's library does not load: {error}", hint="in a container, pass the card to it, e.g. --gpus all"
        ) from error
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    for index, card in enumerate(cards):
        if wanted and (wanted == str(index) or card.get("GPU UUID", "").startswith(wanted)):
            return Card(wanted, card.get("Model", "NVIDIA card"))
    raise Unavailable(
        f"CUDA_VISIBLE_DEVICES names {wanted!r}, which is none of the {len(cards)} NVIDIA cards here", hint="unset CUDA_VISIBLE_DEVICES"
    )


def _information(path: Path) -> dict[str, str]:
    """Its fields: ``Model``, ``GPU UUID`` and others."""
    try:
        pairs = [line.partition(":") for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in pairs}


class GpuTarget:
    """One card: the first that CUDA_VISIBLE_DEVICES names, else the first on the bus.

    Which layers TensorRT takes, and in which precision, is not read back.

    Args:
        profile: of the device that is asked for; its name stands in the results where the card is one of its, or where there is none.
        tensorrt: let Paddle Inference hand the program to TensorRT.
        copies: ``in`` times from host arrays to host arrays, ``out`` with inputs and results that stay on the card.
    """

    name = "gpu"
    emulated, here = False, True

    def __init__(self, profile: Profile | None = None, *, tensorrt: bool = False, copies: Copies = "in", driver: Path = DRIVER) -> None:
        self.driver, self.tensorrt = driver, tensorrt
        self.settings: Mapping[str, Any] = {"tensorrt": tensorrt, "copies": copies}
        self.arch, self.flags = machine_arch(), cpu_flags()
        try:
            card = find_card(driver).model
            self.device = profile.name if profile and profile.is_named_in(card) else card
        except Unavailable:
            self.device = profile.name if profile else "no NVIDIA card"

    def lacks(self, format: Format) -> str | None:
        return NO_LITE if format is Format.PADDLE_LITE else None

    def push(self, path: Path) -> str:
        return str(path.absolute())

    def run(self, job: Job) -> Ending:
        """See `edge.devices.target.Target.run`.

        Raises:
            Unsupported: the format's runtime has no kernels of that precision for NVIDIA cards.
            Unavailable: no card, no environment with the packages, or one that cannot read the program.
        """
        pir = str(job.spec["model"]).endswith(".json")
        if reason := self.refusal(job.format, Precision(job.spec["precision"]), pir):
            raise Unsupported(reason)
        card, python = find_card(self.driver), gpu_python()
        package = PACKAGES[job.format]
        version = package_version(python, package, GPU_HINT)
        if pir and int(version.split(".")[0]) < 3:
            raise Unavailable(
                f"{package} {version} reads the legacy program (.pdmodel) only, this artifact is a PIR program (.json)",
                hint=f"install {package} 3 from Paddle's own package index into {python.parent.parent}",
            )
        asked = replace(job, spec={**job.spec, "device": "gpu", **self.settings})
        libraries = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}  # CUDA, cuDNN, TensorRT, if from no package
        environment = {**worker_environment(job), **CUDA_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": card.visible, **libraries}
        return Ending(run_child(worker_command(asked, python), environment=environment, log=job.folder / LOG, timeout=job.timeout))

    def close(self) -> None:
        pass

    def refusal(self, format: Format, precision: Precision, pir: bool = False) -> str | None:
        """Why a cell cannot run in its precision, by ``gpu.toml``, or why TensorRT does not take a PIR program; None where it should run."""
        cell = next((cell for cell in gpu_table() if (cell.format, cell.precision) == (format, precision)), None)
        if cell is None:
            return f"{format.value} {precision.value} is not known to run on NVIDIA cards"
        if self.tensorrt and pir:
            return cell.tensorrt or PIR_NEEDS_CONVERSION
        return cell.tensorrt if self.tensorrt else cell.cuda
