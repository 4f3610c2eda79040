#!/usr/bin/env python3
"""Gets Fashion-MNIST (70,000 images) into .cache/fashion-mnist from the Debian package dataset-fashion-mnist. Standard library only.

    python3 scripts/fetch_fashion.py [--force]

Needs apt-get and dpkg-deb, not root: nothing is installed and the system's package lists stay as they are. A folder of your own wins:
set EDGE_FASHION_MNIST to where the four idx.gz files lie. Where the package cannot be had this says so and succeeds: only what uses
this data set will then stop, and say the same.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from fetching import ROOT, pinned_files, put_in_place, run, wrong_files

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
TARGET = ROOT / ".cache" / "fashion-mnist"


def main(arguments: list[str]) -> int:
    if os.environ.get("EDGE_FASHION_MNIST"):
        print(f"fashion-mnist: using EDGE_FASHION_MNIST={os.environ['EDGE_FASHION_MNIST']}")
        return 0
    files = pinned_files("fashion_mnist")
    if "--force" not in arguments and any(not wrong_files(folder, files) for folder in (TARGET, INSTALLED)):
        return 0
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        return give_up(f"{missing[0]} is not here (this is no Debian)", "set EDGE_FASHION_MNIST to a folder with the four idx.gz files")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        scratch = Path(folder)
        print(f"fashion-mnist: fetching the Debian package {PACKAGE}", flush=True)
        cause = download(scratch)
        if cause:
            return give_up(cause, "python3 scripts/fetch_fashion.py")
        fetched = scratch / "fashion-mnist"
        copy_files(scratch / "package" / INSTALLED.relative_to("/"), files, fetched)
        if wrong := wrong_files(fetched, files):
            return give_up(f"{wrong[0]} has not the pinned sha256", "python3 scripts/fetch_fashion.py --force")
        put_in_place(fetched, TARGET)
    print(f"fashion-mnist: 70,000 images in {TARGET.relative_to(ROOT)}")
    return 0


def download(scratch: Path) -> str | None:
    """Unpack the package into ``scratch``/package; returns what went wrong, or None."""
    if run(["apt-get", "download", PACKAGE], scratch) is not None:
        # a fresh image has no package lists: fetch them into the scratch folder, which needs no root
        private = ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
        for part in ("lists/partial", "cache/archives/partial"):
            (scratch / part).mkdir(parents=True)
        for step in (["update"], ["download", PACKAGE]):
            failed = run(["apt-get", *private, *step], scratch)
            if failed is not None:
                return f"apt-get {' '.join(step)} failed: {failed}"
    archives = list(scratch.glob("*.deb"))
    if not archives:
        return f"apt-get download {PACKAGE} left no package"
    failed = run(["dpkg-deb", "-x", str(archives[0]), "package"], scratch)
    return None if failed is None else f"dpkg-deb could not unpack it: {failed}"


def copy_files(source: Path, names: dict[str, str], target: Path) -> None:
    """Only the named regular files."""
    target.mkdir()
    for name in names:
        if (source / name).is_file() and not (source / name).is_symlink():
            shutil.copyfile(source / name, target / name)


def give_up(cause: str, command: str) -> int:
    print(f"fashion-mnist: {cause}; the data set 'fashion_mnist' is not there. To mend it: {command}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
