"""What this machine is: asked before a runtime is loaded, for a library that was built for another processor kills the process."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, Dict, FrozenSet, Iterator, List

from .bundle import ROOT, SITE, Refused, strays

ARCHS = {"x86_64": "x86", "amd64": "x86", "i686": "x86"}


def machine() -> str:
    """As wheels name it: that of the Python, which may be of 32 bits under a kernel of 64."""
    found = platform.machine().lower()
    if sys.maxsize >> 32:
        return found
    return {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(found, found)


def arch() -> str:
    """``x86`` or ``arm``, as the manifest names them."""
    found = platform.machine().lower()
    return "arm" if found.startswith(("aarch64", "arm")) else ARCHS.get(found, found)


def flags() -> FrozenSet[str]:
    return frozenset((cpuinfo().get("flags") or cpuinfo().get("Features") or "").split())


def cpuinfo() -> Dict[str, str]:
    """The first value of each field of /proc/cpuinfo, as the worker reads it."""
    from edge_worker.machine import cpuinfo as found  # it lies beside this package in a bundle

    return dict(found())


def names() -> str:
    """What the machine says of itself: the board's model, and its processor."""
    cpu = cpuinfo()
    return "\n".join([_text("/proc/device-tree/model").strip("\0\n "), *(cpu.get(field, "") for field in ("model name", "Model", "Hardware"))])


def emulated() -> bool:
    """Whether qemu's user emulation runs this process: it hides its own command line in /proc/self, and not in that of the thread."""
    command = _text("/proc/self/task/%d/cmdline" % os.getpid()).split("\0")[0]
    return os.path.basename(command).startswith("qemu-")


def misfits(manifest: Dict[str, Any], artifacts: List[Dict[str, Any]]) -> Iterator[str]:
    """A sentence for each thing that the device of the bundle has, or an artifact needs, and this machine lacks."""
    device, have = manifest["device"], flags()
    if arch() != device["arch"]:
        yield "this processor is %s, and the bundle is for %s, which is %s" % (platform.machine(), device["name"], device["arch"])
        return
    lacking = [flag for flag in device["flags"] if flag not in have]
    if lacking:
        yield "this processor lacks %s, which %s has: what was measured there does not hold here" % (", ".join(lacking), device["name"])
    for artifact in artifacts:
        if artifact["any_flag"] and not have & set(artifact["any_flag"]):
            yield "%s needs a processor with one of %s" % (artifact["name"], ", ".join(artifact["any_flag"]))


def missing_packages(artifact: Dict[str, Any]) -> Iterator[str]:
    """A sentence for each package that an artifact needs and that is not here, or in another version than one of those that it was packed for."""
    from importlib.metadata import PackageNotFoundError, version

    mend = installing(artifact)
    for package, accepted in sorted(artifact["packages"].items()):
        try:
            found = version(package)
        except PackageNotFoundError:
            yield "%s is not installed, and %s needs it; next: %s" % (package, artifact["name"], mend)
            continue
        if accepted and found not in accepted:
            yield "%s is here in version %s, and %s was packed for %s; next: %s" % (package, found, artifact["name"], " or ".join(accepted), mend)


def installing(artifact: Dict[str, Any]) -> str:
    """The command that brings what an artifact needs."""
    if os.path.isdir(os.path.join(ROOT, "wheels")):
        return "python3 -m run install DIR, which unpacks the wheels"
    return "python3 -m pip install --require-hashes -r %s" % artifact["requirements"]


def use_site() -> None:
    """Find the wheels that were unpacked beside the bundle. They come before Python's own modules, so a stray file there would stand for any of them.

    Raises:
        Refused: there is one.
    """
    if not os.path.isdir(SITE) or SITE in sys.path:
        return
    for problem in strays("site/"):
        raise Refused(problem, "python3 -m run self-test says more")
    sys.path.insert(0, SITE)


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
