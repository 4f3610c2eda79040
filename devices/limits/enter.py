"""``python -I -S enter.py SETTINGS COMMAND...``: go inside the limits, then become the command, which so never runs outside of them.

SETTINGS is JSON: ``groups``, the cgroup.procs files to join; ``cpus`` to run on; ``data``, the limit of private memory (RLIMIT_DATA) in B; ``hold``,
a descriptor at whose end of file the process that holds the control group open goes away. Exit status 125: it could not go inside.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


def enter(settings: dict[str, Any]) -> None:
    for group in settings.get("groups", ()):
        with open(group, "w") as file:  # noqa: PTH123 pathlib would be charged to the group
            file.write("0")  # this process
    if settings.get("hold") is not None:
        _hold(settings["hold"])
    os.sched_setaffinity(0, settings["cpus"])
    if settings.get("data") is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = settings["data"] if hard == resource.RLIM_INFINITY else min(hard, settings["data"])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _hold(descriptor: int) -> None:
    """Leave a process in the control group that does nothing until the other end of the pipe is closed, by will or by death."""
    if os.fork() == 0:
        os.dup2(descriptor, 0)
        os.execvp("cat", ["cat"])  # noqa: S606, S607
    os.close(descriptor)


if __name__ == "__main__":
    try:
        enter(json.loads(sys.argv[1]))
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot go inside the limits: {error}\n")
        sys.exit(125)
