"""A device of a test's own: another folder, which the worker does not leave."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.children import run_child
from edge.devices.local import worker_command, worker_environment
from edge.devices.target import LOG, Ending, Job
from edge.environments import cpu_flags, machine_arch
from edge.vocabulary import Format


@dataclass
class FakeTarget:
    """A target in a folder: what is pushed is copied there, the worker runs there, and what it wrote is copied back.

    Attributes:
        ending: how every run is said to have ended, where it is not as it did.
        jobs: what was run.
    """

    root: Path
    ending: Ending | None = None
    name: str = "fake"
    device: str = "fake-device"
    arch: str = field(default_factory=machine_arch)
    flags: frozenset[str] = field(default_factory=cpu_flags)
    emulated: bool = False
    here: bool = True
    settings: dict[str, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    def lacks(self, format: Format) -> str | None:
        return "no Paddle Lite was ever built for a folder" if format is Format.PADDLE_LITE else None

    def push(self, path: Path) -> str:
        there = self.root.joinpath("files", *path.absolute().parts[1:])
        if path.is_dir():
            shutil.copytree(path, there, dirs_exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)
        return str(there)

    def run(self, job: Job) -> Ending:
        self.jobs.append(job)
        there = self.root / f"job_{len(self.jobs)}"
        there.mkdir()
        far = replace(job, folder=there)
        status = run_child(worker_command(far), environment=worker_environment(far), log=there / LOG, timeout=job.timeout)
        shutil.copytree(there, job.folder, dirs_exist_ok=True)
        return self.ending or Ending(status)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
