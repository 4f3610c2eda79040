#!/usr/bin/env python3
"""Gets Fashion-MNIST (70,000 images) into .cache/fashion-mnist from the Debian package dataset-fashion-mnist. Standard library only.

    python3 scripts/fetch_fashion.py [--force]

Needs apt-get and dpkg-deb, not root: nothing is installed and the system's package lists stay as they are. A folder of your own wins:
set EDGE_FASHION_MNIST to where the four idx.gz files lie. Where the package cannot be had this says so and succeeds: only what uses
this data set will then stop, and say the same.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
TARGET = ROOT / ".cache" / "fashion-mnist"
#: An apt-get that takes longer is given up, in seconds.
PATIENCE = 300


def main(arguments: list[str]) -> int:
    if os.environ.get("EDGE_FASHION_MNIST"):
        print(f"fashion-mnist: using EDGE_FASHION_MNIST={os.environ['EDGE_FASHION_MNIST']}")
        return 0
    files = pinned_files()
    if "--force" not in arguments and any(all_intact(folder, files) for folder in (TARGET, INSTALLED)):
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
        wrong = [name for name, digest in files.items() if not intact(fetched / name, digest)]
        if wrong:
            return give_up(f"{wrong[0]} has not the pinned sha256", "python3 scripts/fetch_fashion.py --force")
        shutil.rmtree(TARGET, ignore_errors=True)
        fetched.rename(TARGET)
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


def run(command: list[str], folder: Path) -> str | None:
    """None when it worked, or the end of what it said."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else " ".join(done.stderr.split())[-200:] or f"exit status {done.returncode}"


def pinned_files() -> dict[str, str]:
    """The names and checksums that the loader pins, read without importing the tool (set-up may not be done yet)."""
    tree = ast.parse((ROOT / "edge" / "datasets" / "fashion_mnist.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FILES":
            value: dict[str, str] = ast.literal_eval(node.value)
            return value
    raise SystemExit("fashion-mnist: edge/datasets/fashion_mnist.py pins no FILES")


def copy_files(source: Path, names: dict[str, str], target: Path) -> None:
    """Only the named regular files."""
    target.mkdir()
    for name in names:
        if (source / name).is_file() and not (source / name).is_symlink():
            shutil.copyfile(source / name, target / name)


def all_intact(folder: Path, files: dict[str, str]) -> bool:
    return all(intact(folder / name, digest) for name, digest in files.items())


def intact(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def give_up(cause: str, command: str) -> int:
    print(f"fashion-mnist: {cause}; the data set 'fashion_mnist' is not there. To mend it: {command}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
