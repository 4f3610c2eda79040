"""The machine the tool runs on."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.children import child_environment, run_child
from edge.devices.profile import Profile
from edge.devices.target import LOG, RESULT, SPEC, Ending, Job
from edge.environments import cpu_flags, lite_python, machine_arch, machine_names
from edge.vocabulary import Format


class LocalTarget:
    """``profile``: of the device that this machine may be. Its name stands in the results where the machine is recognised as one."""

    name = "local"
    emulated, here = False, True

    def __init__(self, profile: Profile | None = None) -> None:
        here = profile is not None and profile.is_named_in(machine_names())
        self.device = profile.name if profile and here else platform.node() or "local"
        self.arch = machine_arch()
        self.flags = cpu_flags()
        self.settings: Mapping[str, Any] = {}

    def lacks(self, format: Format) -> str | None:
        return None

    def push(self, path: Path) -> str:
        return str(path.absolute())

    def run(self, job: Job) -> Ending:
        return Ending(run_child(worker_command(job), environment=worker_environment(job), log=job.folder / LOG, timeout=job.timeout))

    def close(self) -> None:
        pass


def worker_command(job: Job, python: Path | None = None) -> list[str]:
    """The spec is written into the job's folder; the command that starts the worker on it.

    Args:
        python: the interpreter; by default this machine's for the format.

    Raises:
        Unavailable: there is no interpreter for the format.
    """
    if python is None:
        python = lite_python() if job.format is Format.PADDLE_LITE else Path(sys.executable)
    spec = job.folder / SPEC
    spec.write_text(json.dumps(job.spec))
    return [str(python), job.worker, str(spec), str(job.folder / RESULT)]


def worker_environment(job: Job) -> dict[str, str]:
    return child_environment(worker_variables(job))


def worker_variables(job: Job) -> dict[str, str]:
    """What a worker's environment has in addition, anywhere. Hash seeds are fixed, so that runs execute the same instructions."""
    threads = str(job.spec["threads"])
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
