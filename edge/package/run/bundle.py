"""The bundle that this package lies in: its manifest, its checksums, and its model files, packed or plain."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import decode

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MANIFEST, SUMS = "bundle.json", "SHA256SUMS"
#: Where wheels are unpacked to.
SITE = os.path.join(ROOT, "site")
MANIFEST_VERSION = 1
#: Read at a time, in bytes.
BLOCK = 1 << 20


class Refused(Exception):
    """What cannot be done, in one sentence; and what to do next."""

    def __init__(self, sentence: str, next_step: str = "") -> None:
        super().__init__(sentence)
        self.next_step = next_step


def read_manifest() -> Dict[str, Any]:
    """What is said of the bundle, held to its checksum before anything in it is believed.

    Raises:
        Refused: it is not there, damaged, or names what lies outside the bundle.
    """
    path = os.path.join(ROOT, MANIFEST)
    try:
        if dict(sums()).get(MANIFEST) != sha256_of(path):
            raise Refused("%s is not what was packed: its sha256 is another than in %s" % (path, SUMS), "copy the bundle again")
        with open(path, encoding="utf-8") as file:
            found: Dict[str, Any] = json.load(file)
        if found["schema_version"] != MANIFEST_VERSION:
            raise Refused("%s has version %r, and this package reads %d" % (path, found["schema_version"], MANIFEST_VERSION), "copy the bundle again")
        for artifact in found["artifacts"]:
            paths = [entry[each] for entry in artifact["files"] for each in ("path", "stored")]
            _check_inside(MANIFEST, [artifact["name"], artifact["folder"], artifact["vectors"], *paths])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused("%s cannot be read: %s" % (path, error), "copy the bundle again") from None
    return found


def _check_inside(listing: str, names: List[str]) -> None:
    """What a bundle names is read, and by ``install`` written under the same name: a stranger's may lead anywhere."""
    for name in names:
        if os.path.isabs(name) or ".." in name.split("/"):
            raise Refused("%s names %r, which lies outside the bundle" % (listing, name), "take another bundle: edge pack makes none like this")


def artifact_named(manifest: Dict[str, Any], name: Optional[str]) -> Dict[str, Any]:
    """The artifact of a name, or the one that the desk has found best.

    Raises:
        Refused: there is none.
    """
    wanted = name or manifest["best"]
    found: List[Dict[str, Any]] = [artifact for artifact in manifest["artifacts"] if artifact["name"] == wanted]
    if not found:
        raise Refused(
            "there is no artifact %s in this bundle" % wanted, "name one of: %s" % ", ".join(each["name"] for each in manifest["artifacts"])
        )
    return found[0]


def sums() -> List[Tuple[str, str]]:
    """(path, sha256) of every file but this list itself.

    Raises:
        Refused: the list is not there, damaged, or names what lies outside the bundle.
    """
    path = os.path.join(ROOT, SUMS)
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\n").split("  ", 1) for line in file]
        found = [(name, digest) for digest, name in lines]
    except (OSError, ValueError) as error:
        raise Refused("%s cannot be read: %s" % (path, error), "copy the bundle again") from None
    _check_inside(SUMS, [name for name, _ in found])
    return found


def check_outside(path: str, next_step: str) -> None:
    """What is written into the bundle's folder would be damage: see `strays`.

    Raises:
        Refused: the path leads there, be it through a link.
    """
    root = os.path.realpath(ROOT)
    if os.path.commonpath([os.path.realpath(path), root]) == root:
        raise Refused("%s: a bundle's folder holds what was packed and nothing else" % path, next_step)


def strays(part: str = "") -> Iterator[str]:
    """A sentence for each link, which may lead anywhere, and each file that was not packed: Python may import it for another.

    Args:
        part: a folder of the bundle, as ``site/``: only it and what lies there.
    """
    listed = dict(sums())
    for folder, folders, names in os.walk(ROOT):
        for name in (*folders, *names):
            path = os.path.relpath(os.path.join(folder, name), ROOT).replace(os.sep, "/")
            if not (path + "/").startswith(part):
                continue
            if os.path.islink(os.path.join(folder, name)):
                yield "%s is a link; a bundle has none: take it out" % path
            elif name not in folders and path not in listed and path != SUMS:
                yield "%s is not in %s: it was not packed; take it out" % (path, SUMS)


def damage() -> Iterator[str]:
    """A sentence for each file that is missing, that is not what was packed, or that was not packed."""
    yield from strays()
    for name, digest in sums():
        path = os.path.join(ROOT, name)
        if os.path.islink(path):  # told already; what it leads to may have no end
            continue
        try:
            found = sha256_of(path)
        except OSError as error:
            yield "%s cannot be read: %s" % (name, error.strerror)
            continue
        if found != digest:
            yield "%s is not what was packed: its sha256 is another than in %s" % (name, SUMS)


def sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def plain(entry: Dict[str, Any], folder: str) -> bytes:
    """The bytes of a packed model file.

    Raises:
        Refused: it does not decode to what the artifact's manifest says.
    """
    path = os.path.join(folder, entry["stored"])
    try:
        with open(path, "rb") as file:
            data = decode.unpack_file(file.read())
    except (OSError, decode.Damaged) as error:
        raise Refused("%s cannot be decoded: %s" % (path, error), "copy the bundle again") from None
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Refused("%s decodes to another file than %s" % (path, entry["path"]), "copy the bundle again")
    return data


@contextlib.contextmanager
def model_files(artifact: Dict[str, Any]) -> Iterator[Dict[str, str]]:
    """Role -> a path that a runtime can open, also in a child that gets the descriptors. Packed files are decoded into memory: nothing is written.

    Raises:
        Refused: this system has no files in memory.
    """
    folder, opened, paths = os.path.join(ROOT, artifact["folder"]), [], {}
    try:
        for entry in artifact["files"]:
            if entry["stored"] == entry["path"]:
                paths[entry["role"]] = os.path.join(folder, entry["path"])
            else:
                opened.append(_in_memory(plain(entry, folder)))
                paths[entry["role"]] = "/proc/self/fd/%d" % opened[-1]
        yield paths
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _in_memory(data: bytes) -> int:
    if not hasattr(os, "memfd_create"):
        raise Refused("this system has no files in memory to decode the model into", "decode it into a folder: python3 -m run install DIR")
    descriptor = os.memfd_create("model")
    with open(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.set_inheritable(descriptor, True)
    return descriptor
