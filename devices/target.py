"""What a target is: a place where the worker runs. It takes files, starts the worker there, and brings back what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge.vocabulary import Format

#: Names in a job's folder.
SPEC, RESULT, LOG = "spec.json", "result.json", "log.txt"


@dataclass(frozen=True)
class Job:
    """One run of the worker.

    Attributes:
        worker: the worker's folder, as `Target.push` named it.
        spec: what is asked for. Paths in it are the target's own; relative ones lie in the job's folder.
        folder: empty, on this machine; afterwards it holds what the worker wrote: its result, its arrays, and its stdout and stderr.
        timeout: seconds.
    """

    worker: str
    format: Format
    spec: dict[str, Any]
    folder: Path
    timeout: float


@dataclass(frozen=True)
class Ending:
    """How a run of the worker ended.

    Attributes:
        status: its exit status, negative for a signal.
        out_of_memory: where the target knows that a memory limit ended it, or something that it started: what goes on after "the worker", e.g.
            ``needs more than the 96 MiB that camera gives a model``.
        figures: what the target saw from outside, name -> (value, unit), e.g. ``throttled_periods``.
    """

    status: int
    out_of_memory: str | None = None
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)


class Target(Protocol):
    """A place where artifacts run.

    Attributes:
        name: what a user types. device: what stands in results.
        arch: ``x86`` or ``arm``: whose artifacts run there. flags: processor features there, as /proc/cpuinfo names them.
        emulated: times mean nothing there, so instructions are counted instead.
        here: it takes this machine's time, of which one measurement has all.
        settings: how things run there, where that can be chosen; they stand in the results among those of the scenario.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def arch(self) -> str: ...

    @property
    def flags(self) -> frozenset[str]: ...

    @property
    def emulated(self) -> bool: ...

    @property
    def here(self) -> bool: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def lacks(self, format: Format) -> str | None:
        """Why the format's runtime can never be had there, in one sentence; None where it can."""
        ...

    def push(self, path: Path) -> str:
        """Make a file or folder readable there, one that changes no more, and name its path there."""
        ...

    def run(self, job: Job) -> Ending:
        """Run the worker with the interpreter that has the format's runtime, and block until `Job.folder` holds what it wrote.

        Raises:
            Unsupported: the runtime cannot do there what the artifact asks for.
            Unavailable: the runtime is not on this target, or the target cannot be reached.
            subprocess.TimeoutExpired: the worker did not finish; it is dead by then.
        """
        ...

    def close(self) -> None:
        """Remove what was pushed and let go of the target. It may be closed twice."""
        ...
