"""Files that appear whole or not at all, and paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edge.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the file system that names no file, or the one that is written beside this one first, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(str(error.filename)).name.startswith(f".{path.name}."):
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` beside ``path`` and rename it into place; what stood there stays until the new file is complete."""
    payload = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def check_place(out: Path, instead: str) -> None:
    """Find out before the work that a file can be written there, not after it.

    Args:
        instead: what to type, for the hint.

    Raises:
        BadInput: it cannot.
    """
    if out.exists() and not out.is_file():
        raise BadInput(f"{out}: {'a folder' if out.is_dir() else 'no file'} has this name", hint=f"name another file: {instead}")
    _probe(out, out.parent, f"name another file: {instead}")


def check_folder(folder: Path, instead: str) -> None:
    """As `check_place`, of a folder to write into that may not be there yet."""
    _probe(folder, folder, f"name another folder: {instead}")


def _probe(named: Path, folder: Path, hint: str) -> None:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise BadInput(f"{named}: cannot be written: {error.strerror}", hint=hint) from None


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``final`` and move it into place when the block succeeds.

    A folder already at ``final`` is replaced only then; on any failure it is untouched and nothing is left behind.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        yield scratch
        scratch.chmod(0o755)
        if final.exists():
            retired = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.old."))
            final.replace(retired / "was")
            scratch.replace(final)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            scratch.replace(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_limited(path: Path, limit: int, what: str) -> bytes:
    """The bytes of an untrusted file that is neither larger than ``limit`` bytes nor empty.

    Args:
        what: the file's kind, for the sentence.

    Raises:
        BadInput: missing, unreadable, too large or empty.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise BadInput(f"{path}: {size} bytes, larger than the {_amount(limit)} that a {what} may have")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            # a device file has no size
            raise BadInput(f"{path}: larger than the {_amount(limit)} that a {what} may have")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise BadInput(f"{path}: the file is empty", hint="copy it again, or save it again")
    return data


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that nobody changes any more; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _amount(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size} bytes"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def inside(root: Path, relative: str) -> Path:
    """Resolve a path taken from an untrusted file, or refuse it when it could leave ``root``.

    Raises:
        BadInput: the path is absolute, climbs with ``..``, is not in plain form, or goes through a link.
    """
    pure = PurePosixPath(relative)
    plain = "\\" not in relative and "\0" not in relative and str(pure) == relative
    if not plain or pure.is_absolute() or not pure.parts or ".." in pure.parts:
        raise BadInput(f"{root}: the path {relative!r} is not a plain relative path")
    path = root
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise BadInput(f"{root}: {relative!r} goes through a symbolic link")
    return path


def read_npz(path: Path, limit: int, what: str = "npz file") -> dict[str, NDArray[Any]]:
    """The arrays of an untrusted npz file, by name. No pickle is read; nothing is unpacked before the zip directory's sizes are added up.

    Args:
        limit: what the file may unpack to, in bytes.
        what: the file's kind, for the sentence.

    Raises:
        BadInput: missing, damaged, too large, or with an array of Python objects.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            # np.load takes other kinds too, and reads those whole
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not a zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if sum(info.file_size for info in archive.zip.infolist()) > limit:
                    raise BadInput(f"{path}: unpacks to more than {limit >> 20} MiB")
                arrays = {name: archive[name] for name in archive.files}
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path}: not a readable {what}: {error}") from error
    strays = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strays:
        raise BadInput(f"{path}: not a readable {what}: {strays[0]!r} in it is not an array")
    return arrays
