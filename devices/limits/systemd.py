"""A scope of systemd, for a user whose session it manages, or for root: systemd-run(1)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.children import cause_of_death, child_environment, last_words, running, wait
from edge.devices.limits.cgroup_v2 import mount_of, seen_by
from edge.devices.limits.groups import PREFIX
from edge.devices.limits.mechanism import Limits, Seen, entering

#: Where the user's own systemd is found.
BUS = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


class SystemdScope:
    """systemd-run puts itself into a new scope and becomes the command. A process that does nothing stays in the scope until its counters are read:
    systemd removes an empty one. The scope is delegated, so that systemd does not stop it when the kernel kills in it.

    Args:
        proc: where the kernel tells of mounts. run_command, control_command: systemd-run and systemctl.
    """

    name = "systemd-run"

    def __init__(self, proc: Path = Path("/proc"), run_command: str = "systemd-run", control_command: str = "systemctl") -> None:
        self.proc, self.run_command, self.control_command = proc, run_command, control_command
        self.manager = "--system" if os.geteuid() == 0 else "--user"

    def lacks(self, limits: Limits) -> str | None:
        with tempfile.TemporaryDirectory(prefix="edge-scope.") as scratch:
            log = Path(scratch, "log.txt")
            try:
                mount_of(self.proc)
                seen = self.run(["true"], limits, environment=child_environment(), log=log, timeout=30)
            except FileNotFoundError as error:
                return f"{error.filename} is not installed"
            except (OSError, subprocess.SubprocessError, LookupError) as error:
                return str(error)
            if seen.status:
                return f"{cause_of_death(seen.status)}: {last_words(log, lines=1)}"
            wanted = {"oom_kills": limits.memory, "periods": limits.quota}
            refused = [name for name, limit in wanted.items() if limit is not None and name not in seen.figures]
            return f"systemd {self.manager} gives a scope no counter of {' and '.join(refused)} here" if refused else None

    def run(self, command: Sequence[str], limits: Limits, *, environment: Mapping[str, str], log: Path, timeout: float) -> Seen:
        unit = f"{PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:8]}.scope"
        bus = {name: os.environ[name] for name in BUS if name in os.environ}
        waits, stays = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, stays)
            try:
                scoped = self._scoped(unit, entering(command, limits, hold=waits), limits)
                process = stack.enter_context(running(scoped, environment={**environment, **bus}, log=log, pass_fds=(waits,)))
            finally:
                os.close(waits)
            status = wait(process, timeout)
            folder = self._folder(unit, bus)
            return seen_by(folder, limits, status) if folder else Seen(status)

    def _scoped(self, unit: str, command: Sequence[str], limits: Limits) -> list[str]:
        properties = ["Delegate=yes"]
        if limits.memory is not None:
            properties += [f"MemoryMax={limits.memory}", "MemorySwapMax=0"]
        if limits.quota is not None:
            properties.append(f"CPUQuota={round(100 * limits.quota, 2):g}%")  # systemd reads two decimals
        options = [part for text in properties for part in ("-p", text)]
        return [self.run_command, self.manager, "--scope", "--quiet", "--collect", f"--unit={unit}", *options, "--", *command]

    def _folder(self, unit: str, bus: Mapping[str, str]) -> Path | None:
        """The scope's group; None where it was never made."""
        asking = [self.control_command, self.manager, "show", "--property=ControlGroup", "--value", unit]
        group = subprocess.run(asking, env=child_environment(bus), capture_output=True, text=True, timeout=30).stdout.strip()
        return mount_of(self.proc) / group.lstrip("/") if group else None
