"""What is installed, what runs, what this processor and its counters can do, and the command that mends what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from edge.bench.launch import SPEC_VERSION, WORKER
from edge.children import child_environment, last_words, run_child
from edge.datasets import mnist
from edge.devices.gpu import PACKAGES, find_card
from edge.environments import GPU_HINT, cpu_flags, gpu_python, lite_python, machine_arch, package_version
from edge.errors import EdgeError
from edge.export.support import support_table
from edge.jobs import run_job
from edge.vocabulary import Frozen

#: Versions that were seen to work together.
TESTED = {"paddlepaddle": "3.3.1", "paddle2onnx": "2.1.0", "onnxruntime": "1.32.0", "onnx": "1.17.0", "numpy": "2.4.6"}
SETUP = "run: make setup"


class Finding(Frozen):
    """One line of the doctor. ``fix`` is the command that mends it, where there is one."""

    area: Literal["python", "package", "runtime", "processor", "counter", "data", "disk"]
    name: str
    ok: bool
    detail: str
    fix: str | None = None


def examine() -> list[Finding]:
    """Every finding; nothing is installed or changed."""
    return [*_python(), *_packages(), *_runtimes(), *_processor(), *_counters(), *_data(), *_disk()]


def _python() -> list[Finding]:
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return [
        Finding(
            area="python",
            name=platform.python_version(),
            ok=fits,
            detail=sys.executable,
            fix=None if fits else "use CPython 3.11 or 3.12, then: make setup",
        )
    ]


def _packages() -> list[Finding]:
    findings = []
    for name, tested in TESTED.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(area="package", name=name, ok=False, detail=f"not installed; tested with {tested}", fix=SETUP))
            continue
        same = version == tested
        detail = version if same else f"{version}, tested with {tested}"
        findings.append(Finding(area="package", name=name, ok=same, detail=detail, fix=None if same else SETUP))
    return findings


def _runtimes() -> list[Finding]:
    findings = []
    for name, probe in (("onnxruntime", "onnxruntime"), ("paddle-inference", "paddle_inference")):
        try:
            detail = str(run_job(f"edge.workflows.probes:{probe}", {}, timeout=120))
            findings.append(Finding(area="runtime", name=name, ok=True, detail=detail))
        except EdgeError as error:
            findings.append(Finding(area="runtime", name=name, ok=False, detail=error.message, fix=SETUP))
    return [*findings, _lite(), _gpu()]


def _lite() -> Finding:
    try:
        python = lite_python()
    except EdgeError as error:
        return Finding(area="runtime", name="paddle-lite", ok=False, detail=error.message, fix=error.hint)
    script = "import numpy, paddlelite.lite as l; l.Opt(); assert numpy.__version__ < '2', 'numpy 2 feeds it garbage'; print('ready')"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        status = run_child([python, "-c", script], environment=child_environment(), log=log, timeout=60)
        words = last_words(log, 1)
    detail = f"opt and runtime load in {python}" if status == 0 else words
    return Finding(area="runtime", name="paddle-lite", ok=status == 0, detail=detail, fix=None if status == 0 else SETUP)


def _gpu() -> Finding:
    """The card, and the packages for it: their metadata, they are not imported."""
    try:
        card, python = find_card(), gpu_python()
        found = ", ".join(f"{package} {package_version(python, package, GPU_HINT)}" for package in PACKAGES.values())
    except EdgeError as error:
        return Finding(area="runtime", name="gpu", ok=False, detail=error.message, fix=error.hint)
    return Finding(area="runtime", name="gpu", ok=True, detail=f"{card.model}; {found} in {python}")


def _processor() -> list[Finding]:
    flags = cpu_flags()
    telling = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimdhp", "asimddp", "i8mm") if f in flags]
    findings = [
        Finding(
            area="processor",
            name=machine_arch(),
            ok=True,
            detail=f"{len(os.sched_getaffinity(0))} cores; {', '.join(telling) or 'no telling features'}",
        )
    ]
    if machine_arch() == "x86":
        fast = sorted(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})
        slow = "int8 runs on plain AVX2 or older: expect little or no gain over fp32"
        findings.append(Finding(area="processor", name="int8 dot product", ok=bool(fast), detail=", ".join(fast) or slow))
    for cell in support_table():
        if cell.cpu_flags:
            found = sorted(flags & set(cell.cpu_flags))
            name = f"{cell.format.value} {cell.precision.value}"
            findings.append(Finding(area="processor", name=name, ok=bool(found), detail=", ".join(found) or str(cell.reason)))
    return findings


def _counters() -> list[Finding]:
    spec = {"schema_version": SPEC_VERSION, "task": "machine", "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        request, result, log = (Path(folder, name) for name in ("spec.json", "result.json", "log"))
        request.write_text(json.dumps(spec))
        run_child([sys.executable, WORKER, request, result], environment=child_environment(), log=log, timeout=60)
        if not result.is_file():
            return [Finding(area="counter", name="worker", ok=False, detail=last_words(log))]
        counters: dict[str, dict[str, Any]] = json.loads(result.read_text())["figures"]["counters"]
    return [Finding(area="counter", name=n, ok=c["value"] is not None, detail=c["reason"] or f"answers, in {c['unit']}") for n, c in counters.items()]


def _data() -> list[Finding]:
    found = next((folder for folder in mnist.folders() if (folder / "train-images-idx3-ubyte").is_file()), None)
    detail = str(found) if found else "not here: the 1,797 embedded digits stand in"
    return [Finding(area="data", name="mnist", ok=found is not None, detail=detail, fix=None if found else "run: python3 scripts/fetch_mnist.py")]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    return [Finding(area="disk", name=str(Path.cwd()), ok=free > 1 << 30, detail=f"{free / (1 << 30):.1f} GiB free; the demo writes about 0.1 GiB")]
