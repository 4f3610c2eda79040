"""A board over ssh: an sshd of the test's own on loopback. Its far side is this machine's Python, once an emulated aarch64 one."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.artifact import load_artifact
from edge.bench.launch import run_worker, write_inputs
from edge.bench.measure import BenchRequest
from edge.bench.scenarios import SingleStream
from edge.devices import emulation, ssh, ssh_link
from edge.devices.board.serve import MARK
from edge.devices.profile import load_profile
from edge.devices.ssh import SshTarget
from edge.devices.ssh_link import Address
from edge.devices.target import Job
from edge.errors import BadInput, CheckFailed, LinkLost, Unavailable
from edge.vocabulary import Format, Status
from edge.workflows.bench import Matrix, plan_cells, run_bench, run_matrix
from tests.conftest import ROOT, Demo, heed_ctrl_c
from tests.devices.sshd import Sshd


@pytest.fixture
def target(board: Sshd) -> Iterator[SshTarget]:
    target = SshTarget(board.name)
    yield target
    target.close()


@pytest.fixture
def lenet(demo: Demo) -> Path:
    return demo.artifacts / "mnist_student_distilled-onnx-fp32"


def job(target: SshTarget, folder: Path, program: str, timeout: float = 30.0) -> Job:
    """A job whose worker is a program of one file."""
    (folder / "worker.py").write_text(program)
    (folder / "out").mkdir(exist_ok=True)
    return Job(target.push(folder / "worker.py"), Format.ONNX, {"threads": 1}, folder / "out", timeout)


def request(target: SshTarget) -> BenchRequest:
    return BenchRequest(target, scenario=SingleStream(min_seconds=0.2), repeats=1, warmup=(0.1, 1.0), growth_seconds=0.5)


def processes() -> Iterator[tuple[bytes, str]]:
    """(environment, command line) of all that run."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (process / "environ").read_bytes(), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def commands(home: Path) -> list[str]:
    """What still runs on the far side: the processes whose home is there."""
    return [command for environment, command in processes() if f"HOME={home}".encode() in environment]


def connected() -> bool:
    """Whether this machine holds a connection to a board: the ssh client that shares it names its socket."""
    return any("edge-ssh" in command for _, command in processes())


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_bench_over_ssh_measures_and_leaves_nothing_behind(board: Sshd, target: SshTarget, lenet: Path, tmp_path: Path) -> None:
    (board.home / "photo.jpg").write_text("the user's own")
    [cell] = run_bench([lenet], tmp_path / "results.json", request(target)).cells
    assert cell.status is Status.OK, cell.reason
    assert cell.target == board.name and cell.device == target.device and target.arch == "x86"
    assert cell.latency.p50.value and cell.memory.peak_rss.value and cell.accuracy.top1.value
    assert [name for name in board.left_behind() if "photo" not in name] and connected()
    target.close()
    assert board.left_behind() == ["photo.jpg"]
    wait_until(lambda: not commands(board.home) and not connected())


def test_what_is_there_is_not_sent_again(target: SshTarget, lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, ask = list[str](), target._link.ask

    def asking(request: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        sent.append(request["verb"])
        return ask(request, **more)

    monkeypatch.setattr(target._link, "ask", asking)
    assert target.push(lenet / "model.onnx") == target.push(lenet / "model.onnx")
    assert sent.count("put") == 1


def test_files_of_a_session_that_was_cut_off_are_there_for_the_next(board: Sshd, lenet: Path) -> None:
    program = f"from edge.devices.ssh import SshTarget; import os, pathlib; SshTarget({board.name!r}).push(pathlib.Path({str(lenet)!r})); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    target = SshTarget(board.name)
    assert target._board.there
    target.push(lenet)
    assert not target._pushed
    target.close()
    assert board.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["cut", "silent"])
def test_a_link_that_is_lost_mid_run_costs_nothing(board: Sshd, target: SshTarget, tmp_path: Path, number: int) -> None:
    work = job(target, tmp_path, "import pathlib, sys, time; time.sleep(5); pathlib.Path(sys.argv[2]).write_text('one')")
    threading.Timer(1, lambda: board.cut(number)).start()
    assert target.run(work).status == 0
    assert (work.folder / "result.json").read_text() == "one"
    target.close()
    assert board.left_behind() == []


def test_a_link_that_stays_away_ends_the_bench_and_the_same_command_goes_on(board: Sshd, lenet: Path, tmp_path: Path) -> None:
    target, out = SshTarget(board.name, patience=1), tmp_path / "results.json"

    def watch(what: str, *_: object) -> None:
        if what.endswith("latency"):
            threading.Timer(0.3, board.stop).start()

    with pytest.raises(LinkLost, match=r"the link to 127.0.0.1 was lost and did not come back within 1 s \(run the same command again"):
        run_bench([lenet], out, request(target), watch)
    target.close()
    assert board.left_behind()
    board.start()
    again, said = SshTarget(board.name), list[str]()
    results = run_matrix(Matrix(plan_cells([lenet], request(again))), out, say=said.append)
    again.close()
    assert "going on with an interrupted run: 1 of 3 worker runs are there" in said
    assert results.cells[0].status is Status.OK and board.left_behind() == []


#: A bench in a process of its own.
BENCH = """
import sys
from edge.bench.measure import BenchRequest
from edge.bench.scenarios import SingleStream
from edge.devices.ssh import SshTarget
from edge.workflows.bench import run_bench
from pathlib import Path
run_bench([sys.argv[2]], Path(sys.argv[3]), BenchRequest(SshTarget(sys.argv[1]), scenario=SingleStream(min_seconds=5.0)))
"""


def test_ctrl_c_leaves_nothing_behind(board: Sshd, lenet: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BENCH, board.name, lenet, tmp_path / "r.json"], stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    wait_until(lambda: any("worker" in command for command in commands(board.home)))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0
    assert board.left_behind() == []
    wait_until(lambda: not commands(board.home))


def test_a_worker_that_takes_too_long_is_killed(board: Sshd, target: SshTarget, tmp_path: Path) -> None:
    work = job(target, tmp_path, "import subprocess, time; subprocess.Popen(['sleep', '99']); time.sleep(99)", timeout=1)
    with pytest.raises(subprocess.TimeoutExpired):
        target.run(work)
    assert not [command for command in commands(board.home) if "sleep" in command]


def test_a_crash_is_told_with_its_signal_and_its_last_words(target: SshTarget, tmp_path: Path) -> None:
    work = job(target, tmp_path, "import os; print('out of tune', flush=True); os.kill(os.getpid(), 11)")
    ending = target.run(work)
    assert ending.status == -signal.SIGSEGV and ending.out_of_memory is None
    assert (work.folder / "log.txt").read_text() == "out of tune\n"


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory", os.W_OK), reason="needs a control group of memory (v1) that may be written to")
def test_what_the_kernel_killed_for_want_of_memory_is_no_crash(target: SshTarget, tmp_path: Path) -> None:
    group = Path(f"/sys/fs/cgroup/memory/edge-test-{os.getpid()}")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(32 << 20))
    work = job(target, tmp_path, f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid())); b'x' * (200 << 20)")
    ending = target.run(work)
    group.rmdir()
    assert ending.status == -signal.SIGKILL and ending.out_of_memory == "took more memory than 127.0.0.1 has: the kernel there has killed it"


def test_a_supervisor_that_is_killed_takes_its_worker_along(board: Sshd, target: SshTarget, demo: Demo, lenet: Path, tmp_path: Path) -> None:
    artifact = load_artifact(lenet)
    inputs = write_inputs(tmp_path / "in", [artifact.vectors()["input_0"]])

    def kill() -> None:
        lock = wait_until(lambda: [p for p in board.home.rglob("*.lock") if p.read_text()])[0]
        wait_until(lambda: any("worker" in command for command in commands(board.home)))
        os.kill(int(lock.read_text()), signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(CheckFailed, match="went down while it measured, or the worker's supervisor was killed"):
        run_worker("memory", artifact, inputs, target, settings={"threads": 1, "growth_seconds": 60})
    wait_until(lambda: not [command for command in commands(board.home) if "worker" in command])


def test_an_unknown_host_key_is_refused(board: Sshd) -> None:
    board.know(None)
    with pytest.raises(Unavailable, match=r"the host key of 127.0.0.1 is not known \(run once, .*ssh -p \d+ "):
        SshTarget(board.name).push(Path(__file__))
    assert (board.folder / "known_hosts").read_text() == ""


def test_a_wrong_host_key_is_refused_with_the_line_that_says_otherwise(board: Sshd) -> None:
    board.know("other_host_key")
    with pytest.raises(Unavailable, match=r"another host key than the one known in .*/known_hosts line 1: "):
        SshTarget(board.name).push(Path(__file__))


def test_a_login_that_is_refused_says_how_to_get_one(board: Sshd) -> None:
    (board.folder / "authorized_keys").write_text("")
    with pytest.raises(Unavailable, match=r"refuses the login: .*Permission denied.*ssh-copy-id -p"):
        SshTarget(board.name).push(Path(__file__))


def test_a_board_that_is_off(board: Sshd) -> None:
    board.stop()
    with pytest.raises(Unavailable, match=r"127.0.0.1 cannot be reached: .*refused"):
        SshTarget(board.name).push(Path(__file__))


def test_no_ssh_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="no ssh client"):
        SshTarget("ssh:pi@raspberrypi").push(Path(__file__))


def test_a_board_without_python_or_with_an_old_one(start: Callable[..., Sshd], tmp_path: Path) -> None:
    old = tmp_path / "bin" / "python3"
    old.parent.mkdir()
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c \'import sys; sys.version_info = (3, 7); sys.argv = ["-c", "0"]; exec("\'"$2"\'")\'\n')
    old.chmod(0o755)
    sshd = start(path=f"{old.parent}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match=r"python3 on 127.0.0.1 is Python 3.7: 3.8 or newer is needed"):
        SshTarget(sshd.name).push(Path(__file__))
    with pytest.raises(Unavailable, match=r"127.0.0.1 has no python3\.99"):
        SshTarget(sshd.name, python="python3.99").push(Path(__file__))


def test_a_board_without_room(board: Sshd, target: SshTarget, tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(1 << 42)  # holds nothing, and is not read: it is refused by its size
    target.push(Path(__file__))
    with pytest.raises(Unavailable, match=r"127.0.0.1 has no room for .* MiB: \d+ MiB are free \(free some space"):
        target._ask("put", limit=20, files=[("model.onnx", tmp_path / "model.onnx")], digest="0")


def test_a_runtime_that_is_not_there(start: Callable[..., Sshd], lenet: Path, tmp_path: Path) -> None:
    bare = start(path="/usr/bin:/bin")
    target = SshTarget(bare.name)
    [cell] = run_bench([lenet], tmp_path / "results.json", request(target)).cells
    target.close()
    assert cell.status is Status.UNAVAILABLE
    assert "is not on" in str(cell.reason) and "--wheels DIR" in str(cell.reason)


def test_wheels_are_sent_along_and_those_of_another_machine_refused(board: Sshd, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "edge_probe-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("edge_probe.py", "WORD = 'sent along'")
        archive.writestr("edge_probe-1.0.data/purelib/edge_data.py", "WORD = 'too'")
    target = SshTarget(board.name, wheels=wheels)
    work = job(target, tmp_path, "import edge_probe, edge_data; print(edge_probe.WORD, edge_data.WORD)")
    assert target.run(work).status == 0 and (work.folder / "log.txt").read_text() == "sent along too\n"
    target.close()
    (wheels / "onnxruntime-1.23.2-cp39-cp39-manylinux_2_28_riscv64.whl").touch()
    target = SshTarget(board.name, wheels=wheels)
    with pytest.raises(BadInput, match=r"riscv64.whl is not for .*: Python 3.* on x86_64"):
        target.run(work)
    target.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_wheels_that_are_none(board: Sshd, tmp_path: Path, damaged: bool) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    if damaged:
        with zipfile.ZipFile(wheels / "edge_probe-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", "a" * 100)
            content = archive.fp.tell() if archive.fp else 0
        with (wheels / "edge_probe-1.0-py3-none-any.whl").open("r+b") as file:
            file.seek(content - archive.getinfo("a").compress_size)
            file.write(b"\xff")  # a kind of block that deflate does not know
    target = SshTarget(board.name, wheels=wheels)
    with pytest.raises(BadInput, match="cannot be unpacked" if damaged else "the folder is empty"):
        target.run(job(target, tmp_path, "pass"))
    target.close()


def test_an_attempt_that_is_cut_off_late_spoils_not_the_next(tmp_path: Path) -> None:
    def ask(request: dict[str, Any], content: bytes = b"") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", ssh_link.board_program().decode()]
        process = subprocess.Popen(command, env={"HOME": str(tmp_path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin
        process.stdin.write(json.dumps({"session": "s", "evict": None, "files": [], **request}).encode() + b"\n" + content)
        process.stdin.flush()
        return process

    ask({"verb": "begin"}).communicate(timeout=20)
    put = {"verb": "put", "digest": "d", "files": [["model", 3]]}
    first, second = (ask(put, b"x") for _ in range(2))
    files = tmp_path / ".cache/paddle-edge/files"
    wait_until(lambda: len(list(files.glob("d*/model"))) == 2)
    first.communicate(timeout=20)
    assert second.communicate(b"yz", timeout=20)[0] == MARK + b'{"files": []}\n'
    assert (files / "d" / "model").read_bytes() == b"xyz" and len(list(files.iterdir())) == 1


def test_one_session_has_the_board(board: Sshd, target: SshTarget) -> None:
    target.push(Path(__file__))
    other = SshTarget(board.name)
    other._session = "somebody@elsewhere process 1"
    with pytest.raises(Unavailable, match=rf"127.0.0.1 is in use: .* process {os.getpid()} \(wait"):
        other.push(Path(__file__))
    target.close()
    other.push(Path(__file__))
    other.close()


def test_a_profile_of_another_processor_is_refused(board: Sshd) -> None:
    target = SshTarget(board.name, load_profile("raspberry-pi-4b"))
    with pytest.raises(BadInput, match=r"127.0.0.1 is x86 \(x86_64\), and raspberry-pi-4b is arm"):
        target.push(Path(__file__))
    target.close()
    assert board.left_behind() == []


def test_odd_names_pass_unchanged(target: SshTarget, tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s $(touch x); "q" \\n ü.onnx'
    odd.write_text("odd")
    assert target.push(odd).endswith(odd.name)
    work = job(target, tmp_path, "import json, sys; print(open(json.load(open(sys.argv[1]))['model']).read())")
    work.spec["model"] = target.push(odd)
    assert target.run(work).status == 0 and (work.folder / "log.txt").read_text() == "odd\n"


@pytest.mark.parametrize(
    "name", ["ssh:", "ssh:-oProxyCommand=x", "ssh:a b", "ssh:pi@host:0", "ssh:pi@host:70000", "ssh:pi@-x", "ssh:pi@host;ls", "ssh:x\n"]
)
def test_what_names_no_board(name: str) -> None:
    with pytest.raises(BadInput, match="names no board"):
        SshTarget(name)


def test_addresses() -> None:
    assert Address.parse("ssh:pi@[fe80::1%eth0]:22").arguments == ["-p", "22", "--", "pi@fe80::1%eth0"]
    assert Address.parse("ssh:camera").by_hand == "ssh camera"


def test_the_far_side_needs_only_the_standard_library_and_parses_as_python_3_8() -> None:
    for file in sorted((ROOT / "devices" / "board").glob("*.py")):
        tree = ast.parse(file.read_text(), feature_version=(3, 8))
        named = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in named - {*ssh_link.BOARD}} <= set(sys.stdlib_module_names), file


NAMES = ["../x", "/etc/passwd", "a/b", "", ".", "..", ".hidden", "x\0", "x\n", "-" * 200, 7, None]


@pytest.mark.parametrize("name", NAMES)
def test_a_board_that_sends_odd_names_is_refused(board: Sshd, target: SshTarget, tmp_path: Path, name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = json.dumps({"files": [[name, 1]]}).encode() + b"\nx"
    hostile = f"import sys; sys.stdin.buffer.readline(); sys.stdout.buffer.write({MARK + reply!r})"
    monkeypatch.setattr(ssh_link, "board_program", hostile.encode)
    (tmp_path / "into").mkdir()
    with pytest.raises(CheckFailed, match="the board's reply cannot be read"):
        target._ask("run", limit=20, into=tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())
    monkeypatch.undo()


@pytest.mark.parametrize(("owner", "said"), [(f"\x1b[2J{'x' * 2000}", r"\[2Jx{997}"), (f"{ssh._here()} process \u00b2", ".* process \u00b2")])
def test_what_a_board_says_is_cut_and_steers_no_terminal(board: Sshd, tmp_path: Path, owner: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = SshTarget(board.name)
    reply = json.dumps({"files": [], "refused": "busy", "detail": owner}).encode() + b"\n"
    hostile = f"import sys; sys.stdin.buffer.readline(); sys.stdout.buffer.write({MARK + reply!r})"
    monkeypatch.setattr(ssh_link, "board_program", hostile.encode)
    with pytest.raises(Unavailable, match=rf"127.0.0.1 is in use: {said} \("):
        target.push(Path(__file__))
    target.close()


@given(st.binary(max_size=300))
def test_any_reply_is_read_or_refused(reply: bytes) -> None:
    with contextlib.suppress(EOFError, CheckFailed, ssh_link.Refused):
        ssh_link._read_reply(io.BytesIO(reply), None)


def test_the_far_side_may_be_another_processor(start: Callable[..., Sshd], lenet: Path, tmp_path: Path) -> None:
    quiet = lambda _: None  # noqa: E731
    emulator, root = emulation.emulator("aarch64", quiet), emulation.processor_root("aarch64", "cortex-a72", quiet)
    command = [*emulator, "-L", str(root), "-cpu", "cortex-a72", str(emulation.guest_python("aarch64", quiet))]
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    libraries = emulation.emulator_environment()["LD_LIBRARY_PATH"]
    python.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={shlex.quote(libraries)} exec {shlex.join(command)} "$@"\n')
    python.chmod(0o755)
    arm = start(path=f"{python.parent}:/usr/bin:/bin", PYTHONPATH=str(emulation.wheels(Format.ONNX, quiet)))
    target = SshTarget(arm.name, load_profile("camera"))
    [cell] = run_bench([lenet], tmp_path / "results.json", replace(request(target), parts=("accuracy", "latency"))).cells
    assert target.arch == "arm" and target.device == "camera"
    target.close()
    assert cell.status is Status.OK, cell.reason
    assert cell.environment and cell.environment["machine"] == "aarch64"
    assert cell.accuracy.top1.value and cell.latency.p50.value
    assert arm.left_behind() == []
