"""Files appear whole or not at all; paths stay inside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import BadInput
from edge.files import inside, new_folder, write_atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    write_atomic(target, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_only_when_the_block_succeeds(tmp_path: Path) -> None:
    final = tmp_path / "artifact"
    with new_folder(final) as scratch:
        (scratch / "model").write_text("first")
    with pytest.raises(RuntimeError), new_folder(final) as scratch:
        (scratch / "model").write_text("second")
        raise RuntimeError
    assert (final / "model").read_text() == "first"
    with new_folder(final) as scratch:
        (scratch / "model").write_text("third")
    assert (final / "model").read_text() == "third"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "./a", "a\\b", "a\0b", "a/"])
def test_paths_that_could_leave_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadInput):
        inside(tmp_path, path)


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(BadInput, match="symbolic link"):
        inside(tmp_path, "out/passwd")


@given(st.text(max_size=40))
def test_any_accepted_path_is_inside(path: str) -> None:
    root = Path("/nonexistent/root")
    try:
        resolved = inside(root, path)
    except BadInput:
        return
    assert resolved.resolve().is_relative_to(root) and resolved.resolve() != root
