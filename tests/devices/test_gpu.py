"""The target ``gpu`` on a machine without a card: what it refuses and why, up to the runtime's own refusal. No test executes on a card."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import load_artifact
from edge.bench.launch import run_worker, write_inputs
from edge.bench.measure import BenchRequest, Part, Plan, perform
from edge.bench.rows import row
from edge.bench.scenarios import SingleStream, timing
from edge.devices import gpu
from edge.devices.gpu import GpuTarget, find_card, gpu_table
from edge.devices.local import LocalTarget
from edge.devices.profile import load_profile
from edge.environments import machine_arch
from edge.errors import Unavailable
from edge.export.support import support_table
from edge.vocabulary import Format, Status
from edge.workflows.bench import run_bench
from tests.bench.test_rows import found
from tests.bench.test_worker import load_worker_module
from tests.conftest import Demo

MODEL = "mnist_student_distilled"
CARDS = {"0000:65:00.0": ("NVIDIA L4", "GPU-bbbb1111"), "0000:17:00.0": ("NVIDIA T4", "GPU-aaaa2222")}
#: An onnxruntime whose session says where it runs.
ONNXRUNTIME = """
import os
from types import SimpleNamespace
PROVIDERS, PLACED = {providers!r}, {placed!r}
def set_default_logger_severity(level): ...
def preload_dlls(): ...
class SessionOptions:
    def add_session_config_entry(self, name, value): ...
class InferenceSession:
    def __init__(self, model, options, providers):
        assert providers == ["CUDAExecutionProvider"] and os.environ["NVIDIA_TF32_OVERRIDE"] == "0", (providers, os.environ)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1" and os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", os.environ
    def disable_fallback(self): ...
    def get_providers(self): return PROVIDERS
    def get_provider_graph_assignment_info(self):
        return [SimpleNamespace(ep_name=name, get_nodes=lambda op=op: [SimpleNamespace(op_type=op)]) for name, op in PLACED]
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the driver of a machine with two cards shows under /proc, and a library that loads."""
    folder = tmp_path / "nvidia"
    folder.mkdir()
    (folder / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")
    for place, (model, uuid) in CARDS.items():
        card = folder / "gpus" / place
        card.mkdir(parents=True)
        (card / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 181\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n")
    monkeypatch.setattr(gpu, "LIBRARY", "libc.so.6")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the environment with the GPU packages: this one, with others' metadata and modules in front."""

    def make(*distributions: str, onnxruntime: str | None = None) -> None:
        site = tmp_path / "site"
        for distribution in distributions:
            metadata = site / f"{distribution}.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            name, _, version = distribution.partition("-")
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if onnxruntime:
            (site / "onnxruntime.py").write_text(onnxruntime)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        monkeypatch.setenv("EDGE_GPU_PYTHON", str(python))

    return make


def reason_of(demo: Demo, target: GpuTarget, name: str) -> tuple[Status, str]:
    plan = Plan(load_artifact(demo.artifacts / f"{MODEL}-{name}"), BenchRequest(target))
    cell = row(plan, {"accuracy": [perform(plan, "accuracy")]}, {"version": "0"})
    assert cell.latency.p50.value is None and cell.throughput.value is None and cell.processes == ()
    return cell.status, str(cell.reason)


# without a card


@pytest.mark.parametrize("tensorrt", [False, True])
def test_without_a_card_every_cell_says_why_in_one_line(demo: Demo, tmp_path: Path, tensorrt: bool) -> None:
    request = BenchRequest(GpuTarget(load_profile("nvidia-h200"), tensorrt=tensorrt, driver=tmp_path))
    results = run_bench([demo.artifacts], tmp_path / "results.json", request)
    cells = {str(cell.artifact).removeprefix(f"{MODEL}-"): cell for cell in results.cells}
    assert {load_artifact(folder).manifest.format for folder in demo.artifacts.glob("*/")} == set(Format) and len(cells) > 8
    for name, cell in cells.items():
        assert cell.status in (Status.UNAVAILABLE, Status.UNSUPPORTED, Status.EXPORTED), name
        assert cell.reason and "\n" not in cell.reason and cell.latency.p50.value is None and cell.memory.gpu.value is None
        assert (cell.target, cell.device) == ("gpu", "nvidia-h200") and cell.settings["tensorrt"] is tensorrt
    no_card = (Status.UNAVAILABLE, f"no NVIDIA driver is loaded here: {tmp_path}/version is not there")
    runs = "paddle-inference-int8-x86" if tensorrt else "onnx-fp16"
    refused = "onnx-fp16" if tensorrt else "paddle-inference-int8-x86"
    if machine_arch() == "x86":
        assert (cells[runs].status, str(cells[runs].reason).partition(" (")[0]) == no_card
        assert cells[refused].status is Status.UNSUPPORTED and "TensorRT" in str(cells[refused].reason)
        assert cells["paddle-lite-fp32-x86"].reason == gpu.NO_LITE
    assert cells["onnx-int8"].status is Status.UNSUPPORTED and "no int8 convolution" in str(cells["onnx-int8"].reason)
    assert cells["paddle-inference-fp32"].status is (Status.UNSUPPORTED if tensorrt else Status.UNAVAILABLE)


def test_a_driver_that_does_not_load_and_one_without_a_card(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIBRARY", "libnothere.so.1")
    with pytest.raises(Unavailable, match="library does not load: libnothere"):
        find_card(driver)
    for folder in (driver / "gpus").iterdir():
        (folder / "information").unlink()
    with pytest.raises(Unavailable, match="found no card"):
        find_card(driver)
    assert GpuTarget(driver=driver).device == "no NVIDIA card"


@pytest.mark.parametrize(
    ("visible", "model"),
    [(None, "NVIDIA T4"), ("1", "NVIDIA L4"), ("GPU-bbbb", "NVIDIA L4"), ("GPU-aaaa2222,1", "NVIDIA T4"), ("2", None), ("", None)],
)
def test_the_first_card_that_is_visible(driver: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, model: str | None) -> None:
    """They are numbered by their place on the bus."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if model is None:
        with pytest.raises(Unavailable, match="none of the 2 NVIDIA cards"):
            find_card(driver)
    else:
        assert find_card(driver).model == GpuTarget(load_profile("nvidia-h200"), driver=driver).device == model


def test_a_card_of_the_profile_stands_in_the_results_by_the_profile_s_name(driver: Path) -> None:
    (driver / "gpus" / "0000:17:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-cccc\n")
    assert GpuTarget(load_profile("nvidia-h200"), driver=driver).device == "nvidia-h200"
    assert GpuTarget(driver=driver).device == "NVIDIA H200"


# with a card, as far as a machine without one gets


def test_the_packages_are_looked_for_in_an_environment_of_their_own(
    demo: Demo, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_GPU_PYTHON", str(tmp_path / "nothing"))
    status, reason = reason_of(demo, GpuTarget(driver=driver), "onnx-fp32")
    assert status is Status.UNAVAILABLE and "environment with the GPU packages" in reason and "-m venv .venv-gpu" in reason
    monkeypatch.setenv("EDGE_GPU_PYTHON", sys.executable)
    status, reason = reason_of(demo, GpuTarget(driver=driver), "onnx-fp32")
    assert status is Status.UNAVAILABLE and "has no onnxruntime-gpu" in reason and "requirements/gpu.txt" in reason


def test_an_old_paddle_reads_no_pir_program(demo: Demo, driver: Path, packages: Callable[..., None]) -> None:
    packages("paddlepaddle_gpu-2.6.2")
    status, reason = reason_of(demo, GpuTarget(driver=driver), "paddle-inference-fp32")
    assert status is Status.UNAVAILABLE and "paddlepaddle-gpu 2.6.2 reads the legacy program (.pdmodel) only" in reason


def test_a_paddle_without_cuda_is_refused(demo: Demo, driver: Path, packages: Callable[..., None]) -> None:
    """The real Paddle of this environment: it would only log a line and compute on the processor."""
    packages("paddlepaddle_gpu-3.3.1")
    status, reason = reason_of(demo, GpuTarget(driver=driver), "paddle-inference-fp32")
    assert (status, reason) == (Status.UNAVAILABLE, "this Paddle was built without CUDA: it needs the package paddlepaddle-gpu")


def test_tensorrt_takes_no_pir_program(demo: Demo, driver: Path) -> None:
    status, reason = reason_of(demo, GpuTarget(tensorrt=True, driver=driver), "paddle-inference-fp32")
    assert (status, reason) == (Status.UNSUPPORTED, gpu.PIR_NEEDS_CONVERSION)


@pytest.mark.parametrize(
    ("providers", "placed", "status", "words"),
    [
        (["CPUExecutionProvider"], [], Status.UNAVAILABLE, "could not start its CUDA provider"),
        (
            ["CUDAExecutionProvider"],
            [("CPUExecutionProvider", "Conv"), ("CUDAExecutionProvider", "Gemm")],
            Status.UNSUPPORTED,
            "no CUDA kernel for Conv ",
        ),
    ],
)
def test_an_onnxruntime_that_would_compute_on_the_processor_is_refused(
    demo: Demo, driver: Path, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    providers: list[str], placed: list[tuple[str, str]], status: Status, words: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    packages("onnxruntime_gpu-1.31.1", onnxruntime=ONNXRUNTIME.format(providers=providers, placed=placed))
    found, reason = reason_of(demo, GpuTarget(driver=driver), "onnx-fp32")
    assert found is status and words in reason


# what does not need a card


def test_the_table_has_every_cell_that_is_made() -> None:
    rows = [(cell.format, cell.precision) for cell in gpu_table()]
    made = {(c.format, c.precision) for c in support_table() if c.makes != "unsupported" and c.format is not Format.PADDLE_LITE}
    assert set(rows) == made and len(rows) == len(made)
    assert all(cell.evidence and "\n" not in f"{cell.cuda}{cell.tensorrt}" for cell in gpu_table())


def test_data_that_stay_on_the_device_give_the_same_results(demo: Demo, tmp_path: Path) -> None:
    """I/O binding, on onnxruntime's CPU provider."""
    for precision in ("fp32", "fp16"):
        artifact = load_artifact(demo.artifacts / f"{MODEL}-onnx-{precision}")
        spec = {"model": str(artifact.path("model")), "input_names": [info.name for info in artifact.manifest.inputs], "threads": 1, "device": "cpu"}
        runtime: Any = load_worker_module("runtimes.onnx")
        images = artifact.vectors()["input_0"]
        feeds = [[images[:4]], [images[4:8]]]
        infer, resident = runtime.load_resident(spec, feeds)
        there = [[value.numpy() for value in infer(feed)] for feed in resident]
        here = [runtime.load(spec)(feed) for feed in feeds]
        assert np.array_equal(np.concatenate([outputs[0] for outputs in there]), np.concatenate([outputs[0] for outputs in here]))
    inputs = write_inputs(tmp_path / "inputs", [images])
    settings = {"threads": 1, "batch": 1, "copies": "out", **timing(SingleStream(min_seconds=0.05), (0.05, 0.3))}
    figures = run_worker("latency", artifact, inputs, LocalTarget(), settings=settings).figures
    assert figures["inferences"] == len(figures["samples_ns"]) > 0


def test_the_row_of_a_card_says_how_it_ran_and_borrows_nothing_from_a_processor(demo: Demo, driver: Path) -> None:
    artifact = load_artifact(demo.artifacts / f"{MODEL}-onnx-fp16")
    plans = {copies: Plan(artifact, BenchRequest(GpuTarget(copies=copies, driver=driver), repeats=1)) for copies in gpu.COPIES}
    assert len({json.dumps(plan.key("latency")) for plan in plans.values()}) == 2
    memory = dict.fromkeys(("baseline_rss", "baseline_pss", "model_rss", "model_pss", "peak_rss"), 1)
    record = {"figures": {**memory, "growth": [], "gpu_memory": {"value": 5 << 20, "reason": None}}, "environment": {}}
    findings: dict[Part, list[dict[str, Any]]] = {"latency": [found()], "memory": [record]}
    cells = {copies: row(plan, findings, {"version": "0"}) for copies, plan in plans.items()}
    assert cells["in"].key != cells["out"].key and cells["out"].settings["copies"] == "out"
    assert cells["in"].memory.gpu.value == 5 << 20 and cells["in"].kernels.reduced is None and cells["in"].energy["energy_modelled"].value is None
