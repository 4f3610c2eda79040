"""What emulation needs, fetched and built without root into `CACHE`, each part on first use.

    emulator/                   qemu's user emulation, with the libraries it needs
    counter/                    our counting plugin, compiled
    debian/                     the aarch64 files of a minimal Debian: libc and Python 3.11
    onnx/, paddle-inference/    aarch64 wheels of a runtime, pinned in arm-FORMAT.txt beside this file
    processors/                 one folder a processor model: links to those files, and its /proc/cpuinfo

Packages come from the machine's own apt sources, whose signatures apt checks. A part is built in a scratch folder and renamed; its stamp is the
digest of its recipe, so that a changed recipe builds it anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edge.children import child_environment, last_words, run_child
from edge.environments import machine_arch
from edge.errors import BadInput, Unavailable
from edge.files import new_folder, write_atomic
from edge.vocabulary import Format

CHECKOUT = Path(__file__).resolve().parents[1]
#: The checkout's; the user's where the tool was installed from a wheel.
CACHE = CHECKOUT / ".cache" / "arm" if (CHECKOUT / "pyproject.toml").is_file() else Path.home() / ".cache" / "paddle-edge-arm"
STAMP = "recipe.sha256"
PLUGIN, CPUINFO = (Path(__file__).resolve().with_name(name) for name in ("counter.c", "guest_cpuinfo.py"))
#: Debian's release whose packages these are. Its Python is the one that the wheels are pinned for.
RELEASE, PYTHON = "bookworm", "usr/bin/python3.11"
#: qemu and what it links to, but for libc.
EMULATOR_PACKAGES = (
    "qemu-user", "libcapstone4", "libffi8", "libglib2.0-0", "libgmp10", "libgnutls30", "libhogweed6", "libidn2-0", "libnettle8", "libnuma1",
    "libp11-kit0", "libpcre2-8-0", "libtasn1-6", "libunistring2", "liburing2", "zlib1g",
)  # fmt: skip
#: What Python and the runtimes link to.
DEBIAN_PACKAGES = (
    "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1",
    "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal",
)  # fmt: skip
#: A download that takes longer is given up, in seconds.
PATIENCE = 1800
#: Called with a sentence when something is about to take a while.
Say = Callable[[str], None]


def emulator(machine: str, say: Say) -> list[str]:
    """The command that runs a program of another processor: ``machine`` is ``aarch64`` or ``x86_64``. It needs `emulator_environment`.

    Raises:
        Unavailable: it cannot be had on this machine.
    """
    folder = unpacked("emulator", "amd64", EMULATOR_PACKAGES, say)
    return [str(folder / "usr" / "bin" / f"qemu-{machine}"), "-U", "LD_LIBRARY_PATH"]


def emulator_environment() -> dict[str, str]:
    """Where qemu finds its libraries; its command takes this from the emulated program."""
    return {"LD_LIBRARY_PATH": str(CACHE / "emulator" / "usr" / "lib" / "x86_64-linux-gnu")}


def counting_plugin(say: Say) -> list[str]:
    """The arguments that make qemu count.

    Raises:
        Unavailable: there is no compiler, or it fails.
    """
    folder = _part("counter", PLUGIN.read_text(), _compile, say)
    return ["-plugin", str(folder / "counter.so").replace(",", ",,")]  # qemu's escape


def wheels(format: Format, say: Say) -> Path:
    """The folder with the format's runtime for aarch64.

    Raises:
        Unavailable: it cannot be fetched.
    """
    requirements = Path(__file__).with_name(f"arm-{format.value}.txt")
    return _part(format.value, requirements.read_text(), lambda scratch: _install(requirements, scratch), say)


def guest_python(machine: str, say: Say) -> Path:
    """A Python for that machine: that of a small Debian for aarch64, this one for x86_64.

    Raises:
        Unavailable: it cannot be had.
    """
    return _debian(say) / PYTHON if machine == "aarch64" else Path(sys.executable)


def processor_root(machine: str, cpu: str, say: Say) -> Path:
    """What qemu lays over this machine's files for the emulated program: the libraries of its architecture, and /proc/cpuinfo of its processor, by
    which runtimes choose their kernels. (onnxruntime for aarch64 dies where that is another processor's.)

    Raises:
        BadInput: that is no name.
        Unavailable: qemu has no such processor, or the files cannot be had.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9=,._-]{0,99}", cpu):
        raise BadInput(f"{cpu!r} is no name of a processor for qemu")
    debian = _debian(say) if machine == "aarch64" else None
    qemu, python = emulator(machine, say), guest_python(machine, say)

    def make(scratch: Path) -> None:
        for entry in ("etc", "lib", "usr") if debian else ():
            (scratch / entry).symlink_to(Path("..", "..", "debian", entry))
        cpuinfo, log = scratch / "proc" / "cpuinfo", scratch / "log"
        cpuinfo.parent.mkdir()
        command: list[str | Path] = [*qemu, "-L", debian or scratch, "-cpu", cpu, python, CPUINFO, cpuinfo]
        _do(command, child_environment(emulator_environment()), log, f"qemu emulates no {machine} processor {cpu!r}", "choose another qemu_cpu")
        log.unlink()

    return _part(f"processors/{machine}-{cpu}", CPUINFO.read_text(), make, say)


def _debian(say: Say) -> Path:
    return unpacked("debian", "arm64", DEBIAN_PACKAGES, say)


def unpacked(name: str, architecture: str, packages: Sequence[str], say: Say) -> Path:
    """A folder of the cache that holds the files of Debian packages of an architecture.

    Raises:
        Unavailable: they cannot be fetched.
    """
    return _part(name, repr(packages), lambda scratch: _unpack(architecture, packages, scratch), say)


def _part(name: str, recipe: str, make: Callable[[Path], None], say: Say) -> Path:
    """The folder ``name`` of the cache, filled by ``make`` where it is missing or made by another recipe."""
    folder, wanted = CACHE / name, hashlib.sha256(recipe.encode()).hexdigest()
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder
    with _locked():
        if not (stamp.is_file() and stamp.read_text() == wanted):  # another process may have made it meanwhile
            say(f"making {name} in {CACHE}, once")
            for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            with new_folder(folder) as scratch:
                make(scratch)
                write_atomic(scratch / STAMP, wanted)
    return folder


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One process builds at a time; the system gives the lock back when it dies."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(architecture: str, packages: Sequence[str], folder: Path) -> None:
    """Fetch Debian packages of an architecture and unpack them, without root and apart from the machine's own packages."""
    _require_debian()
    apt = folder / "apt"
    (apt / "lists" / "partial").mkdir(parents=True)
    (apt / "cache" / "archives" / "partial").mkdir(parents=True)
    (apt / "status").touch()
    settings = {
        "APT::Architecture": architecture, "Dir::State": apt, "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache", "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30", "Acquire::https::Timeout": "30",
    }  # fmt: skip
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    (apt / "apt.conf").write_text("\n".join([*lines, f'APT::Architectures {{ "{architecture}"; }};\n']))
    environment = {**_network_environment(), "APT_CONFIG": str(apt / "apt.conf")}
    log = apt / "log"
    hint = "is the apt mirror reachable? try: apt-get update"
    with contextlib.suppress(Unavailable):  # a source that fails is no matter while another has the packages
        _do(["apt-get", "--quiet", "update"], environment, log, "cannot read the apt sources", hint)
    # apt puts what it downloads where it runs
    _do(
        ["env", "--chdir", apt, "apt-get", "--quiet", "download", *packages], environment, log, f"cannot fetch Debian's {architecture} packages", hint
    )
    for archive in sorted(apt.glob("*.deb")):
        _do(["dpkg-deb", "--extract", archive, folder], environment, log, f"cannot unpack {archive.name}", "is the disk full? try: df -h")
    shutil.rmtree(apt)


def _require_debian() -> None:
    if machine_arch() != "x86":
        raise Unavailable(f"processors are emulated on x86-64 only, and this machine is {platform.machine()}", hint="on a board, use: --target local")
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    if system.get("VERSION_CODENAME") != RELEASE or not shutil.which("apt-get"):
        raise Unavailable(
            f"the emulation is built from packages of Debian 12 ({RELEASE}), and this is {system.get('PRETTY_NAME', 'another system')}",
            hint="use Debian 12, or a container of it, or a board: --target ssh:USER@HOST",
        )


def _install(requirements: Path, folder: Path) -> None:
    """The pinned aarch64 wheels, by their hashes."""
    platforms = [f"--platform=manylinux{version}_aarch64" for version in ("_2_28", "_2_27", "2014")]
    command: list[str | Path] = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", folder,
        *platforms, "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--only-binary=:all:",
        "--no-deps", "--require-hashes", "-r", requirements,
    ]  # fmt: skip
    what = f"cannot fetch the aarch64 wheels of {requirements.name}"
    _do(command, _network_environment(), folder / "log", what, "is the package registry reachable? try: make setup")


def _compile(folder: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        raise Unavailable("instructions are counted by a plugin of qemu, and there is no gcc to compile it", hint="apt install gcc")
    command: list[str | Path] = [compiler, "-O2", "-shared", "-fPIC", "-o", folder / "counter.so", PLUGIN]
    _do(command, child_environment(), folder / "log", f"gcc cannot compile {PLUGIN.name}", "apt install gcc libc6-dev")


def _do(command: Sequence[str | Path], environment: Mapping[str, str], log: Path, failed: str, hint: str) -> None:
    """Run one step of a recipe.

    Raises:
        Unavailable: ``failed``, with what the step said last.
    """
    try:
        status = run_child(command, environment=environment, log=log, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{failed}: no end within {PATIENCE} s", hint=hint) from None
    if status:
        raise Unavailable(f"{failed}: {last_words(log)}", hint=hint)


def _network_environment() -> dict[str, str]:
    """What this process has, with its settings for proxies and mirrors, but for what would change which Python and libraries run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_", "APT_CONFIG", "VIRTUAL_ENV"))}
