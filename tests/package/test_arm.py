"""Bundles on the processors of small devices: emulated aarch64, in a folder of its own and over ssh, with an empty environment."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bench.results import read_results
from edge.devices import emulation
from edge.devices.profile import load_profile
from edge.vocabulary import Format
from tests.conftest import ROOT, Demo, Ran, run_edge
from tests.devices.sshd import Sshd
from tests.package.conftest import run_bundle
from tests.package.test_deploy import current, deploy, place


def quiet(_: str) -> None:
    """What is fetched once is not said."""


def guest(folder: Path, device: str) -> Path:
    """A folder with a ``python3`` that runs on the device's processor, as do the children that it starts."""
    cpu = str(load_profile(device).qemu_cpu)
    emulator, root = emulation.emulator("aarch64", quiet), emulation.processor_root("aarch64", cpu, quiet)
    python = emulation.guest_python("aarch64", quiet)
    home = f"PYTHONHOME={python.parents[1]}"  # Python looks for its library beside the name that it was called by
    command = [*emulator, "-0", "python3", "-L", str(root), "-cpu", cpu, "-E", home, str(python)]
    libraries = shlex.quote(emulation.emulator_environment()["LD_LIBRARY_PATH"])
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {shlex.join(command)} "$@"\n')
    (folder / "bin" / "python3").chmod(0o755)
    return folder / "bin"


def packed_for(device: str | Path, artifacts: Path, folder: Path, *options: str | Path) -> Path:
    """The fp32 and the int8 onnx artifact of what is in a folder, one model."""
    out = folder / f"{Path(device).stem}.bundle.tar.gz"
    chosen = [path for precision in ("fp32", "int8") for path in artifacts.glob(f"*-onnx-{precision}") if "alone" not in path.name]
    ran = run_edge("pack", *chosen, "--device", device, "--out", out, *options)
    assert ran.code == 0 and len(chosen) == 2, ran.err
    return out


def proves_itself(device: str, bundle: Path, folder: Path) -> Ran:
    """The self-test of a bundle on the emulated processor of its device."""
    there = guest(folder, device)
    subprocess.run(["tar", "-xzf", bundle, "-C", folder], check=True)
    modules = str(emulation.wheels(Format.ONNX, quiet))
    return run_bundle(folder / device, "self-test", python=there / "python3", PATH=f"{there}:/usr/bin:/bin", PYTHONPATH=modules)


@pytest.mark.parametrize("device", ["camera", "raspberry-pi-4b"])
def test_a_bundle_proves_itself_on_the_processor_of_a_device(device: str, demo: Demo, tmp_path: Path) -> None:
    ran = proves_itself(device, packed_for(device, demo.artifacts, tmp_path), tmp_path)
    assert ran.code == 0 and f"{device}: PASS" in ran.out, ran.out + ran.err
    there = tmp_path / "bin"
    path, modules = f"{there}:/usr/bin:/bin", str(emulation.wheels(Format.ONNX, quiet))
    assert "onnxruntime is not installed" in run_bundle(tmp_path / device, "self-test", python=there / "python3", PATH=path).out
    ran = run_bundle(tmp_path / device, "bench", "--out", tmp_path / "x.json", python=there / "python3", PATH=path, PYTHONPATH=modules)
    assert ran.code == 2 and "its time is no latency" in ran.err and not (tmp_path / "x.json").exists()
    here = run_bundle(tmp_path / device, "self-test")
    assert here.code == 1 and f"and the bundle is for {device}, which is arm" in here.out


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full-size MobileNetV1, of random weights."""
    out = tmp_path_factory.mktemp("mobilenet")
    ran = run_edge("export", "paddle.vision:mobilenet_v1", "--calibration", "random", "--format", "onnx", "--precision", "fp32,int8", "--out", out)
    assert ran.code == 0, ran.err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("device", ["camera", "raspberry-pi-4b"])
def test_a_mobilenet_proves_itself_on_the_processor_of_a_device(device: str, mobilenet: Path, tmp_path: Path) -> None:
    ran = proves_itself(device, packed_for(device, mobilenet, tmp_path), tmp_path)
    assert ran.code == 0 and f"{device}: PASS" in ran.out, ran.out + ran.err


@pytest.mark.slow
def test_a_mobilenet_proves_itself_on_a_server_whose_results_join_the_report(mobilenet: Path, profile: Path, board: Sshd, tmp_path: Path) -> None:
    ran = deploy(board, packed_for(profile, mobilenet, tmp_path), "--bench", tmp_path / "there.json")
    assert ran.code == 0 and "desk: PASS" in ran.out, ran.err
    cells = read_results(tmp_path / "there.json").cells
    assert [cell.precision.value for cell in cells if cell.latency.p50.value] == ["fp32", "int8"]
    ran = run_edge("report", tmp_path / "there.json", "--out", tmp_path / "page.html")
    assert ran.code == 0 and all(cell.label in (tmp_path / "page.html").read_text() for cell in cells)


@pytest.mark.slow
def test_a_bundle_with_its_wheels_needs_nothing_but_python_over_ssh(start: Callable[..., Sshd], demo: Demo, tmp_path: Path) -> None:
    """The far side has no package at all: the runtime comes in the bundle."""
    wheels = tmp_path / "wheels"
    platforms = [part for name in ("manylinux_2_28", "manylinux_2_27", "manylinux2014") for part in ("--platform", f"{name}_aarch64")]
    fetch: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--dest",
        wheels,
        *platforms,
        "--python-version",
        "3.11",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*fetch, "--no-deps", "--require-hashes", "-r", ROOT / "devices" / "arm-onnx.txt"], check=True)
    bundle = packed_for("raspberry-pi-4b", demo.artifacts, tmp_path, "--wheels", wheels)
    board = start(path=f"{guest(tmp_path, 'raspberry-pi-4b')}:/usr/bin:/bin")
    board_name = bundle.name.removesuffix(".bundle.tar.gz")
    ran = deploy(board, bundle)
    assert ran.code == 0 and "raspberry-pi-4b: PASS" in ran.out, ran.err
    assert (place(board).with_name(board_name) / "current" / "site" / "onnxruntime").is_dir() and current(board) is None
