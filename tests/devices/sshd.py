"""An sshd of a test's own: on loopback, run as whoever runs the tests, logged in to by a key, its home folder a new one."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from edge.devices import emulation
from edge.errors import Unavailable

PACKAGES = ("openssh-server", "libwrap0")
#: The far side has the Python of the tests.
HERE = f"{Path(sys.executable).parent}:/usr/bin:/bin"
#: As root sshd wants a user of its own and /run/sshd: it gets them in a mount namespace of its own.
AS_ROOT = 'mount --bind "$1" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && shift && exec "$@"'


class Sshd:
    """
    Args:
        root: the folder that holds usr/sbin/sshd, or / for the installed one.
        variables: of the sessions. Their PATH decides whose python3 the far side has.
    """

    def __init__(self, root: Path, folder: Path, variables: Mapping[str, str]) -> None:
        self.root, self.folder, self.port, self.home = root, folder, _free_port(), folder / "far home"
        self.home.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "other_host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + "sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n")
        self.know("host_key")
        (folder / "ssh_config").write_text(
            f"IdentityFile {folder}/key\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        )
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\n"
            f"PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            + "SetEnv"
            + "".join(f' "{name}={value}"' for name, value in {**variables, "HOME": str(self.home)}.items())
            + "\n"
        )

    @property
    def name(self) -> str:
        return f"ssh:{getpass.getuser()}@127.0.0.1:{self.port}"

    def know(self, key: str | None) -> None:
        """Let the client know this key as the host's; None: no key."""
        line = f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}" if key else ""
        (self.folder / "known_hosts").write_text(line)

    def start(self) -> None:
        command: list[str | Path] = [shutil.which("sshd", path=f"{self.root}/usr/sbin") or "sshd", "-D", "-e", "-f", self.folder / "sshd_config"]
        if os.geteuid() == 0:
            command = ["unshare", "--mount", "sh", "-c", AS_ROOT, "sh", self.folder / "passwd", *command]
        libraries = ":".join(map(str, self.root.glob("usr/lib/*-linux-gnu")))
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(command, env={**os.environ, "LD_LIBRARY_PATH": libraries}, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 10
        while not _listens(self.port):
            assert time.monotonic() < deadline and self.process.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)

    def cut(self, number: int = signal.SIGKILL) -> None:
        """Kill (or freeze) the processes that serve the connections: what they have started goes on."""
        assert self.process
        for pid in _descendants(self.process.pid, "sshd"):
            os.kill(pid, number)

    def stop(self) -> None:
        if self.process:
            sessions = _descendants(self.process.pid, "sshd")
            self.process.kill()
            self.process.wait()
            for pid in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process = None

    def left_behind(self) -> Sequence[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*"))


def _descendants(pid: int, name: str) -> list[int]:
    """The children of a process, and theirs, that have this name. One may end while it is looked at."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += [child, *_descendants(child, name)] if _name(child) == name else []
    return found


def _name(pid: int) -> str | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return None


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def sshd_root() -> Path:
    try:
        return emulation.unpacked("sshd", "amd64", PACKAGES, lambda _: None)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def start(sshd_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sshd]]:
    """Starts an sshd with this PATH on its far side, which the client knows."""
    started = []

    def starting(path: str = HERE, **variables: str) -> Sshd:
        sshd = Sshd(sshd_root, tmp_path / "sshd", {"PATH": path, **variables})
        started.append(sshd)
        sshd.start()
        monkeypatch.setenv("EDGE_SSH_CONFIG", str(sshd.folder / "ssh_config"))
        return sshd

    yield starting
    for sshd in started:
        sshd.stop()


@pytest.fixture
def board(start: Callable[..., Sshd]) -> Sshd:
    return start()
