"""What a limit is, what a run within it showed, and the face that every mechanism has."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

#: Exit status of a process that could not go inside its limits and did nothing else; its log says why.
NOT_INSIDE = 125
ENTER = Path(__file__).with_name("enter.py")


@dataclass(frozen=True)
class Limits:
    """A device's size; None is no limit.

    Attributes:
        memory: of the whole process, its interpreter and runtime included, in B. Swap does not help it.
        cores: it runs on so many of the CPUs that this process may use, or on all of them where there are fewer.
        quota: processor time per wall time: 0.5 is half of ONE core, whatever ``cores`` says. The kernel hands it out in periods of 0.1 s.
    """

    memory: int | None = None
    cores: int | None = None
    quota: float | None = None

    @property
    def cpus(self) -> list[int]:
        """The CPUs to run on. They are an affinity in every mechanism: the scheduler obeys it as it does a cpuset, which users are seldom given."""
        return sorted(os.sched_getaffinity(0))[: self.cores]


@dataclass(frozen=True)
class Seen:
    """How a process within limits ended.

    Attributes:
        status: its exit status, negative for a signal.
        refused: how it is known that the memory limit ended it, or None.
        figures: name -> (value, unit), what was seen from outside: ``memory_peak``; ``oom_kills``; with a quota ``periods``, ``throttled_periods``
            and ``throttled_time``, over the whole life of the process.
    """

    status: int
    refused: str | None = None
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)


class Mechanism(Protocol):
    """One way to enforce `Limits`. ``name``: what a user is told."""

    @property
    def name(self) -> str: ...

    def lacks(self, limits: Limits) -> str | None:
        """Why it cannot enforce these limits here, in a few words; None where it can, which has been tried."""
        ...

    def run(self, command: Sequence[str], limits: Limits, *, environment: Mapping[str, str], log: Path, timeout: float) -> Seen:
        """Run a command within limits from its first instruction on, and block until it has ended.

        Raises:
            OSError, LookupError: the limits cannot be set up, or what they did cannot be read.
            subprocess.TimeoutExpired: after ``timeout`` seconds; the process is dead by then.
        """
        ...


def entering(command: Sequence[str], limits: Limits, **settings: Any) -> list[str]:
    """The command behind `enter.py`, which goes inside and then becomes it.

    Args:
        settings: for `enter.py`, beside the CPUs.
    """
    return [sys.executable, "-I", "-S", str(ENTER), json.dumps({"cpus": limits.cpus, **settings}), *command]
