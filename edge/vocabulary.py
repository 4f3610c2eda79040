"""The words that travel between rooms and files: formats, precisions, architectures, statuses, and a figure with its unit."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Format(str, Enum):
    ONNX = "onnx"
    PADDLE_INFERENCE = "paddle-inference"
    PADDLE_LITE = "paddle-lite"


class Precision(str, Enum):
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Arch(str, Enum):
    """The processors an artifact is made for; ``any`` where the runtime decides when it loads."""

    ANY = "any"
    X86 = "x86"
    ARM = "arm"


class Status(str, Enum):
    """What became of a cell.

    ``exported``: made, but no runtime here can run it. ``unsupported``: cannot be made by the toolchain.
    ``unavailable``: could be made or run, but something is missing on this machine.
    """

    OK = "ok"
    EXPORTED = "exported"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"


Provenance = Literal["measured", "counted", "modelled"]
#: A share, and a number of bytes, parameters or operations, of a file that may be a stranger's.
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0, lt=1 << 50)]


class Frozen(BaseModel):
    """Base of everything read from or written to a file: immutable, unknown keys refused, NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measurement(Frozen):
    """A figure: its value and unit, where it comes from, and why it is null when it is.

    Attributes:
        interval: of 95 % confidence, where one is known; of what is modelled, the ends of its range.
    """

    value: float | int | None
    unit: str
    provenance: Provenance = "measured"
    reason: str | None = None
    interval: tuple[float, float] | None = None


def absent(unit: str, reason: str) -> Measurement:
    """A figure that was not obtained: null, never 0, with the reason."""
    return Measurement(value=None, unit=unit, reason=reason)
