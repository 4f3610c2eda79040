"""A folder as one file, the same bytes for the same content; and back, with nothing believed that the file says."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, NoReturn, cast

import zstandard

from edge.artifact import MODEL_NAME
from edge.errors import BadInput
from edge.files import inside, naming, new_folder

SUFFIXES = (".tar.zst", ".tar.gz")
#: What an archive may unpack to, in bytes and in entries.
MAX_BYTES, MAX_ENTRIES = 8 << 30, 20_000
#: What a header beside those of files and folders may hold, in bytes; and how deep a file may lie.
MAX_EXTRA, MAX_DEPTH = 1 << 16, 32
#: Level of the compressors, and the largest window that a stranger's file may ask for, in bytes.
ZSTD_LEVEL, GZIP_LEVEL, MAX_WINDOW = 19, 9, 1 << 27
#: What a damaged archive raises.
_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, MemoryError, zlib.error, zstandard.ZstdError)
#: What a file system says to names that no folder of files can have had.
_OF_NAMES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL)
ZSTD_MAGIC, GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


def write_archive(folder: Path, out: Path) -> None:
    """The folder, under its own name, as ``out`` (.tar.zst or .tar.gz), which appears when it is whole.

    Names are sorted, times, owners and modes are always the same (see reproducible-builds.org, "Archive metadata").

    Raises:
        BadInput: another suffix.
    """
    bundle_name(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        part = Path(file.name)
        try:
            with _compressing(cast(BinaryIO, file), out) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for path in [folder, *sorted(folder.rglob("*"))]:
                    add(archive, path, f"{folder.name}/{path.relative_to(folder)}" if path != folder else folder.name)
            file.flush()
            os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(out)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise


def bundle_name(out: Path) -> str:
    """The name of a bundle by that of its file: ``camera`` of ``camera.bundle.tar.zst``.

    Raises:
        BadInput: another suffix, or a name that is no plain one.
    """
    if not out.name.endswith(SUFFIXES):
        raise BadInput(f"{out}: a bundle's name ends in {' or '.join(SUFFIXES)}", hint=f"--out {out.name.split('.')[0] or 'camera'}.bundle.tar.zst")
    name = out.name.removesuffix(".gz").removesuffix(".zst").removesuffix(".tar").removesuffix(".bundle")
    if not re.fullmatch(MODEL_NAME, name) or len(name) > 100:
        raise BadInput(f"{out}: {name!r} is no name of a bundle: letters, digits, dots and dashes", hint="--out camera.bundle.tar.zst")
    return name


def add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """With the same time, owner and mode whatever the file has."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime = (0o755, 0) if path.is_dir() else (0o644, 0)
    if path.is_dir():
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        return
    entry.size = path.stat().st_size
    with path.open("rb") as file:
        archive.addfile(entry, file)


@contextlib.contextmanager
def _compressing(file: BinaryIO, out: Path) -> Iterator[BinaryIO]:
    if out.name.endswith(".tar.gz"):
        with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as packed:
            yield cast(BinaryIO, packed)
    else:
        with zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(file, closefd=False) as stream:
            yield cast(BinaryIO, stream)


class _Entry(tarfile.TarInfo):
    """An entry whose extended headers, which tarfile reads into memory, are small; and no sparse file, whose map of holes has no bound."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):  # else it is the end, which tarfile would see here too
                raise tarfile.ReadError(f"an entry in it has no readable header: {error}") from None
            raise
        if found.size < 0 or (found.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and found.size > MAX_EXTRA):
            raise tarfile.ReadError(f"an entry in it has a header of {found.size} bytes")
        return found

    def _sparse(self, *_: object) -> NoReturn:
        raise tarfile.ReadError("it holds a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _sparse


def unpack_archive(path: Path, folder: Path, content: bytes | None = None) -> Path:
    """Unpack a stranger's archive into ``folder``, which is made and appears when all is there; returns the one folder that it holds.

    Only files and folders, with plain relative names of which none comes twice, are taken.

    Args:
        content: what was read of the file already, and verified: it may be another by now.

    Raises:
        BadInput: anything else, a damaged archive, or one that unpacks to too much.
    """
    with naming(folder.parent), new_folder(folder) as scratch:
        try:
            with (
                path.open("rb") if content is None else io.BytesIO(content) as file,
                _decompressing(path, file) as stream,
                tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry) as archive,
            ):
                _unpack(path, archive, scratch)
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file", hint="make one with: edge pack ARTIFACT... --device NAME --out FILE") from None
        except _ERRORS as error:
            if isinstance(error, OSError) and error.errno not in (None, *_OF_NAMES):
                raise
            said = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise BadInput(f"{path}: not a readable bundle: {said}", hint="copy it again") from error
        found = list(scratch.iterdir())
        if len(found) != 1 or not found[0].is_dir():
            raise BadInput(f"{path}: it holds {len(found)} entries at its top, a bundle is one folder")
        name = found[0].name
    return folder / name


def _unpack(path: Path, archive: tarfile.TarFile, scratch: Path) -> None:
    names: set[str] = set()
    left = MAX_BYTES
    for entry in archive:
        name = entry.name.removesuffix("/")
        inside(path, name)  # names the archive; a link, which it looks for too, is never unpacked
        target = scratch / name
        # names that differ in case are one file on some systems
        if name.casefold() in names:
            raise BadInput(f"{path}: {name!r} stands in it twice")
        names.add(name.casefold())
        if entry.size < 0 or (entry.isdir() and entry.size) or name.count("/") >= MAX_DEPTH:
            raise BadInput(f"{path}: {name[:200]!r} has an impossible size, or lies too deep")
        left -= entry.size
        if left < 0 or len(names) > MAX_ENTRIES:
            raise BadInput(f"{path}: it unpacks to more than {MAX_BYTES >> 30} GiB, or to more than {MAX_ENTRIES:,} files")
        if entry.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif entry.isreg():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                shutil.copyfileobj(cast(IO[bytes], archive.extractfile(entry)), out, 1 << 20)
        else:
            raise BadInput(
                f"{path}: {name!r} is neither a file nor a folder", hint="a bundle holds no links and no devices; it was not made by edge pack"
            )
    # to the end, where the checksum of the whole stands; after an archive come zeros
    while block := cast(IO[bytes], archive.fileobj).read(1 << 20):
        left -= len(block)
        if left < 0 or block.strip(b"\0"):
            raise BadInput(f"{path}: something follows the archive in it", hint="copy it again")


@contextlib.contextmanager
def _decompressing(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    magic = file.read(4)
    file.seek(0)
    if magic == ZSTD_MAGIC:
        _check_frame(file)
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(file, closefd=False) as stream:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream)))
    elif magic[:2] == GZIP_MAGIC:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            yield cast(BinaryIO, packed)
    else:
        raise BadInput(f"{path}: neither zstd nor gzip, so no bundle", hint="bundles are made by: edge pack ARTIFACT... --device NAME --out FILE")


def _check_frame(file: BinaryIO) -> None:
    """One frame (RFC 8878, section 3.1.1) is all of the file: the library reads a cut one without a word, and does not look at what follows.

    Raises:
        EOFError, zstandard.ZstdError: it is cut, or something follows.
    """
    head = file.read(18)  # of the longest header
    file.seek(zstandard.frame_header_size(head))
    last = False
    while not last:
        block = file.read(3)
        if len(block) < 3:
            raise EOFError("it is cut")
        header = int.from_bytes(block, "little")
        last = bool(header & 1)
        file.seek(1 if header >> 1 & 3 == 1 else header >> 3, os.SEEK_CUR)  # one byte that is repeated, or as many as are said
    end = file.tell() + (4 if zstandard.get_frame_parameters(head).has_checksum else 0)
    size = file.seek(0, os.SEEK_END)
    if size != end:
        raise zstandard.ZstdError("it is cut" if size < end else "something follows the archive in it")
    file.seek(0)
