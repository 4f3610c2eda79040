"""A machine made as small as a device: what needs more memory is told from what crashes, a quota shows, and nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.bench.measure import OUT_OF_MEMORY
from edge.bench.scenarios import SingleStream
from edge.children import child_environment, run_child
from edge.devices.limited import LimitedTarget, choose, limits_of
from edge.devices.limits.cgroup_v1 import CgroupV1
from edge.devices.limits.cgroup_v2 import CgroupV2
from edge.devices.limits.groups import Tree, group, mounts
from edge.devices.limits.mechanism import Limits, Mechanism, entering
from edge.devices.limits.systemd import SystemdScope
from edge.devices.limits.watchdog import Watchdog
from edge.devices.profile import load_profile
from edge.devices.target import LOG, Ending, Job
from edge.errors import Unavailable
from edge.vocabulary import Format, Status
from edge.workflows.bench import run_bench
from tests.bench.test_faults import ONNX, quick, repack, wait_until_gone
from tests.conftest import Demo, heed_ctrl_c

MIB = 1 << 20
CAMERA = load_profile("camera")
SMALL = Limits(memory=96 * MIB, cores=1)


@pytest.fixture(params=[CgroupV1, Watchdog], ids=["cgroup v1", "watchdog"])
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    """The mechanisms that can really be run here."""
    return usable(request.param(), SMALL)


def usable(mechanism: Mechanism, limits: Limits) -> Mechanism:
    if reason := mechanism.lacks(limits):
        pytest.skip(f"{mechanism.name}: {reason}")
    return mechanism


def groups(pid: int) -> list[Path]:
    """The control groups of a process's runs."""
    return [*Path("/sys/fs/cgroup").glob(f"paddle-edge.{pid}.*"), *Path("/sys/fs/cgroup").glob(f"*/paddle-edge.{pid}.*")]


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    yield
    assert not groups(os.getpid())


def run(target: LimitedTarget, folder: Path, program: str, timeout: float = 60, **spec: object) -> Ending:
    """Run a program in place of the worker."""
    script = folder / "program.py"
    script.write_text(program)
    job_folder = folder / "job"
    job_folder.mkdir(exist_ok=True)
    return target.run(Job(target.push(script), Format.ONNX, {"threads": 1, **spec}, job_folder, timeout))


GROWS = "kept = []\nfor _ in range(400): kept.append(bytearray(b'x') * (1 << 20))"
TAKES_AT_ONCE = "import numpy; numpy.ones(60 << 20)"


@pytest.mark.parametrize("program", [GROWS, TAKES_AT_ONCE], ids=["grows", "at once"])
def test_what_needs_more_memory_is_killed_and_told_so(mechanism: Mechanism, tmp_path: Path, program: str) -> None:
    ending = run(LimitedTarget(CAMERA, SMALL, mechanism), tmp_path, program)
    told = "the kernel killed it for memory (oom_kill 1)" if mechanism.name == "cgroup v1" else "MiB when the watchdog killed it"
    assert ending.status == -signal.SIGKILL and ending.out_of_memory is not None
    assert ending.out_of_memory.startswith("needs more than the 96 MiB that camera gives a model: ") and ending.out_of_memory.endswith(told)
    assert ending.figures["memory_peak"][0] > 0.9 * 96 * MIB


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
        ("import os, subprocess; subprocess.run(['kill', '-9', str(os.getpid())])", -signal.SIGKILL),
        ("print('terminate called after throwing std::bad_alloc'); raise SystemExit(3)", 3),
        ("import sys; open(sys.argv[2], 'w').write('{}')", 0),
        ("kept = bytearray(b'x') * (40 << 20); import os; os.abort()", -signal.SIGABRT),
    ],
    ids=["SIGSEGV", "kill -9", "exit 3", "ends well", "abort with memory left"],
)
def test_what_ends_otherwise_is_no_lack_of_memory(mechanism: Mechanism, tmp_path: Path, program: str, status: int) -> None:
    ending = run(LimitedTarget(CAMERA, SMALL, mechanism), tmp_path, program)
    assert (ending.status, ending.out_of_memory) == (status, None)
    assert ending.figures.get("oom_kills", (0, "count")) == (0, "count")


def test_a_worker_that_hangs_is_dead_after_its_timeout(mechanism: Mechanism, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        hangs = "import os, subprocess, time; print(os.getpid(), subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
        run(LimitedTarget(CAMERA, SMALL, mechanism), tmp_path, hangs, timeout=1.0)
    assert time.monotonic() - began < 10
    worker, child = map(int, (tmp_path / "job" / LOG).read_text().split())
    assert not Path(f"/proc/{worker}").exists()
    if mechanism.name == "cgroup v1":  # what it started is in the group, and goes with it
        wait_until_gone([child])
    else:
        os.kill(child, signal.SIGKILL)


def test_a_worker_is_inside_before_its_first_instruction_and_gets_its_environment(mechanism: Mechanism, tmp_path: Path) -> None:
    program = "import json, os; print(json.dumps([len(os.sched_getaffinity(0)), open('/proc/self/cgroup').read(), dict(os.environ)]))"
    run(LimitedTarget(CAMERA, SMALL, mechanism), tmp_path, program)
    cores, group, environment = json.loads((tmp_path / "job" / LOG).read_text())
    assert cores == 1 and environment["PYTHONHASHSEED"] == "0" and "OMP_NUM_THREADS" in environment
    assert (f"memory:/paddle-edge.{os.getpid()}." in group) == (mechanism.name == "cgroup v1")


def test_cpus_that_the_device_has_not_are_refused(mechanism: Mechanism, tmp_path: Path) -> None:
    target = LimitedTarget(CAMERA, SMALL, mechanism)
    (own,) = target.limits.cpus
    assert run(target, tmp_path, "pass", affinity=[own]).status == 0
    with pytest.raises(Unavailable, match=f"camera runs on CPU {own} here, not on {own}, {own + 1}"):
        run(target, tmp_path, "pass", affinity=[own, own + 1])


SPINS = """
import time
start, cpu = time.monotonic(), time.process_time()
while time.monotonic() < start + 1.5: pass
print((time.process_time() - cpu) / (time.monotonic() - start))
"""


def test_a_quota_is_kept_and_its_throttling_counted(tmp_path: Path) -> None:
    """The shares lie far apart, because the machine may be busy."""
    shares = {}
    for quota in (None, 0.1):
        limits = replace(SMALL, quota=quota)
        ending = run(LimitedTarget(CAMERA, limits, usable(CgroupV1(), limits)), tmp_path, SPINS)
        shares[quota] = float((tmp_path / "job" / LOG).read_text())
        assert ending.status == 0 and ("periods" in ending.figures) == (quota is not None)
    assert shares[0.1] < 0.14 and shares[None] > 1.5 * shares[0.1], shares
    periods, throttled, seconds = (ending.figures[name] for name in ("periods", "throttled_periods", "throttled_time"))
    assert periods[0] >= throttled[0] > 5 and seconds[0] > 0.5 and (throttled[1], seconds[1]) == ("count", "s")


def test_a_quota_shows_in_the_throughput_and_the_median_hides_it(demo: Demo, tmp_path: Path) -> None:
    limits = Limits(memory=256 * MIB, cores=1, quota=0.2)
    target = LimitedTarget(CAMERA, limits, usable(CgroupV1(), limits))
    request = replace(quick(target, parts=("latency",)), scenario=SingleStream(min_seconds=1.0), repeats=2)
    (row,) = run_bench([demo.artifacts / ONNX[1]], tmp_path / "r.json", request).cells
    assert row.status is Status.OK and (row.target, row.device, row.environment["cores"]) == ("limited", "camera", 1), row.reason
    assert row.throughput.value and row.latency.p50.value
    assert row.throughput.value * row.latency.p50.value / 1e3 < 0.4  # of the wall time; without a quota it is nearly all
    throttled, periods = row.figures["throttled_periods"], row.figures["periods"]
    assert throttled.value and periods.value and throttled.provenance == "counted"
    assert f"throttled in {throttled.value} of {periods.value} periods by the CPU quota: the throughput shows it, the median may not" in row.warnings
    assert row.figures["memory_peak"].unit == "B" and row.figures["oom_kills"].value == 0


def with_large_weights(artifact: Path, folder: Path, megabytes: int) -> Path:
    """The artifact with weights added that change no output."""
    import onnx
    from onnx import helper, numpy_helper

    def grow(model: Path) -> None:
        graph = onnx.load(str(model))
        (output,) = (tensor.name for tensor in graph.graph.output)
        last = next(node for node in graph.graph.node if output in node.output)
        last.output[list(last.output).index(output)] = "before"
        zeros = np.zeros((megabytes, MIB // 4), np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(zeros, "large"))
        graph.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "row"))
        graph.graph.node.extend([
            helper.make_node("Size", ["before"], ["size"]),
            helper.make_node("Sub", ["size", "size"], ["some_row"]),
            helper.make_node("Gather", ["large", "some_row"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["before", "zero"], [output]),
        ])  # fmt: skip
        onnx.save(graph, str(model))

    shutil.copytree(artifact, folder)
    repack(folder, grow)
    return folder


def test_a_model_too_large_for_the_device_is_out_of_memory_and_the_others_are_measured(demo: Demo, tmp_path: Path, mechanism: Mechanism) -> None:
    large = with_large_weights(demo.artifacts / ONNX[1], tmp_path / "large", megabytes=120)
    (fits,) = run_bench([large], tmp_path / "roomy.json", quick(LimitedTarget(CAMERA, Limits(1024 * MIB), mechanism), parts=("latency",))).cells
    assert fits.status is Status.OK, fits.reason
    request = quick(LimitedTarget(CAMERA, SMALL, mechanism))
    dies, good = run_bench([large, demo.artifacts / ONNX[1]], tmp_path / "r.json", request).cells
    assert (dies.status, dies.failure) == (Status.FAILED, OUT_OF_MEMORY)
    assert str(dies.reason).startswith("the outputs worker needs more than the 96 MiB that camera gives a model: "), dies.reason
    assert good.status is Status.OK and good.accuracy.top1.value and good.memory.peak_rss.value and good.environment["cores"] == 1, good.reason
    assert fits.figures["memory_peak"].value and good.figures["memory_peak"].value
    assert fits.figures["memory_peak"].value > 100 * MIB > 96 * MIB >= good.figures["memory_peak"].value


def test_memory_that_a_runtime_is_refused_is_out_of_memory_too(demo: Demo, tmp_path: Path) -> None:
    """So much at once that the limit refuses it: onnxruntime reports that itself, nobody is killed."""

    def grow(model: Path) -> None:
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load(str(model))
        (output,) = (tensor.name for tensor in graph.graph.output)
        last = next(node for node in graph.graph.node if output in node.output)
        last.output[list(last.output).index(output)] = "before"
        graph.graph.initializer.append(numpy_helper.from_array(np.array([3 << 28, 1], np.int64), "shape"))
        graph.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
        graph.graph.node.extend([
            helper.make_node("ReduceMax", ["before"], ["peak"], keepdims=0),
            helper.make_node("Mul", ["peak", "nothing"], ["zero"]),
            helper.make_node("Expand", ["zero", "shape"], ["huge"]),
            helper.make_node("ReduceMax", ["huge"], ["still_zero"], keepdims=0),
            helper.make_node("Add", ["before", "still_zero"], [output]),
        ])  # fmt: skip
        onnx.save(graph, str(model))

    huge = tmp_path / "huge"
    shutil.copytree(demo.artifacts / ONNX[1], huge)
    repack(huge, grow)
    (row,) = run_bench([huge], tmp_path / "r.json", quick(LimitedTarget(CAMERA, SMALL, Watchdog()))).cells
    assert (row.status, row.failure) == (Status.FAILED, OUT_OF_MEMORY) and "allocate" in str(row.reason), row.reason


PARENT = """
import sys
from pathlib import Path
from edge.devices.limited import LimitedTarget
from edge.devices.limits.mechanism import Limits
from edge.devices.profile import load_profile
from edge.devices.target import Job
from edge.vocabulary import Format
target = LimitedTarget(load_profile("camera"), Limits(96 << 20, 1, 0.5))
target.run(Job(sys.argv[1], Format.ONNX, {"threads": 1}, Path(sys.argv[2]), 60))
"""
CHILD = "from edge.children import die_with_parent; import os, time; die_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_groups_of_a_killed_command_are_gone_at_once_or_with_the_next_run(tmp_path: Path, how: signal.Signals) -> None:
    mechanism = usable(CgroupV1(), replace(SMALL, quota=0.5))
    child, folder = tmp_path / "child.py", tmp_path / "job"
    child.write_text(CHILD)
    folder.mkdir()
    command = [sys.executable, "-c", PARENT, str(child), str(folder)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c)
    while not (log := folder / LOG).exists() or not log.read_text().strip():
        assert parent.poll() is None
        time.sleep(0.01)
    assert len(groups(parent.pid)) == 2
    parent.send_signal(how)
    parent.wait()
    wait_until_gone([int(log.read_text())])
    if how == signal.SIGKILL:
        assert len(groups(parent.pid)) == 2
        run(LimitedTarget(CAMERA, replace(SMALL, quota=0.5), mechanism), tmp_path, "pass")
    assert not groups(parent.pid)


def test_groups_of_a_command_that_still_runs_are_left_alone(tmp_path: Path) -> None:
    mechanism = CgroupV1()
    usable(mechanism, SMALL)
    with mechanism.inside(SMALL) as (first,):
        assert run(LimitedTarget(CAMERA, SMALL, mechanism), tmp_path, "pass").status == 0
        assert first.is_dir()


def test_a_real_group_of_version_2_holds_what_a_process_starts_and_ends_it(tmp_path: Path) -> None:
    """Without controllers: where version 1 has those, version 2 is often mounted beside it."""
    mount = next((mount for mount in mounts(Path("/proc")) if mount.kind == "cgroup2"), None)
    if mount is None or not os.access(mount.folder, os.W_OK):
        pytest.skip("version 2 is not mounted, or not for this user")
    program = "import subprocess; print(open('/proc/self/cgroup').read(), subprocess.Popen(['sleep', '60']).pid)"
    with group(mount.folder, Tree()) as folder:
        command = entering([sys.executable, "-c", program], SMALL, groups=[str(folder / "cgroup.procs")])
        assert run_child(command, environment=child_environment(), log=tmp_path / LOG, timeout=60) == 0
        *lines, child = (tmp_path / LOG).read_text().split()
        assert f"0::/{folder.name}" in lines and (folder / "cgroup.procs").read_text().split() == [child]
    assert not folder.exists()
    wait_until_gone([int(child)])


class CgroupFiles(Tree):
    """Folders that behave as the kernel's: a new group has its files, and they go with it. ``removed`` holds what was in them."""

    def __init__(self) -> None:
        self.removed: list[dict[str, str]] = []

    def make(self, folder: Path) -> None:
        folder.mkdir()
        for name in ("cgroup.procs", "memory.max", "memory.swap.max", "cpu.max"):
            (folder / name).write_text("")
        (folder / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
        (folder / "memory.peak").write_text("50331648\n")
        (folder / "cpu.stat").write_text("usage_usec 900000\nnr_periods 40\nnr_throttled 12\nthrottled_usec 600000\n")

    def remove(self, folder: Path) -> None:
        self.removed.append({file.name: file.read_text() for file in folder.iterdir() if file.is_file()})
        shutil.rmtree(folder)


def second_version(root: Path, own: str, given: str = "memory cpu") -> Path:
    """What /proc tells where version 2 is mounted at ``root`` and this process is in the group ``own``."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    mount = root / "cgroup 2"
    (mount / own.strip("/")).mkdir(parents=True)
    for place in (mount, *(mount / part for part in Path(own).parts[1:2])):
        (place / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (place / "cgroup.subtree_control").write_text(given)
        (place / "cgroup.procs").write_text("")
    escaped = str(mount).replace(" ", "\\040")
    (proc / "self/mountinfo").write_text(f"22 1 0:20 / /proc rw - proc proc rw\n30 1 0:26 / {escaped} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
    (proc / "self/cgroup").write_text(f"0::{own}\n")
    return proc


def test_version_2_sets_the_limits_and_reads_the_counters(tmp_path: Path) -> None:
    """On a tree of plain files: the worker plays the kernel's part."""
    tree = CgroupFiles()
    limits = Limits(96 * MIB, 1, 0.5)
    target = LimitedTarget(CAMERA, limits, CgroupV2(second_version(tmp_path, "/"), tree))
    assert not [*tmp_path.glob("cgroup 2/paddle-edge*")]  # what was tried is gone
    ends_well = run(target, tmp_path, "pass")
    assert ends_well == Ending(
        0,
        None,
        {
            "oom_kills": (0, "count"),
            "memory_peak": (50331648, "B"),
            "periods": (40, "count"),
            "throttled_periods": (12, "count"),
            "throttled_time": (0.6, "s"),
        },
    )
    expected = {"memory.max": str(96 * MIB), "memory.swap.max": "0", "cpu.max": "50000 100000", "cgroup.procs": "0"}
    assert {name: tree.removed[-1][name] for name in expected} == expected
    killed = """
import glob, os, signal
(events,) = glob.glob(os.path.join(os.path.dirname(__file__), "cgroup 2", "paddle-edge.*", "memory.events"))
open(events, "w").write("max 90\\noom {oom}\\noom_kill 1\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""
    by_limit = run(target, tmp_path, killed.format(oom=1))
    assert "(oom_kill 1)" in str(by_limit.out_of_memory) and by_limit.status == -signal.SIGKILL
    by_machine = run(target, tmp_path, killed.format(oom=0))  # the machine ran out of memory, the group did not
    assert by_machine.out_of_memory is None and by_machine.figures["oom_kills"] == (1, "count")


def test_version_2_looks_for_the_topmost_place_that_gives_its_controllers(tmp_path: Path) -> None:
    proc = second_version(tmp_path, "/mine/leaf", given="pids")
    (tmp_path / "cgroup 2" / "cgroup.controllers").write_text("pids")
    assert CgroupV2(proc).lacks(SMALL) == f"{tmp_path}/cgroup 2 has no memory controller"
    (tmp_path / "cgroup 2" / "cgroup.controllers").write_text("memory pids")
    tree = CgroupFiles()
    limits = replace(SMALL, quota=0.5)
    with CgroupV2(proc, tree).inside(limits) as (made,):
        assert made.parent == tmp_path / "cgroup 2" / "mine"  # the mount has no cpu controller
        assert (made.parent / "cgroup.subtree_control").read_text() == "+memory +cpu"
    target = LimitedTarget(CAMERA, limits, CgroupV2(proc, tree))
    (tmp_path / "cgroup 2" / "mine" / "cgroup.controllers").write_text("memory")
    assert "lets this process make one with memory and cpu" in str(CgroupV2(proc, tree).lacks(limits))
    with pytest.raises(Unavailable, match="the limits of camera cannot be set by cgroup v2: no group from"):  # taken away meanwhile
        run(target, tmp_path, "pass")


FAKE_RUN = """#!{python}
import os, sys
separator = sys.argv.index("--")
options, command = sys.argv[1:separator], sys.argv[separator + 1:]
unit = next(option[len("--unit="):] for option in options if option.startswith("--unit="))
scope = os.path.join({mount!r}, unit)
os.mkdir(scope)
open(os.path.join({mount!r}, "asked"), "w").write("\\n".join(options))
open(os.path.join(scope, "memory.events"), "w").write("oom {oom}\\noom_kill {oom}\\n")
open(os.path.join(scope, "memory.peak"), "w").write("1000\\n")
if {cpu}:
    open(os.path.join(scope, "cpu.max"), "w").write("50000 100000\\n")
    open(os.path.join(scope, "cpu.stat"), "w").write("nr_periods 9\\nnr_throttled 2\\nthrottled_usec 500000\\n")
os.execv(command[0], command)
"""
FAKE_CONTROL = """#!{python}
import sys
print("/" + sys.argv[-1])
"""


def systemd(folder: Path, oom: int, cpu: bool = True) -> SystemdScope:
    """systemd-run and systemctl that put a scope of plain files in the place of one of the kernel's."""
    proc = second_version(folder, "/")
    commands = {"systemd-run": FAKE_RUN, "systemctl": FAKE_CONTROL}
    for name, text in commands.items():
        (folder / name).write_text(text.format(python=sys.executable, mount=str(folder / "cgroup 2"), oom=oom, cpu=cpu))
        (folder / name).chmod(0o755)
    return SystemdScope(proc, *(str(folder / name) for name in commands))


@pytest.mark.parametrize("oom", [0, 1])
def test_a_scope_of_systemd_is_asked_for_its_limits_and_read_before_it_goes(tmp_path: Path, oom: int) -> None:
    target = LimitedTarget(CAMERA, Limits(96 * MIB, 1, 1 / 3), systemd(tmp_path, oom))
    ending = run(target, tmp_path, "import os; print(os.getpid(), os.getppid(), len(os.sched_getaffinity(0)), os.listdir('/proc/self/fd'))")
    assert ending.status == 0 and ending.figures == {
        "oom_kills": (oom, "count"),
        "memory_peak": (1000, "B"),
        "periods": (9, "count"),
        "throttled_periods": (2, "count"),
        "throttled_time": (0.5, "s"),
    }
    assert bool(ending.out_of_memory) == bool(oom)
    pid, parent, cores, *descriptors = (tmp_path / "job" / LOG).read_text().split()
    assert (int(parent), cores, len(descriptors)) == (os.getpid(), "1", 4)  # its standard ones, and the folder that it lists
    asked = (tmp_path / "cgroup 2" / "asked").read_text().split("\n")
    assert {"--scope", "--collect", "MemoryMax=100663296", "MemorySwapMax=0", "CPUQuota=33.33%", "Delegate=yes"} <= set(asked)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == b"cat\0"] and not Path(f"/proc/{pid}").exists()


def test_a_scope_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    missing = systemd(tmp_path / "missing", 0)
    missing.run_command = str(tmp_path / "systemd-run")
    assert missing.lacks(SMALL) == f"{tmp_path}/systemd-run is not installed"
    refusing = systemd(tmp_path / "refusing", 0)
    Path(refusing.run_command).write_text("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2; exit 1\n")
    assert refusing.lacks(SMALL) == "exit status 1: Failed to connect to bus: No medium found"
    assert SystemdScope(tmp_path).lacks(SMALL) == "version 2 is not mounted"
    slow = systemd(tmp_path / "slow", 0, cpu=False)  # a user's systemd may have been given memory alone
    assert slow.lacks(SMALL) is None and "gives a scope no counter of periods here" in str(slow.lacks(replace(SMALL, quota=0.5)))


def test_where_nothing_can_enforce_the_limits_each_mechanism_says_why(tmp_path: Path) -> None:
    nothing: list[Mechanism] = [CgroupV2(tmp_path), CgroupV1(tmp_path), SystemdScope(tmp_path), Watchdog(tmp_path)]
    with pytest.raises(Unavailable) as refused:
        choose(SMALL, nothing)
    assert str(refused.value) == (
        "the limits cannot be enforced on this machine: cgroup v2: version 2 is not mounted; cgroup v1: the memory controller of version 1 is not "
        f"mounted; systemd-run: version 2 is not mounted; rlimit and watchdog: {tmp_path}/PID/status does not tell the memory of a process (run as "
        "root, or in a session of systemd)"
    )
    with pytest.raises(Unavailable, match="rlimit and watchdog: a CPU quota needs control groups"):
        LimitedTarget(CAMERA, replace(SMALL, quota=0.5), Watchdog())


def test_limits_that_cannot_be_entered_are_not_taken_for_a_crash(tmp_path: Path) -> None:
    class Sealed(CgroupFiles):
        def make(self, folder: Path) -> None:
            super().make(folder)
            (folder / "cgroup.procs").unlink()
            (folder / "cgroup.procs").mkdir()

    target = LimitedTarget(CAMERA, SMALL, CgroupV2(second_version(tmp_path, "/"), Sealed()))
    with pytest.raises(Unavailable, match=r"the limits of camera cannot be set by cgroup v2: cannot go inside the limits: .*Is a directory"):
        run(target, tmp_path, "pass")


def test_the_limits_of_a_profile() -> None:
    limits = limits_of(CAMERA, quota=0.5)
    assert (limits.memory, limits.cores, limits.quota) == (CAMERA.memory_limit, CAMERA.cluster.cores.value, 0.5)
    assert len(limits.cpus) == min(limits.cores or 0, len(os.sched_getaffinity(0)))
