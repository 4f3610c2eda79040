"""What a target is: it starts the worker somewhere and brings back what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge.vocabulary import Format


class Target(Protocol):
    """A place where artifacts run. ``name`` is what a user types, ``device`` what stands in results."""

    name: str
    device: str

    def run(self, worker: Path, format: Format, spec: Path, result: Path, log: Path, threads: int, timeout: float) -> int:
        """Run ``worker`` with the interpreter that has the format's runtime and block until it ends.

        Returns:
            The exit status, negative for a signal.

        Raises:
            Unavailable: the runtime is not on this target.
            subprocess.TimeoutExpired: the worker did not finish; it is dead by then.
        """
        ...
