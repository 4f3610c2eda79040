"""A request is read, served or refused, and answered."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys

from edge.devices.board.bundles import bench, install, roll_back, versions
from edge.devices.board.jobs import run
from edge.devices.board.session import begin, leave, put
from edge.devices.board.state import Refused

#: Comes before the reply: what a login shell prints stands before it.
MARK = b"\0paddle-edge\n"
VERBS = {
    "begin": begin, "put": put, "run": run, "leave": leave,
    "versions": versions, "install": install, "roll-back": roll_back, "bench": bench,
}  # fmt: skip


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(MARK)
    sink.flush()
    request = json.loads(source.readline())
    try:
        reply, paths = VERBS[request["verb"]](request, source)
    except Refused as refusal:
        reply, paths = {"refused": refusal.args[0], "detail": refusal.args[1]}, []
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reply, paths = {"refused": "full", "detail": str(error)}, []
    reply["files"] = [[os.path.basename(path), os.path.getsize(path)] for path in paths]
    sink.write(json.dumps(reply).encode() + b"\n")
    for path in paths:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sink)
    sink.flush()
