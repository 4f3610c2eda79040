"""Control groups of version 2: one tree, for root or where a part of it was delegated (Documentation/admin-guide/cgroup-v2.rst of the kernel)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.devices.limits.groups import PERIOD, ControlGroups, counters, group, killed_for_memory, mounts, quota_us, throttling
from edge.devices.limits.mechanism import Limits, Seen


class CgroupV2(ControlGroups):
    """A group in the topmost place where this process may make one that has the controllers.

    Where a place does not give its controllers to groups below it, it is asked to, and goes on doing so: the next run needs it again.
    """

    name = "cgroup v2"

    @contextlib.contextmanager
    def inside(self, limits: Limits) -> Iterator[list[Path]]:
        needed = [name for name, limit in (("memory", limits.memory), ("cpu", limits.quota)) if limit is not None]
        if not needed:
            yield []
            return
        with group(self._place(needed), self.tree) as folder:
            if limits.memory is not None:
                (folder / "memory.max").write_text(str(limits.memory))
                if (folder / "memory.swap.max").exists():  # else the kernel has no swap
                    (folder / "memory.swap.max").write_text("0")
            if limits.quota is not None:
                (folder / "cpu.max").write_text(f"{quota_us(limits.quota)} {PERIOD}")
            yield [folder]

    def seen(self, groups: Sequence[Path], limits: Limits, status: int) -> Seen:
        return seen_by(groups[0], limits, status) if groups else Seen(status)

    def _place(self, needed: Sequence[str]) -> Path:
        mount = mount_of(self.proc)
        own = _own_group(self.proc)
        top_down = [mount.joinpath(*own[:depth]) for depth in range(len(own) + 1)]
        for place in top_down:
            if os.access(place, os.W_OK) and os.access(place / "cgroup.procs", os.W_OK) and _gives(place, needed):
                return place
        raise LookupError(f"no group from {top_down[0]} to {top_down[-1]} lets this process make one with {' and '.join(needed)}")


def seen_by(folder: Path, limits: Limits, status: int) -> Seen:
    """What a group counted of what is limited, as far as it has the controllers."""
    figures: dict[str, tuple[float, str]] = {}
    refused = None
    if limits.memory is not None and (folder / "memory.events").exists():
        events = counters(folder / "memory.events")
        refused = killed_for_memory(events["oom_kill"], events["oom"] > 0)
        figures["oom_kills"] = (events["oom_kill"], "count")
        if (folder / "memory.peak").exists():  # Linux 5.19 and newer
            figures["memory_peak"] = (int((folder / "memory.peak").read_text()), "B")
    if limits.quota is not None and (folder / "cpu.max").exists():
        cpu = counters(folder / "cpu.stat")
        figures |= throttling(cpu, cpu["throttled_usec"] / 1e6)
    return Seen(status, refused, figures)


def mount_of(proc: Path) -> Path:
    """Where version 2 is mounted.

    Raises:
        LookupError: it is not, or it has no memory controller: version 1 holds that.
    """
    for mount in mounts(proc):
        if mount.kind == "cgroup2":
            if "memory" in _words(mount.folder / "cgroup.controllers"):
                return mount.folder
            raise LookupError(f"{mount.folder} has no memory controller")
    raise LookupError("version 2 is not mounted")


def _own_group(proc: Path) -> tuple[str, ...]:
    """The path of this process's group below the mount."""
    lines = (proc / "self/cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return Path(own).parts[1:] if ".." not in own else ()


def _gives(place: Path, needed: Sequence[str]) -> bool:
    """Whether groups below get these controllers. A group that has processes of its own cannot give them, the root excepted."""
    if not set(needed) <= _words(place / "cgroup.controllers"):
        return False
    given = _words(place / "cgroup.subtree_control")
    missing = [name for name in needed if name not in given]
    try:
        if missing:
            (place / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in missing))
        return True
    except OSError:
        return False


def _words(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except OSError:
        return set()
