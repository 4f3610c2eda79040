"""A child's death becomes a named error; its environment is built, not inherited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge.children import child_environment, last_words, run_child, side_by_side
from edge.errors import BadInput, ConversionFailed
from edge.export.workspace import ONE_THREAD
from edge.job_server import _unforeseen
from edge.jobs import WarmServers, run_job


@pytest.fixture(autouse=True)
def polluted_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that must not reach a child."""
    monkeypatch.setenv("EDGE_TEST_VALUE", "leaks")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(BadInput, match="not a module of this tool"):
        run_job("os:system", {})


def test_an_error_keeps_its_class() -> None:
    with pytest.raises(BadInput, match="unknown model 'nonesuch'"):
        run_job("edge.compress.roles:seconds_per_epoch", {"model": "nonesuch", "dataset": "digits"})


def test_an_unexpected_error_names_the_job() -> None:
    with pytest.raises(ConversionFailed, match=r"edge.export.onnx:to_half: \w+Error"):
        run_job("edge.export.onnx:to_half", {"model": "/nonexistent.onnx", "out": "/tmp/x", "keep_io": True})  # noqa: S108


def test_a_child_that_aborts_is_reported_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    status = run_child(["/bin/sh", "-c", "echo the reason >&2; kill -ABRT $$"], environment=child_environment(), log=log)
    assert status == -signal.SIGABRT
    assert "the reason" in log.read_text()


def test_last_words_are_what_went_wrong_not_the_crash_report_around_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "\x1b[0;33m2026-11-25 03:31:08 [WARNING]\tThe .pdmodel file is deprecated\x1b[0m\n"
        "W1125 03:31:14.632831 26994 eager_utils.cc:3584] out tensor is not supported\n[Paddle2ONNX] \n"
        "[ERROR][Paddle2ONNX] Due to the unsupported operators, the conversion is aborted.\n\n"
        "--------------------------------------\nC++ Traceback (most recent call last):\n--------------------------------------\n"
        "0   paddle2onnx::Export(char const*, char const*)\n\n----------------------\nError Message Summary:\n----------------------\n"
        "FatalError: `Process abort signal` is detected by the operating system.\n"
        '  [TimeInfo: *** Aborted at 1795577468 (unix time) try "date -d @1795577468" if you are using GNU date ***]\n'
        "  [SignalInfo: *** SIGABRT (@0x6948) received by PID 26952 (TID 0x7fb9ede14b80) from PID 26952 ***]\n"
    )
    assert last_words(log) == "out tensor is not supported | [ERROR][Paddle2ONNX] Due to the unsupported operators, the conversion is aborted."
    log.write_text("Error Message Summary:\n----------\n")
    assert last_words(log) == "Error Message Summary: | ----------", "where there is nothing else"


def test_a_job_that_is_killed_is_a_named_error() -> None:
    with pytest.raises(ConversionFailed, match=r"died of exit status|No module"):
        run_job("edge.workflows.probes:onnxruntime", {}, flags={"PYTHONHOME": "/nowhere"})


def test_a_job_that_hangs_is_stopped() -> None:
    began = time.monotonic()
    with pytest.raises(ConversionFailed, match="did not finish within"):
        run_job("edge.workflows.probes:paddle_inference", {}, timeout=0.2)
    assert time.monotonic() - began < 30


def test_nothing_of_the_parent_s_environment_leaks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_child(["/usr/bin/env"], environment=child_environment({"OMP_NUM_THREADS": "1"}), log=log)
    names = {line.partition("=")[0] for line in log.read_text().splitlines()}
    assert "EDGE_TEST_VALUE" not in names and "PYTHONPATH" not in names
    assert {"PATH", "OMP_NUM_THREADS", "PYTHONNOUSERSITE"} <= names


def test_an_interrupt_kills_the_children_that_run_side_by_side(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def sleep() -> Any:
        return run_child(["/bin/sh", "-c", f"echo $$ > {pid_file}; exec sleep 60"], environment=child_environment(), log=tmp_path / "log")

    with pytest.raises(KeyboardInterrupt), side_by_side(2) as pool:
        pool.submit(sleep)
        while not (pid_file.is_file() and pid_file.read_text().strip()):
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_warm_jobs_are_processes_of_their_own_from_one_server() -> None:
    with WarmServers(ONE_THREAD) as servers:
        server = servers.of(ONE_THREAD)
        with pytest.raises(BadInput, match="unknown model 'nonesuch'"):
            run_job("edge.compress.roles:seconds_per_epoch", {"model": "nonesuch", "dataset": "digits"}, flags=ONE_THREAD, servers=servers)
        with pytest.raises(ConversionFailed, match="did not finish within"):
            run_job("edge.workflows.probes:paddle_inference", {}, flags=ONE_THREAD, timeout=0.02, servers=servers)
        assert run_job("edge.workflows.probes:paddle_inference", {}, flags=ONE_THREAD, servers=servers)
        assert servers.of(ONE_THREAD) is server and server.alive, "a job that dies leaves the server"
        server.process.kill()
        server.process.wait()
        assert run_job("edge.workflows.probes:onnxruntime", {}, flags=ONE_THREAD, servers=servers), "a server that dies is replaced"


def test_a_server_that_dies_under_a_job_is_a_named_error() -> None:
    with WarmServers() as servers:
        timer = threading.Timer(0.5, lambda: servers.of({}).process.kill())
        timer.start()
        with pytest.raises(ConversionFailed, match="died of SIGKILL"):
            run_job("edge.workflows.probes:paddle_inference", {}, servers=servers)
        timer.join()


def test_a_watcher_that_dies_is_a_named_error_and_no_wait_for_ever() -> None:
    def watchers() -> list[str]:
        server = servers.of({}).process.pid
        return Path(f"/proc/{server}/task/{server}/children").read_text().split()

    def kill_next_watcher() -> None:
        while not (found := watchers()):
            time.sleep(0.01)
        os.kill(int(found[0]), signal.SIGKILL)

    with WarmServers() as servers:
        assert run_job("edge.workflows.probes:onnxruntime", {}, servers=servers)
        while watchers():  # those of Paddle's import, and of this job
            time.sleep(0.01)
        killer = threading.Thread(target=kill_next_watcher)
        killer.start()
        with pytest.raises(ConversionFailed, match="died of SIGKILL"):
            run_job("edge.workflows.probes:paddle_inference", {}, servers=servers)
        killer.join()
        assert run_job("edge.workflows.probes:onnxruntime", {}, servers=servers)


def test_a_killed_parent_leaves_no_server_behind() -> None:
    program = (
        "from edge.jobs import WarmServers\nimport time\nwith WarmServers({}) as s:\n    print(s.of({}).process.pid, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=child_environment()) as parent:
        assert parent.stdout
        server = int(parent.stdout.readline())
        os.kill(server, 0)
        parent.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and Path(f"/proc/{server}").exists() and "Z" not in Path(f"/proc/{server}/stat").read_text().split()[2]:
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_a_full_disk_is_said_as_what_it_is() -> None:
    with pytest.raises(OSError, match="No space") as raised:
        Path("/dev/full").write_bytes(b"x")
    said = _unforeseen("edge.x:y", raised.value)
    assert said["message"] == "a file: No space left on device" and "free some space" in str(said["hint"])
