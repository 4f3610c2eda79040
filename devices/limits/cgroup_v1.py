"""Control groups of version 1: one tree a controller, for root (Documentation/admin-guide/cgroup-v1 of the kernel)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.devices.limits.groups import PERIOD, ControlGroups, counters, group, killed_for_memory, mounts, quota_us, throttling
from edge.devices.limits.mechanism import Limits, Seen

#: Share of its limit up to which a group's memory must have come to be called full: memory is charged in steps. (``memory.failcnt``, which would
#: tell, stays 0 on Linux 6.18.)
FULL = 0.9


class CgroupV1(ControlGroups):
    """Groups directly under each controller's mount, where the next run finds what a killed one left."""

    name = "cgroup v1"

    @contextlib.contextmanager
    def inside(self, limits: Limits) -> Iterator[list[Path]]:
        with contextlib.ExitStack() as stack:
            groups = []
            if limits.memory is not None:
                groups.append(stack.enter_context(group(self._mount("memory"), self.tree)))
                _limit_memory(groups[-1], limits.memory)
            if limits.quota is not None:
                groups.append(stack.enter_context(group(self._mount("cpu"), self.tree)))
                (groups[-1] / "cpu.cfs_period_us").write_text(str(PERIOD))
                (groups[-1] / "cpu.cfs_quota_us").write_text(str(quota_us(limits.quota)))
            yield groups

    def seen(self, groups: Sequence[Path], limits: Limits, status: int) -> Seen:
        figures: dict[str, tuple[float, str]] = {}
        refused = None
        if limits.memory is not None:
            folder = groups[0]
            kills, peak = counters(folder / "memory.oom_control")["oom_kill"], int((folder / "memory.max_usage_in_bytes").read_text())
            figures |= {"memory_peak": (peak, "B"), "oom_kills": (kills, "count")}
            refused = killed_for_memory(kills, peak >= FULL * limits.memory)
        if limits.quota is not None:
            cpu = counters(groups[-1] / "cpu.stat")
            figures |= throttling(cpu, cpu["throttled_time"] / 1e9)
        return Seen(status, refused, figures)

    def _mount(self, controller: str) -> Path:
        for mount in mounts(self.proc):
            if mount.kind == "cgroup" and controller in mount.options:
                return mount.folder
        raise LookupError(f"the {controller} controller of version 1 is not mounted")


def _limit_memory(folder: Path, limit: int) -> None:
    (folder / "memory.limit_in_bytes").write_text(str(limit))
    with_swap = folder / "memory.memsw.limit_in_bytes"
    if with_swap.exists():
        with_swap.write_text(str(limit))
    else:  # the kernel does not account for swap
        (folder / "memory.swappiness").write_text("0")
