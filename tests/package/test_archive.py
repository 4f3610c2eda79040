"""Archives: the same bytes for the same folder, and nothing believed that a stranger's says."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cli.main import main
from edge.errors import BadInput, CheckFailed
from edge.files import sha256_of
from edge.package import archive, signature
from edge.package.archive import unpack_archive, write_archive
from tests.conftest import run_edge


def entry(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def made(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for info, data in entries:
            out.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("../b/x")], "not a plain relative path"),
        ([entry("b/../../x")], "not a plain relative path"),
        ([entry("/etc/x")], "not a plain relative path"),
        ([entry("b/x\\y")], "not a plain relative path"),
        ([entry("b/x", kind=tarfile.SYMTYPE, link="/etc/passwd")], "neither a file nor a folder"),
        ([entry("b/x", kind=tarfile.LNKTYPE, link="b/y")], "neither a file nor a folder"),
        ([entry("b/x", kind=tarfile.CHRTYPE)], "neither a file nor a folder"),
        ([entry("b/x", kind=tarfile.FIFOTYPE)], "neither a file nor a folder"),
        ([entry("b/x"), entry("b/x")], "stands in it twice"),
        ([entry("b/x"), entry("b/X")], "stands in it twice"),
        ([entry("b/x"), entry("b/x/y")], "x.tar.gz: not a readable bundle: "),
        ([entry("b/" + "x" * 300)], "x.tar.gz: not a readable bundle: File name too long"),
        ([entry("b/x"), entry("c/x")], "2 entries at its top"),
        ([entry("x")], "a bundle is one folder"),
        ([], "0 entries at its top"),
    ],
)
def test_an_unsafe_archive_is_refused_and_leaves_nothing(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], said: str) -> None:
    path = made(tmp_path / "x.tar.gz", *entries)
    with pytest.raises(BadInput, match=said):
        unpack_archive(path, tmp_path / "inside" / "out")
    assert not (tmp_path / "inside" / "out").exists() and sorted(each.name for each in tmp_path.iterdir()) == ["inside", "x.tar.gz"]
    assert not list((tmp_path / "inside").iterdir())


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "x.tar.gz", entry("b/x", bytes(5 << 20)))
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    with pytest.raises(BadInput, match="it unpacks to more than"):
        unpack_archive(path, tmp_path / "out")
    many = made(tmp_path / "y.tar.gz", *(entry(f"b/{number}") for number in range(20)))
    monkeypatch.setattr(archive, "MAX_ENTRIES", 10)
    with pytest.raises(BadInput, match="more than 10 files"):
        unpack_archive(many, tmp_path / "out")


def test_a_header_that_lies_or_takes_all_memory_is_refused(tmp_path: Path) -> None:
    folder = entry("b", kind=tarfile.DIRTYPE)
    folder[0].size = 1 << 40
    deep = entry("/".join(["a"] * 100))
    for number, (entries, said) in enumerate((([folder], "impossible size"), ([deep], "lies too deep"))):
        path = tmp_path / f"{number}.tar.gz"
        with gzip.open(path, "wb") as out:
            for info, data in entries:
                out.write(info.tobuf(tarfile.GNU_FORMAT) + (data.ljust(512, b"\0") if info.isreg() else b""))
            out.write(bytes(1024))
        with pytest.raises(BadInput, match=said):
            unpack_archive(path, tmp_path / "out")
    for size, head in ((1 << 20, tarfile.XHDTYPE), (1 << 20, tarfile.GNUTYPE_LONGNAME), (-5, tarfile.REGTYPE)):
        info = tarfile.TarInfo("b/x")
        info.type, info.size = head, size
        with gzip.open(tmp_path / "head.tar.gz", "wb") as out:
            out.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(max(size, 0) + 1024))
        with pytest.raises(BadInput, match="a header of"):
            unpack_archive(tmp_path / "head.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_a_sparse_file_is_refused_before_its_map_is_read(tmp_path: Path, version: str) -> None:
    (tmp_path / "b").mkdir()
    with (tmp_path / "b" / "x").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * 5000)
    how = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    subprocess.run(["tar", "-S", *how, "-czf", tmp_path / "x.tar.gz", "-C", tmp_path, "b"], check=True)
    with pytest.raises(BadInput, match="it holds a sparse file"):
        unpack_archive(tmp_path / "x.tar.gz", tmp_path / "out")


def test_what_was_verified_is_unpacked(tmp_path: Path) -> None:
    path = made(tmp_path / "x.tar.gz", entry("b/x", b"verified"))
    content = path.read_bytes()
    made(path, entry("b/x", b"put there since"))
    assert (unpack_archive(path, tmp_path / "out", content) / "x").read_bytes() == b"verified"


def test_a_window_that_takes_all_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.zst").write_bytes(zstd_with_window())
    with pytest.raises(BadInput, match="not a readable bundle"):
        unpack_archive(tmp_path / "x.tar.zst", tmp_path / "out")


def zstd_with_window() -> bytes:
    """A frame whose head asks for a window of 2 GiB (RFC 8878, section 3.1.1.1.2), with an empty last block."""
    return archive.ZSTD_MAGIC + bytes([0x00, 21 << 3, 0x01, 0x00, 0x00])


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bytes])
@given(data=st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, compress: Callable[[bytes], bytes], data: bytes) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / "x.tar.gz").write_bytes(compress(data))
    with pytest.raises(BadInput):
        unpack_archive(folder / "x.tar.gz", folder / "out")


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_a_folder_comes_back_and_its_bytes_are_always_the_same(tmp_path: Path, suffix: str) -> None:
    def folder(parent: str, umask: int) -> Path:
        home = tmp_path / parent / "b"
        (home / "deep").mkdir(parents=True)
        (home / "deep" / "x").write_bytes(b"1" * 1000)
        (home / "y").write_bytes(b"")
        (home / "y").chmod(0o777 & ~umask)
        return home

    outs = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    write_archive(folder("p", 0o022), outs[0])
    write_archive(folder("q", 0o077), outs[1])
    assert outs[0].read_bytes() == outs[1].read_bytes()
    back = unpack_archive(outs[0], tmp_path / "back")
    assert {path.relative_to(back).as_posix(): path.read_bytes() for path in back.rglob("*") if path.is_file()} == {"deep/x": b"1" * 1000, "y": b""}
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(outs[0].read_bytes()[:-20])
    with pytest.raises(BadInput, match="not a readable bundle"):
        unpack_archive(cut, tmp_path / "no")


def flipped(data: bytes) -> bytes:
    """With another checksum in gzip's trailer."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


CHANGES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: data[:-4], "not a readable bundle: "),
    (lambda data: data + b"junk", "not a readable bundle: "),
    (lambda data: data + data, "something follows the archive in it"),
    (flipped, "not a readable bundle: CRC check failed"),
]


@pytest.mark.parametrize(
    ("suffix", "change", "said"),
    [(suffix, *change) for suffix in archive.SUFFIXES for change in CHANGES if suffix == ".tar.gz" or change[0] is not flipped],
)
def test_a_stream_is_read_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, change: Callable[[bytes], bytes], said: str
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"x")
    path = tmp_path / f"x{suffix}"
    write_archive(tmp_path / "b", path)
    path.write_bytes(change(path.read_bytes()))
    assert main(["inspect", str(path)]) == 2 and f"{path}: " in (err := capsys.readouterr().err) and said in err


def test_what_follows_the_end_is_no_part_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.decompress(made(tmp_path / "x.tar.gz", entry("b/x")).read_bytes())
    for tail, said in ((b"junk".ljust(512), "something follows the archive"), (bytes(2 << 20), "something follows the archive")):
        monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
        (tmp_path / "x.tar.gz").write_bytes(gzip.compress(whole + tail))
        with pytest.raises(BadInput, match=said):
            unpack_archive(tmp_path / "x.tar.gz", tmp_path / "out")
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(whole[:1024] + b"junk".ljust(512) + bytes(1024)))
    with pytest.raises(BadInput, match="an entry in it has no readable header"):
        unpack_archive(tmp_path / "x.tar.gz", tmp_path / "out")


def test_an_error_names_what_the_user_has_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(path: Path) -> str:
        assert main(["inspect", str(path)]) == 2
        return capsys.readouterr().err

    path = tmp_path / "x.tar.gz"
    assert f"{path}: SHA256SUMS: no such list" in said(made(path, entry("b/x")))
    assert f"{path}: 'y' is listed in SHA256SUMS, and not there" in said(made(path, entry("b/SHA256SUMS", b"0  y\n")))
    assert f"{path}: the path '../x' is not a plain" in said(made(path, entry("../x")))
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    (folder / "SHA256SUMS").write_text(f"{sha256_of(folder / 'bundle.json')}  bundle.json\n")
    (folder / "numpy").symlink_to(tmp_path, target_is_directory=True)
    assert f"{folder}: 'numpy' is a link" in said(folder)
    assert main(["deploy", str(folder), "--target", "ssh:a@b"]) == 2 and "a bundle is an archive" in capsys.readouterr().err


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Made by OpenSSL, as the documentation says."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def test_a_signature_is_verified_here_and_by_openssl_before_anything_is_unpacked(keys: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "x.tar.gz"
    bundle.write_bytes(b"no archive at all")
    path = signature.sign(bundle, signature.private_key(keys[0]))
    signature.verified(bundle, signature.public_key(keys[1]))
    verify: list[str | Path] = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", bundle, "-sigfile", path]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    bundle.write_bytes(b"something else")
    ran = run_edge("inspect", bundle, "--key", keys[1])
    assert ran.code == 1 and "signature is not by this key, or the bundle was changed" in ran.err
    path.unlink()
    assert "the signature is missing" in run_edge("inspect", bundle, "--key", keys[1]).err


def test_a_wrong_key_is_one_sentence(keys: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", other], check=True)
    (tmp_path / "junk.pem").write_text("no key")
    for path, said in ((other, "not an Ed25519 private key"), (tmp_path / "junk.pem", "not a readable private key"), (keys[1], "not a readable")):
        with pytest.raises(BadInput, match=said):
            signature.private_key(path)
    with pytest.raises(BadInput, match=r"openssl pkey -in key\.pem -pubout"):
        signature.public_key(keys[0])
    with pytest.raises(BadInput, match="no such"):
        signature.public_key(tmp_path / "nowhere")
    bundle = tmp_path / "x.tar.gz"
    bundle.write_bytes(b"x")
    signature.sign(bundle, signature.private_key(keys[0]))
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", tmp_path / "other.pub.pem"], check=True)
    with pytest.raises(CheckFailed):
        signature.verified(bundle, signature.public_key(tmp_path / "other.pub.pem"))
