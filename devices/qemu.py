"""A processor emulated by qemu in user mode: what it computes, its kernels and its instructions are the device's; its times mean nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.children import run_child
from edge.devices import emulation
from edge.devices.local import worker_command, worker_environment
from edge.devices.profile import Profile
from edge.devices.target import LOG, Ending, Job
from edge.errors import Unavailable, Unsupported
from edge.vocabulary import Format

#: As `platform.machine` calls them.
MACHINES = {"arm": "aarch64", "x86": "x86_64"}
#: Where the counting plugin writes, in the job's folder.
COUNTS = "counts.txt"


def announce(sentence: str) -> None:
    sys.stderr.write(f"qemu: {sentence}\n")


class QemuTarget:
    """The profile's processor. An aarch64 one runs the Python of a small Debian, an x86-64 one that of this machine.

    Args:
        say: called with a sentence before something that takes a while, see `edge.devices.emulation`.

    Raises:
        Unsupported: the profile's processor cannot be emulated.
    """

    name = "qemu"
    emulated, here = True, False

    def __init__(self, profile: Profile, say: emulation.Say = announce) -> None:
        self.device, self.arch, self.flags = profile.name, profile.arch, frozenset(profile.clusters[0].isa)
        if profile.qemu_cpu is None:
            raise Unsupported(f"{profile.name} names no processor that qemu emulates", hint="give its profile a qemu_cpu, or use another target")
        if profile.arch == "arm" and "asimd" not in self.flags:
            raise Unsupported(f"{profile.name} is a 32-bit ARM, for which no runtime has a Python wheel", hint="choose a 64-bit device: edge devices")
        self._cpu, self._say = profile.qemu_cpu, say
        self.settings: Mapping[str, Any] = {"processor": profile.qemu_cpu}

    def lacks(self, format: Format) -> str | None:
        if self.arch == "arm" and format is Format.PADDLE_LITE:
            return "paddlelite has no aarch64 wheel; a board that has a paddlelite built for it runs the artifact, over ssh"
        return None

    def push(self, path: Path) -> str:
        return str(path.absolute())

    def run(self, job: Job) -> Ending:
        """A task that counts runs with the plugin."""
        if reason := self.lacks(job.format):
            raise Unavailable(reason)
        machine, say = MACHINES[self.arch], self._say
        python, *arguments = worker_command(job)
        environment = {**worker_environment(job), **emulation.emulator_environment(), "EDGE_COUNTS": str(job.folder / COUNTS)}
        if self.arch == "arm":
            python, environment["PYTHONPATH"] = str(emulation.guest_python(machine, say)), str(emulation.wheels(job.format, say))
        command = [*emulation.emulator(machine, say), "-L", str(emulation.processor_root(machine, self._cpu, say))]
        if job.spec["task"] == "count":
            command += emulation.counting_plugin(say)
        command += ["-cpu", self._cpu, python, *arguments]
        return Ending(run_child(command, environment=environment, log=job.folder / LOG, timeout=job.timeout))

    def close(self) -> None:
        pass
