"""Control groups: where the kernel shows them, one made for one run and gone after it, and the two versions' common face."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edge.children import run_child
from edge.devices.limits.mechanism import Limits, Seen, entering

PREFIX = "paddle-edge"
#: Period over which the kernel hands out processor time, in us (the kernel's default), and its smallest share of one.
PERIOD, SMALLEST = 100_000, 1_000
#: A group cannot be removed before its last process is gone, in s.
PATIENCE = 5.0


@dataclass(frozen=True)
class Mount:
    """A control group file system, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

    Attributes:
        kind: ``cgroup`` or ``cgroup2``. options: among them the controllers, of version 1.
    """

    folder: Path
    kind: str
    options: frozenset[str]


def mounts(proc: Path) -> list[Mount]:
    """The control group file systems; none where there is no such file."""
    try:
        lines = (proc / "self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        place, _, source = line.partition(" - ")
        kind, _, options = [*source.split(" ", 2), "", ""][:3]
        if kind in ("cgroup", "cgroup2") and len(fields := place.split(" ")) > 4:
            folder = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            found.append(Mount(Path(folder), kind, frozenset(options.split(","))))
    return found


class Tree:
    """How groups are made and removed: by folders, in which the kernel puts the files."""

    def make(self, folder: Path) -> None:
        folder.mkdir()

    def remove(self, folder: Path) -> None:
        folder.rmdir()


@contextlib.contextmanager
def group(parent: Path, tree: Tree) -> Iterator[Path]:
    """A new group, which is gone when the block ends, and whatever still runs in it. Groups of processes that were killed are removed first."""
    for left in parent.glob(f"{PREFIX}.*"):
        if not _owner_lives(left.name):
            with contextlib.suppress(OSError):  # another user's, or one in which something still ends
                tree.remove(left)
    folder = parent / f"{PREFIX}.{os.getpid()}.{_start_of(os.getpid())}.{uuid.uuid4().hex[:8]}"
    tree.make(folder)
    try:
        yield folder
    finally:
        _remove(folder, tree)


def _remove(folder: Path, tree: Tree) -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError):
            for pid in (folder / "cgroup.procs").read_text().split():
                if int(pid) > 1:  # 0 is a process that this namespace does not see
                    os.kill(int(pid), signal.SIGKILL)
        try:
            return tree.remove(folder)
        except FileNotFoundError:
            return None
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _owner_lives(name: str) -> bool:
    """Whether the process that made a group still runs: one of its number and its start."""
    pid, _, rest = name.removeprefix(f"{PREFIX}.").partition(".")
    return pid.isdigit() and _start_of(int(pid)) == rest.partition(".")[0]


def _start_of(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot (proc_pid_stat(5)): numbers of processes come again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def counters(file: Path) -> dict[str, int]:
    """The lines ``name number`` of a control group's file."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def quota_us(quota: float) -> int:
    return max(SMALLEST, round(quota * PERIOD))


def killed_for_memory(oom_kills: int, full: bool) -> str | None:
    """The kernel's own count tells a process killed for memory from one that crashed.

    Args:
        full: whether the group came to its limit. Where it did not, the machine ran out of memory, which says nothing of the device.
    """
    return f"the kernel killed it for memory (oom_kill {oom_kills})" if oom_kills and full else None


def throttling(cpu: Mapping[str, int], seconds: float) -> dict[str, tuple[float, str]]:
    """Figures of a group's cpu.stat. ``seconds``: that it stood still, in a unit of either version."""
    return {"periods": (cpu["nr_periods"], "count"), "throttled_periods": (cpu["nr_throttled"], "count"), "throttled_time": (seconds, "s")}


class ControlGroups(ABC):
    """A mechanism of the kernel's control groups.

    What is charged to a group is what its processes were the first to touch: file pages too (the model's file, libraries not in use elsewhere), which
    the kernel takes back before it kills. So ``memory_peak`` may stand at the limit without harm.

    Args:
        proc: where the kernel tells of processes and mounts. tree: how groups are made.
    """

    name: ClassVar[str]

    def __init__(self, proc: Path = Path("/proc"), tree: Tree | None = None) -> None:
        self.proc, self.tree = proc, tree or Tree()

    @abstractmethod
    def inside(self, limits: Limits) -> contextlib.AbstractContextManager[list[Path]]:
        """New groups with these limits, gone afterwards.

        Raises:
            OSError, LookupError: they cannot be had here.
        """

    @abstractmethod
    def seen(self, groups: Sequence[Path], limits: Limits, status: int) -> Seen:
        """What the groups of `inside` counted of a process that ended with this status."""

    def lacks(self, limits: Limits) -> str | None:
        try:
            with self.inside(limits):
                return None
        except OSError as error:
            return f"{error.filename or self.name}: {error.strerror or error}"
        except LookupError as error:
            return str(error.args[0])

    def run(self, command: Sequence[str], limits: Limits, *, environment: Mapping[str, str], log: Path, timeout: float) -> Seen:
        with self.inside(limits) as groups:
            joins = [str(folder / "cgroup.procs") for folder in groups]
            status = run_child(entering(command, limits, groups=joins), environment=environment, log=log, timeout=timeout)
            return self.seen(groups, limits, status)
