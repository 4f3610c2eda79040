"""``bench``: the worker of the desk on this device. What it writes goes into ``edge report``, ``edge compare`` and ``edge check`` as it is."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from typing import Any, Callable, Dict, Iterator, List

from . import machine
from .bundle import ROOT, SITE, Refused, check_outside, damage, model_files, sha256_of
from .model import spec_of

WORKER = os.path.join(ROOT, "edge_worker")
#: Beside what the scenario takes at most, in seconds.
PATIENCE = 600
Say = Callable[[str], None]


def bench(manifest: Dict[str, Any], artifacts: List[Dict[str, Any]], threads: int, out: str, say: Say) -> Dict[str, Any]:
    """Measure the artifacts and write ``out``, which appears when it is whole.

    Raises:
        Refused: this is an emulated processor, whose time is no latency, ``out`` cannot be written, what would be measured is not what was packed,
            or it has failed.
    """
    if machine.emulated():
        raise Refused("this processor is emulated, and its time is no latency", "on the desk: edge bench ARTIFACT --target qemu --device NAME")
    _check_place(out)
    for problem in itertools.chain(damage(), machine.misfits(manifest, artifacts)):  # what it measures would be of something else
        raise Refused(problem, "python3 -m run self-test says more")
    asked = manifest["bench"]
    runs = [("latency", repeat) for repeat in range(asked["repeats"])] + [("memory", 0)]
    records = []
    with tempfile.TemporaryDirectory(prefix="bundle-bench.") as scratch:
        for part, repeat in runs:  # the artifacts take turns, so that a device that warms up hits all alike
            for artifact in artifacts:
                say("%s: %s %d" % (artifact["name"], part, repeat + 1))
                records.append({"artifact": artifact["name"], "part": part, **_run(artifact, part, threads, asked, scratch)})
    found = {
        "kind": "bundle-bench",
        "schema_version": 1,
        "bundle": {"name": manifest["name"], "manifest_sha256": sha256_of(os.path.join(ROOT, "bundle.json"))},
        "device": device_name(manifest),
        "threads": threads,
        "bench": asked,
        "artifacts": {artifact["name"]: _read(os.path.join(ROOT, artifact["folder"], "manifest.json")) for artifact in artifacts},
        "records": records,
    }
    _write(out, found)
    return found


def device_name(manifest: Dict[str, Any]) -> str:
    """That of the bundle's device where this is one, else what the machine calls itself."""
    device, names = manifest["device"], machine.names()
    if not device["identity"] or any(piece in names for piece in device["identity"]):
        return str(device["name"])
    return names.strip().split("\n")[0] or os.uname().nodename


def _run(artifact: Dict[str, Any], part: str, threads: int, asked: Dict[str, Any], scratch: str) -> Dict[str, Any]:
    inputs = _inputs(artifact, scratch)
    with tempfile.TemporaryDirectory(dir=scratch) as folder, model_files(artifact) as files:
        spec, result = os.path.join(folder, "spec.json"), os.path.join(folder, "result.json")
        settings = {**asked["settings"], "schema_version": asked["spec_version"], "task": part, "inputs": inputs, "outputs": ".", "affinity": None}
        settings["install"] = machine.installing(artifact)
        with open(spec, "w") as file:
            json.dump({**settings, **spec_of(artifact, files, threads)}, file)
        descriptors = [int(path.rsplit("/", 1)[1]) for path in files.values() if path.startswith("/proc/self/fd/")]
        try:
            done = subprocess.run(
                [sys.executable, "-B", WORKER, spec, result],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [SITE, os.environ.get("PYTHONPATH")]))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                timeout=PATIENCE + asked["seconds"],
            )
        except subprocess.TimeoutExpired:
            raise Refused("%s: %s did not finish within %d s" % (artifact["name"], part, PATIENCE + asked["seconds"])) from None
        if not os.path.exists(result):
            said = " ".join(done.stdout.decode(errors="replace").split())[-300:]
            raise Refused("%s: the worker ended with status %d: %s" % (artifact["name"], done.returncode, said), "python3 -m run self-test")
        found = _read(result)
    if found["status"] != "ok":
        raise Refused("%s: %s" % (artifact["name"], found["error"]), "python3 -m run self-test")
    digest = sha256_of(os.path.join(ROOT, artifact["folder"], "manifest.json"))
    return {"figures": found["figures"], "environment": {**found["environment"], "artifact_sha256": digest}}


def _inputs(artifact: Dict[str, Any], scratch: str) -> List[str]:
    """The sample inputs as files of their own: an .npz is a zip of .npy."""
    folder = os.path.join(scratch, artifact["name"])
    with zipfile.ZipFile(os.path.join(ROOT, artifact["folder"], artifact["vectors"])) as archive:
        return [archive.extract("input_%d.npy" % index, folder) for index in range(len(artifact["inputs"]))]


def _read(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _check_place(path: str) -> None:
    """Before anything is measured, which takes minutes."""
    home = os.path.realpath(os.path.dirname(path))
    if not os.path.isdir(home):
        raise Refused("%s: there is no such folder" % home, "name another file: --out FILE")
    check_outside(path, "--out ../bench.json")
    if os.path.exists(path) and not os.path.isfile(path):
        raise Refused("%s is there already, and is no file" % path, "name another file: --out FILE")
    with _beside(path):
        pass


def _write(path: str, content: Any) -> None:
    with _beside(path) as folder:
        part = os.path.join(folder, "part")
        with open(part, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    """A folder on the same file system, which is gone afterwards.

    Raises:
        Refused: what is written there fails.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".bundle-bench.", dir=os.path.dirname(path) or ".") as folder:
            yield folder
    except OSError as error:
        raise Refused("%s cannot be written: %s" % (path, error.strerror or error), "name another file: --out FILE") from None
