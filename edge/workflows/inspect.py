"""What a path on the desk holds: a bundle, packed or unpacked, or an artifact. Every file is held to its checksum; nothing is run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.artifact import Artifact, load_artifact
from edge.errors import BadInput
from edge.files import inside, read_limited, sha256_of
from edge.package.archive import unpack_archive
from edge.package.manifest import Bundle, read_bundle
from edge.package.run.bundle import MANIFEST, SUMS
from edge.package.signature import public_key, signature_path, verified

MAX_SUMS = 4 << 20


@dataclass(frozen=True)
class Found:
    """One of the two; ``bytes`` of a bundle's file."""

    bundle: Bundle | None = None
    artifact: Artifact | None = None
    bytes: int | None = None


def inspect_path(path: Path, key: Path | None = None) -> Found:
    """
    Raises:
        BadInput: neither a bundle nor an artifact, or a damaged one. CheckFailed: the signature is not by the key.
    """
    if path.is_dir():
        if key:
            raise BadInput(f"{path}: only the bundle's file has a signature", hint="name the .tar.zst or .tar.gz file")
        return Found(bundle=checked_bundle(path)) if (path / MANIFEST).is_file() else Found(artifact=load_artifact(path))
    with unpacked(path, key) as folder:
        return Found(bundle=checked_bundle(folder), bytes=path.stat().st_size)


@contextlib.contextmanager
def unpacked(path: Path, key: Path | None) -> Iterator[Path]:
    """A bundle's folder, for as long as the block runs; the signature comes first.

    Raises:
        BadInput: no bundle, or an unsafe one. CheckFailed: the signature is not by the key.
    """
    if path.is_dir():
        raise BadInput(f"{path}: is a folder, and a bundle is an archive", hint="name the .tar.zst or .tar.gz file that edge pack has written")
    if not path.is_file():
        raise BadInput(f"{path}: no such file", hint="make a bundle with: edge pack ARTIFACT... --device NAME --out FILE")
    content = verified(path, public_key(key)) if key else None
    with tempfile.TemporaryDirectory(prefix="edge-bundle.") as scratch:
        folder = unpack_archive(path, Path(scratch, "unpacked"), content)
        try:
            yield folder
        except BadInput as error:
            # the folder is gone when this is read
            error.message = error.message.replace(f"{folder}/", f"{path}: ").replace(str(folder), str(path))
            raise


def unverified(path: Path, key: Path | None) -> str | None:
    """What there is to say where a signature lies beside a bundle and no key was named."""
    beside = signature_path(path)
    return None if key or not beside.is_file() else f"{beside} was not verified; name the key: --key KEY.pub.pem"


def checked_bundle(folder: Path) -> Bundle:
    """The manifest of a bundle's folder, every file of which is what its list of checksums says.

    Raises:
        BadInput: one is missing, or another.
    """
    text = read_limited(folder / SUMS, MAX_SUMS, "list of checksums").decode(errors="replace")
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    for name, digest in listed.items():
        path = inside(folder, name)
        if not path.is_file():
            raise BadInput(f"{folder}: {name!r} is listed in {SUMS}, and not there", hint="copy the bundle again")
        if sha256_of(path) != digest:
            raise BadInput(f"{folder}: {name!r} is not what was packed: its sha256 is another than in {SUMS}", hint="copy the bundle again")
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    if link := next((name for name, path in sorted(paths.items()) if path.is_symlink()), None):
        raise BadInput(f"{folder}: {link!r} is a link, and a bundle holds none", hint="it was put there after the bundle was packed")
    there = {name for name, path in paths.items() if path.is_file()}
    if stray := next(iter(sorted(there - {*listed, SUMS})), None):
        raise BadInput(f"{folder}: {stray!r} is not in {SUMS}", hint="it was put there after the bundle was packed")
    bundle = read_bundle(folder)
    if absent := next((name for name in bundle.named_files() if name not in listed), None):
        raise BadInput(f"{folder}: its manifest names {absent!r}, and that is not in {SUMS}", hint="it was not made by edge pack")
    return bundle
