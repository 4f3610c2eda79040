"""Deploying over a loopback sshd: what does not prove itself never becomes current, and what was current stays."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge.bench.results import read_results
from edge.cli.main import main
from edge.devices import ssh
from edge.devices.ssh import SshTarget
from edge.package.archive import unpack_archive, write_archive
from edge.package.run.bundle import SUMS
from tests.conftest import Demo, Ran, heed_ctrl_c, run_edge
from tests.devices.sshd import Sshd
from tests.package.conftest import STUDENT, run_bundle
from tests.package.test_bundle import change_bundle


@pytest.fixture(scope="module")
def bundles(demo: Demo, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions of a bundle of one name."""
    made = []
    for number, cells in enumerate((("onnx-fp32",), ("onnx-int8",), ("onnx-fp32", "onnx-int8"))):
        out = tmp_path_factory.mktemp(f"version{number}") / "camera.bundle.tar.zst"
        assert run_edge("pack", *(demo.artifacts / f"{STUDENT}-{cell}" for cell in cells), "--device", profile, "--out", out).code == 0
        made.append(out)
    return made


def deploy(board: Sshd, *arguments: str | Path) -> Ran:
    return run_edge("deploy", *arguments, "--target", board.name)


def changed(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A bundle with another ``bundle.json``, whose checksums are right."""
    inside = unpack_archive(bundle, folder / "inside")
    change_bundle(inside, change)
    write_archive(inside, folder / bundle.name)
    return folder / bundle.name


def place(board: Sshd) -> Path:
    return board.home / "edge-bundles" / "camera"


def current(board: Sshd) -> str | None:
    link = place(board) / "current"
    return str(link.readlink()) if link.is_symlink() else None


def test_a_bundle_proves_itself_there_and_can_be_rolled_back(board: Sshd, bundles: list[Path], tmp_path: Path) -> None:
    ran = deploy(board, bundles[0])
    assert ran.code == 0, ran.err
    assert "camera: PASS" in ran.out and f"{place(board)}/current on" in ran.out
    first = current(board)
    assert run_bundle(place(board) / "current", "self-test", python=sys.executable).code == 0
    second = deploy(board, bundles[1], "--json", "--bench", tmp_path / "there.json")
    (cell,) = read_results(tmp_path / "there.json").cells
    assert cell.status.value == "ok" and cell.device == "desk" and cell.latency.p50.value
    assert second.code == 0 and json.loads(second.out)["previous"] == Path(str(first)).name and current(board) != first
    back = deploy(board, "camera", "--rollback")
    assert back.code == 0 and current(board) == first
    again = deploy(board, "camera", "--rollback")
    assert again.code == 0 and current(board) != first
    assert deploy(board, bundles[2]).code == 0
    versions = sorted(path.name for path in (place(board) / "versions").iterdir())
    assert len(versions) == 2, "the current and the previous one stay"
    assert deploy(board, bundles[2]).code == 0 and len(list((place(board) / "versions").iterdir())) == 2
    assert not [name for name in board.left_behind() if not name.startswith("edge-bundles")], "nothing else stays"


def test_a_rollback_that_is_asked_for_twice_happens_once(board: Sshd, bundles: list[Path]) -> None:
    """As a link that is lost before the answer asks again."""
    first, second = (deploy(board, bundle).code == 0 and str(current(board)) for bundle in bundles[:2])
    target, replaced, to = SshTarget(board.name), Path(str(second)).name, Path(str(first)).name
    _ = target.arch  # begins the session
    for _ in range(2):
        target._ask("roll-back", limit=60, name="camera", home="~/edge-bundles", python="python3", replaced=replaced, to=to)
        assert current(board) == first
    (place(board) / "previous").unlink()
    (place(board) / "previous").symlink_to(str(first))  # as a kill between the two links leaves it
    (place(board) / "versions" / "a-newer-one").mkdir()
    assert target.roll_back("camera", "~/edge-bundles").previous == Path(str(first)).name and current(board) == second
    target.close()


def test_a_damaged_version_is_mended_by_deploying_it_again(board: Sshd, bundles: list[Path]) -> None:
    assert deploy(board, bundles[0]).code == 0
    (place(board) / "current" / "run" / "model.py").unlink()
    (place(board) / "versions" / ".new").mkdir()  # what a deploy has left that was killed
    assert deploy(board, bundles[0]).code == 0 and run_bundle(place(board) / "current", "self-test").code == 0
    assert len(list((place(board) / "versions").iterdir())) == 1


def test_what_fails_there_never_becomes_current(board: Sshd, bundles: list[Path], tmp_path: Path) -> None:
    wrong = changed(bundles[1], tmp_path, lambda raw: raw["artifacts"][0]["limits"].update(cosine=1.1))
    ran = deploy(board, wrong)
    assert ran.code == 1 and "the self-test failed: " in ran.err and "the cosine between the outputs" in ran.err and current(board) is None
    assert deploy(board, bundles[0]).code == 0
    kept = current(board)
    ran = deploy(board, wrong)
    assert ran.code == 1 and "what was current is so still" in ran.err and current(board) == kept
    assert [path.name for path in (place(board) / "versions").iterdir()] == [Path(str(kept)).name]
    nothing = deploy(board, "camera", "--rollback")
    assert nothing.code == 1 and "there is no previous version" in nothing.err and current(board) == kept
    nobody = deploy(board, "nobody", "--rollback")
    assert nobody.code == 1 and "there is no bundle nobody in ~/edge-bundles" in nobody.err


def test_a_damaged_or_unsigned_bundle_does_not_leave_the_desk(board: Sshd, bundles: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "camera.bundle.tar.zst"
    cut.write_bytes(bundles[0].read_bytes()[:-100])
    assert "not a readable bundle" in deploy(board, cut).err
    inside = unpack_archive(bundles[0], tmp_path / "inside")
    (inside / "run" / "bundle.py").write_text("print('mine')\n")
    write_archive(inside, cut)
    ran = deploy(board, cut)
    assert ran.code == 2 and "not what was packed" in ran.err
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "k.pem"], check=True)
    subprocess.run(["openssl", "pkey", "-in", tmp_path / "k.pem", "-pubout", "-out", tmp_path / "k.pub"], check=True)
    assert "the signature is missing" in deploy(board, bundles[0], "--key", tmp_path / "k.pub").err
    assert not board.left_behind()


def test_a_full_disk_there_is_told_and_changes_nothing(start: Callable[..., Sshd], bundles: list[Path], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        board = start()  # it sees what was mounted before
        assert deploy(board, bundles[0], "--into", small).code == 0
        current = small / "camera" / "current"
        kept = current.readlink()
        ran = deploy(board, bundles[2], "--into", small)
        assert ran.code == 1 and "could not be installed" in ran.err and "No space left on device" in ran.err
        assert current.readlink() == kept and [path.name for path in (small / "camera" / "versions").iterdir()] == [kept.name]
        assert run_bundle(current, "self-test").code == 0
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_a_cut_during_the_deploy_leaves_a_whole_version(board: Sshd, bundles: list[Path]) -> None:
    assert deploy(board, bundles[0]).code == 0
    found: list[Ran] = []
    deploying = threading.Thread(target=lambda: found.append(deploy(board, bundles[2])))
    deploying.start()
    deadline = time.monotonic() + 60
    while not list(board.home.glob(".cache/paddle-edge/files/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    board.cut()
    deploying.join()
    assert found[0].code == 0, found[0].err  # the link is made again, and the request repeated
    assert run_bundle(place(board) / "current", "self-test").code == 0
    lines = (place(board) / "current" / SUMS).read_text().splitlines()
    assert any("onnx-int8/model.onnx" in line for line in lines)


def deploying(board: Sshd, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge", "deploy", *map(str, arguments), "--target", board.name]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_what_was_current(board: Sshd, bundles: list[Path], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deploy(board, bundles[0]).code == 0
    kept, versions = current(board), place(board) / "versions"
    scratch = tempfile.mkdtemp()  # of a short name, which a socket there needs
    monkeypatch.setenv("TMPDIR", scratch)
    going = deploying(board, bundles[2])
    until(lambda: (versions / ".new" / SUMS).exists())  # decoded, and about to prove itself
    going.send_signal(number)
    err = going.communicate()[1]
    assert going.returncode == 130 and f"is so still: {Path(str(kept)).name}\n      run the same command to go on" in err
    assert not list(Path(scratch).iterdir())
    until(lambda: [path.name for path in versions.iterdir()] == [Path(str(kept)).name])
    assert current(board) == kept and run_bundle(place(board) / "current", "self-test").code == 0


def test_a_ctrl_c_that_comes_too_late_says_so(board: Sshd, bundles: list[Path]) -> None:
    def interrupted(*choices: tuple[str | Path, ...]) -> str:
        for arguments in choices:
            was, going = current(board), deploying(board, *arguments)
            until(partial(other_than, was))
            going.send_signal(signal.SIGINT)
            err = going.communicate()[1]
            if going.returncode == 130:
                return err
        pytest.fail("each time all was done before the signal came")

    def other_than(was: str | None) -> bool:
        return current(board) != was

    assert deploy(board, bundles[0]).code == 0
    for choices in ([(bundles[1],), (bundles[0],)] * 3, [("camera", "--rollback")] * 6):
        err = interrupted(*choices)
        assert f"but camera {Path(str(current(board))).name} is proven and current already" in err and "same command" not in err


@pytest.mark.parametrize("asked", [True, False])
def test_ctrl_c_while_the_answer_is_on_its_way(board: Sshd, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    for bundle in bundles[:2]:
        assert deploy(board, bundle).code == 0
    target, was = SshTarget(board.name), current(board)
    ask = target._link.ask

    def interrupted(request: dict[str, Any], **how: Any) -> dict[str, Any]:
        reply = ask(request, **how) if asked or request["verb"] != "roll-back" else {}
        if request["verb"] == "roll-back":
            raise KeyboardInterrupt
        return reply

    monkeypatch.setattr(target._link, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        target.roll_back("camera", "~/edge-bundles")
    said = target.let_go(None)
    assert ("current already" in said.message) == asked == (current(board) != was) and said.hint is None
    target.close()
    assert not (board.home / ".cache").exists(), "the session is over"


def test_two_at_once_after_one_that_was_killed(
    board: Sshd, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    killed, other = SshTarget(board.name), SshTarget(board.name)
    killed._session, other._session = (f"{ssh._here()} process {pid}" for pid in (dead.pid, os.getppid()))
    killed._begin(None)
    was_ours = ssh._was_ours

    def meanwhile(owner: str) -> bool:
        other._begin(owner)
        return was_ours(owner)

    monkeypatch.setattr(ssh, "_was_ours", meanwhile)
    assert main(["deploy", str(bundles[0]), "--target", board.name]) == 3
    assert f"127.0.0.1 is in use: {other._session}" in capsys.readouterr().err
    for target in (other, killed):
        target.close()


def test_a_file_that_cannot_be_written_is_named_before_the_work(
    bundles: list[Path], demo: Demo, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "camera.bundle.tar.gz"
    folder.mkdir()
    pack = ["pack", str(demo.artifacts / f"{STUDENT}-onnx-int8"), "--device", str(profile), "--out"]
    for command in (["deploy", str(bundles[0]), "--target", "ssh:a@b", "--bench", str(folder)], [*pack, str(folder)]):
        assert main(command) == 2 and f"edge: {folder}: a folder has this name\n      name another file: --" in capsys.readouterr().err
    assert main([*pack, "/proc/nowhere/x.tar.gz"]) == 2 and "edge: /proc/nowhere/x.tar.gz: cannot be written: " in capsys.readouterr().err


def test_a_full_disk_here_names_the_bundle(demo: Demo, profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        artifact = demo.artifacts / f"{STUDENT}-onnx-int8"
        assert main(["pack", str(artifact), "--device", str(profile), "--out", str(folder / "x.tar.gz")]) == 1
        assert f"edge: {folder}/x.tar.gz: No space left on device" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("left", [".new", None])
def test_a_kill_while_a_version_is_replaced_loses_none(board: Sshd, bundles: list[Path], tmp_path: Path, left: str | None) -> None:
    assert deploy(board, bundles[0]).code == 0
    kept = Path(str(current(board))).name
    versions = place(board) / "versions"
    (versions / kept).rename(versions / f".{kept}")
    if left:
        (versions / left).mkdir()
    wrong = changed(bundles[1], tmp_path, lambda raw: raw["artifacts"][0]["limits"].update(cosine=1.1))
    assert deploy(board, wrong).code == 1 and [path.name for path in versions.iterdir()] == [kept]
    assert run_bundle(place(board) / "current", "self-test").code == 0


def test_a_version_that_cannot_be_removed_stops_nothing(start: Callable[..., Sshd], bundles: list[Path], tmp_path: Path) -> None:
    held = tmp_path / "into" / "camera" / "versions" / "old" / "held"
    held.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", held], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        board = start()  # it sees what was mounted before
        for _ in range(2):
            ran = deploy(board, bundles[0], "--into", tmp_path / "into")
            assert ran.code == 0 and "versions/old could not be removed: remove it by hand" in ran.out
    finally:
        subprocess.run(["umount", "--lazy", held], check=True)


def test_an_interpreter_is_named_from_the_home_folder(board: Sshd, bundles: list[Path]) -> None:
    relative = os.path.relpath(sys.executable, pwd.getpwuid(os.geteuid()).pw_dir)
    ran = deploy(board, bundles[0], "--python", relative)
    assert ran.code == 0 and current(board), ran.err


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x.tar.zst", "--target", "local"), "deployed over ssh"),
        (("nowhere.tar.zst", "--target", "ssh:a@b"), "no such file"),
        (("camera.tar.gz", "--target", "ssh:a@b", "--rollback"), "takes the name of a bundle"),
        (("../x", "--target", "ssh:a@b", "--rollback"), "'../x' is no name of a bundle"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    ran = run_edge("deploy", *arguments)
    assert ran.code == 2 and said in ran.err
