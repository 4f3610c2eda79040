"""The README's story from the model to the device: every command in it is run, on a loopback board that has this machine's processor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.conftest import ROOT, Demo
from tests.devices.sshd import HERE, Sshd


def test_every_command_of_the_story_runs(board: Sshd, demo: Demo, profile: Path, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## From the model to the device")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    shutil.copyfile(demo.weights, tmp_path / "student.safetensors")
    Image.new("L", (28, 28), 255).save(tmp_path / "x.png")
    edge = f"{sys.executable} -m edge"
    # the board is this machine: the story's camera is one that has its processor, and the digits are those that every machine has
    changes = {
        "edge ": f"{edge} ",
        "ssh:pi@camera.local": board.name,
        "--device camera": f"--device {profile}",
        "--calibration mnist": "--calibration digits",
    }
    environment = {**os.environ, "PATH": f"{HERE}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for block in blocks:
        lines = [line.partition("  #")[0].rstrip() for line in block.splitlines()]
        text = "\n".join(lines)
        for old, new in changes.items():
            text = re.sub(rf"(^|(?<= )){re.escape(old)}", new, text, flags=re.MULTILINE)
        allowed = [f"{line} || test $? = 3" if " check " in line else line for line in text.splitlines()]  # UNKNOWN is a verdict too
        done = subprocess.run(["sh", "-ec", "\n".join(allowed)], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(blocks) == 2 and (tmp_path / "there.html").is_file() and (tmp_path / "by-hand.json").is_file()
