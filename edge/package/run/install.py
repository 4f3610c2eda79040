"""``install DIR``: the bundle with its model files decoded and its wheels unpacked, ready to run; DIR appears when it is whole."""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from typing import Any, Dict, List

from .bundle import ROOT, SUMS, Refused, check_outside, damage, plain, sha256_of, sums
from .machine import machine

#: What a wheel may unpack to, in bytes.
MAX_WHEEL = 4 << 30


def install(manifest: Dict[str, Any], folder: str) -> List[str]:
    """Returns what there is to know: which wheels were left out.

    Raises:
        Refused: the folder is there, or would be inside the bundle, the bundle is damaged, or there is no room.
    """
    target = os.path.abspath(folder)
    if os.path.lexists(target):
        raise Refused("%s is there already" % target, "name a folder that is not there yet, or remove that one")
    check_outside(target, "name a folder beside it: python3 -m run install ../DIR")
    for problem in damage():
        raise Refused(problem, "copy the bundle again")
    home, scratch = os.path.dirname(target), ""
    try:
        os.makedirs(home, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".%s." % os.path.basename(target), dir=home)
        part = os.path.join(scratch, "part")
        os.makedirs(part)
        remarks = _fill(manifest, part)
        os.rename(part, target)
    except OSError as error:
        raise Refused("%s cannot be written: %s" % (target, error.strerror or error), "free some space, or name another folder") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return remarks


def _fill(manifest: Dict[str, Any], part: str) -> List[str]:
    packed = {
        os.path.join(artifact["folder"], entry["stored"]): (artifact, entry)
        for artifact in manifest["artifacts"]
        for entry in artifact["files"]
        if entry["stored"] != entry["path"]
    }
    for name, _ in sums():
        if name in packed:
            artifact, entry = packed[name]
            _write(os.path.join(part, artifact["folder"], entry["path"]), plain(entry, os.path.join(ROOT, artifact["folder"])))
        elif not name.startswith("wheels/"):
            with open(os.path.join(ROOT, name), "rb") as file:
                _write(os.path.join(part, name), file.read())
    remarks = _unpack_wheels(os.path.join(part, "site"))
    _write_manifest(manifest, part)
    _write_sums(part)
    return remarks


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _write_manifest(manifest: Dict[str, Any], part: str) -> None:
    artifacts = [{**each, "files": [{**entry, "stored": entry["path"]} for entry in each["files"]]} for each in manifest["artifacts"]]
    _write(os.path.join(part, "bundle.json"), json.dumps({**manifest, "artifacts": artifacts}, indent=1).encode())


def _write_sums(part: str) -> None:
    names = sorted(os.path.relpath(os.path.join(folder, name), part) for folder, _, files in os.walk(part) for name in files)
    lines = ["%s  %s\n" % (sha256_of(os.path.join(part, name)), name) for name in names]
    _write(os.path.join(part, SUMS), "".join(lines).encode())
    for folder, _, files in os.walk(part):  # on the disk before the folder gets its name
        for path in [folder, *(os.path.join(folder, name) for name in files)]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _unpack_wheels(site: str) -> List[str]:
    wheels, remarks = os.path.join(ROOT, "wheels"), []
    for name in sorted(os.listdir(wheels)) if os.path.isdir(wheels) else []:
        if not fits(name):
            remarks.append("%s is not for this Python and processor, and was left out" % name)
            continue
        try:
            with zipfile.ZipFile(os.path.join(wheels, name)) as archive:
                if sum(info.file_size for info in archive.infolist()) > MAX_WHEEL:
                    raise Refused("%s unpacks to more than %d MiB" % (name, MAX_WHEEL >> 20), "take it out of the bundle")
                archive.extractall(site)  # it leaves out what would climb out of the folder
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise Refused("%s cannot be unpacked: %s" % (name, error), "pack the bundle with another one") from None
    for library in glob.glob(os.path.join(glob.escape(site), "*.data", "*lib")):  # purelib and platlib (PEP 427)
        for folder, _, names in os.walk(library):
            for name in names:
                inside = os.path.relpath(os.path.join(folder, name), library)
                os.makedirs(os.path.dirname(os.path.join(site, inside)), exist_ok=True)
                os.replace(os.path.join(folder, name), os.path.join(site, inside))
    return remarks


def fits(wheel: str) -> bool:
    """By its name (PEP 427: name-version-python-abi-platform): for this Python, this processor and this C library."""
    parts = wheel[: -len(".whl")].split("-")
    if not wheel.endswith(".whl") or len(parts) < 5:
        return False
    pythons, abis, platforms = (part.split(".") for part in parts[-3:])
    mine = "cp%d%d" % sys.version_info[:2]
    exact = mine in pythons and bool({mine, "none"} & set(abis))
    right = exact or ("py3" in pythons and "none" in abis) or ("abi3" in abis and any(_older(python) for python in pythons))
    return right and any(name == "any" or _runs_here(name) for name in platforms)


def _older(python: str) -> bool:
    found = re.match(r"^cp3(\d+)$", python)
    return found is not None and int(found.group(1)) <= sys.version_info[1]


def _runs_here(name: str) -> bool:
    if not name.endswith("_" + machine()):
        return False
    libc = platform.libc_ver()[1] if platform.libc_ver()[0] == "glibc" else ""
    found = re.match(r"^manylinux_2_(\d+)_", name)
    if found:
        return bool(libc) and int(libc.split(".")[1]) >= int(found.group(1))
    return name.startswith(("manylinux", "linux")) if libc else name.startswith(("musllinux", "linux"))
