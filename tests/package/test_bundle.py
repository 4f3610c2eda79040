"""A bundle: packed, unpacked, proven, installed, measured and used, each by the command that a user types."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edge.artifact import load_artifact
from edge.bench.results import read_results
from edge.environments import cpu_flags
from edge.files import sha256_of
from edge.package.manifest import read_bundle
from edge.package.run.bundle import SUMS
from edge.package.run.infer import watched
from tests.conftest import Demo, edit_manifest, run_edge
from tests.package.conftest import STUDENT, run_bundle

INT8, FP32, PADDLE = (f"{STUDENT}-{cell}" for cell in ("onnx-int8", "onnx-fp32", "paddle-inference-fp32"))
#: Of a storage that int8 fits in, and nothing beside it.
ROOM = (("total", 300, "KiB"), ("model_share", 100, "%"))
OLD = Path.home() / ".pyenv/versions"


def change_bundle(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``bundle.json`` as an attacker would, with its checksum."""
    raw = json.loads((folder / "bundle.json").read_text())
    change(raw)
    (folder / "bundle.json").write_text(json.dumps(raw))
    list_again(folder)


def list_again(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256_of(path)}  {path.relative_to(folder)}\n" for path in paths))


def test_the_self_test_passes_and_writes_nothing(unpacked: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")}
    if os.geteuid():
        pytest.skip("a read-only file system needs root")
    command = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && ! touch x 2>/dev/null && exec "$2" -m run self-test --json'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command, "sh", unpacked, sys.executable], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] and len(found["checks"]) == 8 and all(check["problem"] is None for check in found["checks"])
    assert {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")} == before
    assert subprocess.run(["sha256sum", "--quiet", "-c", SUMS], cwd=unpacked).returncode == 0


def test_the_same_content_gives_the_same_bytes(packed: Path, demo: Demo, profile: Path, tmp_path: Path) -> None:
    artifacts = [demo.artifacts / name for name in (FP32, INT8, PADDLE)]
    again = tmp_path / packed.name
    copies = [Path(shutil.copytree(artifact, tmp_path / "copies" / artifact.name, copy_function=shutil.copy)) for artifact in artifacts]
    umask = os.umask(0o077)
    try:
        ran = run_edge("pack", *copies, "--device", profile, "--results", demo.folder / "results.json", "--out", again, TZ="Asia/Tokyo")
    finally:
        os.umask(umask)
    assert ran.code == 0 and again.read_bytes() == packed.read_bytes()


def test_any_flipped_bit_and_any_missing_file_is_found(unpacked: Path) -> None:
    rng = np.random.default_rng(0)
    first = [unpacked / "run" / name for name in ("__init__.py", "__main__.py")]  # of these Python itself tells
    paths = sorted(path for path in unpacked.rglob("*") if path.is_file() and path.name != "__pycache__" and path not in first)
    code = [path for path in paths if path.parent.name == "run"]
    for path in [unpacked / SUMS, unpacked / "bundle.json", *rng.choice(np.array(paths, object), 8, replace=False), *code]:
        kept = path.read_bytes()
        damaged = bytearray(kept)
        damaged[int(rng.integers(len(kept)))] ^= 1 << int(rng.integers(7))
        path.write_bytes(bytes(damaged))
        ran = run_bundle(unpacked, "self-test")
        assert ran.code in (1, 2) and "Traceback" not in ran.err and ("FAIL" in ran.out or ran.err.startswith("bundle: ")), path
        path.unlink()
        gone = run_bundle(unpacked, "self-test")
        assert gone.code in (1, 2) and path.stem in gone.out + gone.err and "Traceback" not in gone.err, path
        path.write_bytes(kept)


def test_what_was_not_packed_is_found_before_it_is_imported(unpacked: Path) -> None:
    """A package that stands for a module, a list of checksums that names less, a module with the name of one of Python's own."""
    stray = unpacked / "edge_worker" / "runtimes" / "onnx" / "__init__.py"
    stray.parent.mkdir()
    stray.write_text("raise SystemExit(0)\n")
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "FAIL  edge_worker/runtimes/onnx/__init__.py is not in SHA256SUMS" in ran.out and "outputs" not in ran.out
    shutil.rmtree(stray.parent)
    (unpacked / "struct.py").write_text("raise SystemExit('a stray module')\n")
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "FAIL  struct.py is not in SHA256SUMS" in ran.out
    (unpacked / "struct.py").unlink()
    listed = (unpacked / SUMS).read_text().splitlines(keepends=True)
    (unpacked / SUMS).write_text("".join(line for line in listed if "run/compare.py" not in line))
    assert "FAIL  run/compare.py is not in SHA256SUMS" in run_bundle(unpacked, "self-test").out


@pytest.mark.parametrize("command", [("self-test",), ("bench", "--out", "../x.json"), ("infer", "--image", "x.png"), ("serve", "--stdin", "1x1")])
def test_a_stray_file_among_the_wheels_is_never_imported(unpacked: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """They come before Python's own modules."""
    (unpacked / "site").mkdir()
    for name in ("subprocess", "numpy", "edge_worker"):
        (unpacked / "site" / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    ran = run_bundle(unpacked, *command)
    assert ran.code in (1, 2) and ".py is not in SHA256SUMS: it was not packed" in ran.out + ran.err and "Traceback" not in ran.err
    assert not (tmp_path / "imported").exists()


def test_a_changed_file_among_the_wheels_is_not_imported_by_the_self_test(unpacked: Path, tmp_path: Path) -> None:
    (unpacked / "site").mkdir()
    (unpacked / "site" / "subprocess.py").write_text("")
    list_again(unpacked)
    (unpacked / "site" / "subprocess.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "FAIL  site/subprocess.py is not what was packed" in ran.out and not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", ["numpy", "site", "LICENSE", "edge_worker/runtimes", "bundle.json", SUMS])
def test_a_link_is_found(unpacked: Path, tmp_path: Path, name: str) -> None:
    """Also one to what was packed: it may be another the next time."""
    if (unpacked / name).exists():
        (unpacked / name).rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").mkdir()
    (unpacked / name).symlink_to(tmp_path / "elsewhere")
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and f"FAIL  {name} is a link; a bundle has none" in ran.out and ran.out.count("FAIL") == 2


def test_a_digest_that_differs_at_its_end_is_not_shown_as_the_same(unpacked: Path) -> None:
    digest = sha256_of(unpacked / "LICENSE")
    (unpacked / SUMS).write_text((unpacked / SUMS).read_text().replace(digest, digest[:-1] + ("1" if digest[-1] == "0" else "0")))
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "FAIL  LICENSE is not what was packed: its sha256 is another than in SHA256SUMS" in ran.out


@pytest.mark.parametrize("place", ["inside", "run/inside", "../camera/inside", "../link/inside"])
def test_nothing_is_written_into_the_bundle(unpacked: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(unpacked)
    before = sorted(unpacked.rglob("*"))
    for command in (("install", place), ("bench", "--out", place)):
        ran = run_bundle(unpacked, *command)
        assert ran.code == 2 and "a bundle's folder holds what was packed and nothing else" in ran.err
    assert sorted(unpacked.rglob("*")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda artifact: artifact["files"][0].update(path="../../../x"),
        lambda artifact: artifact["files"][0].update(path="/nowhere/x"),
        lambda artifact: artifact["files"][0].update(stored="../../x"),
        lambda artifact: artifact.update(folder="../x"),
        lambda artifact: artifact.update(name="../x"),
        lambda artifact: artifact.update(vectors="../../../x"),
    ],
)
def test_a_stranger_s_bundle_writes_nothing_beside_what_is_installed(
    unpacked: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    change_bundle(unpacked, lambda raw: change(raw["artifacts"][0]))
    before = sorted(tmp_path.rglob("*"))
    ran = run_bundle(unpacked, "install", tmp_path / "there" / "deep")
    assert ran.code == 2 and "bundle.json names '" in ran.err and "x', which lies outside the bundle" in ran.err and "Traceback" not in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_of_checksums_that_names_what_lies_outside_is_refused(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with (unpacked / SUMS).open("a") as file:
        file.write(f"{sha256_of(tmp_path / 'x')}  ../x\n")
    ran = run_bundle(unpacked, "install", tmp_path / "there" / "deep")
    assert ran.code == 2 and "SHA256SUMS names '../x', which lies outside the bundle" in ran.err and not (tmp_path / "there").exists()


def test_what_is_measured_is_what_was_packed(unpacked: Path, tmp_path: Path) -> None:
    assert run_bundle(unpacked, "install", tmp_path / "there").code == 0
    (tmp_path / "there" / "artifacts" / INT8 / "model.onnx").write_bytes((unpacked / "LICENSE").read_bytes())
    ran = run_bundle(tmp_path / "there", "bench", "--artifact", INT8, "--out", tmp_path / "x.json")
    assert ran.code == 2 and "model.onnx is not what was packed" in ran.err and not (tmp_path / "x.json").exists()


def test_a_runtime_that_is_missing_is_told_by_bench_too(unpacked: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    ran = run_bundle(unpacked, "bench", "--artifact", FP32, "--out", tmp_path / "x.json", python=tmp_path / "bare" / "bin" / "python")
    assert ran.code == 2 and "pip install --require-hashes -r requirements" in ran.err and "make setup" not in ran.err


def test_a_flipped_bit_anywhere_in_the_manifest_is_one_sentence(unpacked: Path) -> None:
    kept = (unpacked / "bundle.json").read_bytes()
    for at in range(0, len(kept), len(kept) // 12):
        (unpacked / "bundle.json").write_bytes(kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :])
        for command in (("self-test",), ("install", "x"), ("infer", "--image", "x.png")):
            ran = run_bundle(unpacked, *command)
            assert ran.code == 2 and "bundle.json is not what was packed" in ran.err and "Traceback" not in ran.err


def test_another_processor_is_told_before_anything_is_loaded(unpacked: Path) -> None:
    change_bundle(unpacked, lambda raw: raw["device"].update(flags=["asimddp", *raw["device"]["flags"]]))
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "FAIL  this processor lacks asimddp, which desk has" in ran.out and "outputs" not in ran.out
    change_bundle(unpacked, lambda raw: raw["device"].update(arch="arm"))
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "and the bundle is for desk, which is arm" in ran.out


def test_int8_that_is_right_but_for_a_factor_fails(unpacked: Path) -> None:
    """Its cosine and its classes are those of the source."""
    path = unpacked / "artifacts" / INT8 / "vectors.npz"
    with np.load(path) as found:
        arrays = {name: found[name] / (100 if name.startswith("output") else 1) for name in found.files}
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})
    list_again(unpacked)
    ran = run_bundle(unpacked, "self-test", "--artifact", INT8)
    assert ran.code == 1 and "x max|output| from those that are expected" in ran.out
    arrays["output_0"][0] = np.nan
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})
    list_again(unpacked)
    assert "output 0 of the source itself holds NaN" in run_bundle(unpacked, "self-test", "--artifact", INT8).out


def test_a_bundle_for_the_server_runs_here_or_says_what_this_processor_lacks(demo: Demo, tmp_path: Path) -> None:
    out = tmp_path / "server.bundle.tar.gz"
    assert run_edge("pack", demo.artifacts / FP32, demo.artifacts / INT8, "--device", "x86-server", "--out", out).code == 0
    subprocess.run(["tar", "-xzf", out, "-C", tmp_path], check=True)
    ran = run_bundle(tmp_path / "server", "self-test")
    lacking = [flag for flag in read_bundle(tmp_path / "server").device.flags if flag not in cpu_flags()]
    assert (ran.code == 0 and "server: PASS" in ran.out) if not lacking else (ran.code == 1 and f"lacks {', '.join(lacking)}, which" in ran.out)


def test_other_outputs_and_a_crash_are_sentences(unpacked: Path) -> None:
    change_bundle(unpacked, lambda raw: raw["artifacts"][0]["limits"].update(max_rel=1e-12))
    ran = run_bundle(unpacked, "self-test", "--artifact", FP32)
    assert ran.code == 1 and "x max|output| from those that are expected, allowed are 1e-12" in ran.out
    (unpacked / "edge_worker/runtimes/onnx.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    list_again(unpacked)
    ran = run_bundle(unpacked, "self-test", "--artifact", FP32)
    assert ran.code == 1 and "SIGILL" in ran.out and "an instruction that this processor does not have" in ran.out


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.7.16"])
def test_an_old_python_is_told(unpacked: Path, version: str) -> None:
    python = OLD / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    ran = run_bundle(unpacked, "self-test", python=python)
    assert ran.code == 1 and f"this is Python {version[:3]}, and 3.8 or newer is needed" in ran.err


def test_python_3_8_without_packages_says_what_is_missing_and_installs(unpacked: Path, tmp_path: Path) -> None:
    python = next(iter(sorted(OLD.glob("3.8.*/bin/python"))), None)
    if python is None:
        pytest.skip("no Python 3.8 here")
    ran = run_bundle(unpacked, "self-test", python=python)
    assert ran.code == 1 and f"onnxruntime is not installed, and {FP32} needs it" in ran.out and "pip install --require-hashes" in ran.out
    assert run_bundle(unpacked, "install", tmp_path / "there", python=python).code == 0
    assert load_artifact(tmp_path / "there" / "artifacts" / INT8).manifest.parity.passed


def test_what_is_installed_is_the_artifact_bit_for_bit_and_proves_itself(unpacked: Path, demo: Demo, tmp_path: Path) -> None:
    assert (unpacked / "artifacts" / FP32 / "model.onnx.packed").is_file()
    ran = run_bundle(unpacked, "install", tmp_path / "there")
    assert ran.code == 0, ran.err
    for name in (FP32, INT8, PADDLE):
        for path in (path for path in (demo.artifacts / name).rglob("*") if path.is_file()):
            assert (tmp_path / "there/artifacts" / name / path.relative_to(demo.artifacts / name)).read_bytes() == path.read_bytes()
    assert run_bundle(tmp_path / "there", "self-test").code == 0
    spaced = run_bundle(unpacked, "install", "../in b")
    assert spaced.code == 0 and "next: cd '../in b' && python3 -m run self-test" in spaced.out
    again = run_bundle(unpacked, "install", tmp_path / "there")
    assert again.code == 2 and "is there already" in again.err
    sizes = read_bundle(unpacked).sizes
    assert sizes and sizes.installed == pytest.approx(sum(p.stat().st_size for p in (tmp_path / "there").rglob("*") if p.is_file()), rel=0.05)


def test_a_full_disk_leaves_nothing_half_installed(unpacked: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("a small disk needs root")
    small = tmp_path / "small"
    small.mkdir()
    command = 'mount -t tmpfs -o size=200k tmpfs "$1" && cd "$2" && "$3" -m run install "$1/there"; code=$?; ls -A "$1"; exit $code'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command, "sh", small, unpacked, sys.executable], capture_output=True, text=True)
    assert done.returncode == 2 and "No space left on device" in done.stderr and done.stdout == ""


def test_what_the_device_measures_goes_straight_into_the_report(unpacked: Path, profile: Path, tmp_path: Path) -> None:
    change_bundle(unpacked, lambda raw: raw["bench"]["settings"]["scenario"].update(min_seconds=0.1))
    (tmp_path / "there.json.part").write_text("of the user")
    failed = run_bundle(unpacked, "bench", "--artifact", INT8, "--out", tmp_path / ("x" * 300))
    assert failed.code == 2 and "cannot be written: File name too long" in failed.err and len(list(tmp_path.iterdir())) == 2
    ran = run_bundle(unpacked, "bench", "--artifact", INT8, "--out", tmp_path / "there.json")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["camera", "there.json", "there.json.part"]
    assert (tmp_path / "there.json.part").read_text() == "of the user"
    (cell,) = read_results(tmp_path / "there.json").cells
    assert cell.status.value == "ok" and cell.device == "desk" and cell.artifact == INT8
    assert cell.latency.p50.value and cell.memory.peak_rss.value and len(cell.processes) == 3
    assert run_edge("report", tmp_path / "there.json", "--out", tmp_path / "page.html").code == 0
    assert run_edge("compare", tmp_path / "there.json", tmp_path / "there.json").code == 0
    ran = run_edge("check", tmp_path / "there.json", "--device", profile, "--json")
    latency = next(budget for budget in json.loads(ran.out)["budgets"] if budget["name"] == "latency_p99")
    assert latency["provenance"] == "measured" and latency["verdict"] == "PASS"


@pytest.mark.parametrize("change", ['{"kind": "bundle-bench"}', '{"kind": "bundle-bench", "schema_version": 1, "records": [1]}'])
def test_a_damaged_measurement_is_one_sentence(tmp_path: Path, change: str) -> None:
    (tmp_path / "x.json").write_text(change)
    ran = run_edge("report", tmp_path / "x.json")
    assert ran.code == 2 and ran.err.startswith("edge: ") and "Traceback" not in ran.err


def test_pictures_arrays_and_frames_go_through_the_model(unpacked: Path, tmp_path: Path) -> None:
    digits = load_digits()
    pictures = [np.pad(np.kron(image / 16 * 255, np.ones((3, 3))), 2).astype(np.uint8) for image in digits.images[:10]]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    Image.fromarray(pictures[3]).convert("RGB").save(tmp_path / "three.ppm")
    by_picture = lines(run_bundle(unpacked, "infer", "--image", *sorted(tmp_path.glob("*.png"))).out)
    assert sum(line["top"][0]["label"] == str(label) for line, label in zip(by_picture, digits.target, strict=False)) >= 8
    frames = b"".join(np.stack([picture] * 3, -1).tobytes() for picture in pictures)
    assert answers(run_bundle(unpacked, "serve", "--stdin", "28x28", stdin=frames).out) == answers_of(by_picture)
    grey = b"".join(picture.tobytes() for picture in pictures)
    assert answers(run_bundle(unpacked, "serve", "--stdin", "28x28", "--grey", stdin=grey).out) == answers_of(by_picture)
    assert answers(run_bundle(unpacked, "infer", "--image", tmp_path / "three.ppm").out) == answers_of(by_picture[3:4])
    (tmp_path / "junk.png").write_bytes(b"no picture")
    watched = run_bundle(unpacked, "serve", "--watch", tmp_path, "--once")
    assert watched.code == 0 and len(lines(watched.out)) == 11 and "junk.png is not a readable picture" in watched.err
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 28, 28), np.float32))
    assert len(lines(run_bundle(unpacked, "infer", "--input", tmp_path / "x.npy").out)) == 2


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def answers(text: str) -> list[Any]:
    return answers_of(lines(text))


def answers_of(found: list[dict[str, Any]]) -> list[Any]:
    return [line["top"] for line in found]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("infer",), "name pictures or arrays"),
        (("infer", "--image", "nowhere.png"), "nowhere.png cannot be read"),
        (("infer", "--image", "README.md"), "README.md"),
        (("infer", "--input", "README.md"), "README.md cannot be read"),
        (("infer", "--image", "x.png", "--artifact", "other"), "there is no artifact other"),
        (("serve",), "name where the frames come from"),
        (("serve", "--stdin", "28"), "28 is not WIDTHxHEIGHT"),
        (("serve", "--watch", "nowhere"), "nowhere is not a folder"),
        (("serve", "--stdin", "99999999999999999999x9"), "is not WIDTHxHEIGHT"),
        (("serve", "--stdin", "20000x1"), "is not WIDTHxHEIGHT, or too large"),
        (("infer", "--input", f"artifacts/{FP32}/vectors.npz"), "it is an archive of arrays"),
        (("bench", "--out", "nowhere/x.json"), "there is no such folder"),
        (("bench", "--out", ".."), ".. is there already, and is no file"),
        (("bench", "--out", "/dev/null"), "/dev/null is there already, and is no file"),
        (("bench", "--out", "/proc/x.json"), "/proc/x.json cannot be written"),
    ],
)
def test_wrong_use_is_one_sentence(unpacked: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = run_bundle(unpacked, *arguments)
    assert ran.code == 2 and ran.err.startswith("bundle: ") and said in ran.err and "Traceback" not in ran.err


def test_a_single_number_is_no_input(unpacked: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.float32(1))
    ran = run_bundle(unpacked, "infer", "--input", tmp_path / "x.npy")
    assert ran.code == 2 and "x.npy cannot be read: it is a single number" in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize("threads", ["0", "1025", "two"])
def test_a_wrong_number_of_threads_is_a_plain_sentence(unpacked: Path, threads: str) -> None:
    ran = run_bundle(unpacked, "infer", "--threads", threads)
    assert ran.code == 2 and f"argument --threads: '{threads}' is no number from 1 to 1024" in ran.err


def test_the_package_as_a_script_says_what_to_type(unpacked: Path) -> None:
    done = subprocess.run([sys.executable, unpacked / "run", "self-test"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith(f"next: cd {unpacked} && python3 -m run self-test\n")


def test_a_folder_is_watched_while_pictures_come_and_go(unpacked: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "gone.png").symlink_to("nowhere")
    (frames / "empty.png").write_bytes(b"")
    Image.new("L", (28, 28)).save(frames / "x.png")
    ran = run_bundle(unpacked, "serve", "--watch", frames, "--once")
    assert ran.code == 0 and [Path(line["frame"]).name for line in lines(ran.out)] == ["x.png"] and not ran.err
    Image.new("L", (60_000, 1)).save(frames / "long.png")  # the weights that resize it would take all memory
    ran = run_bundle(unpacked, "serve", "--watch", frames, "--once")
    assert ran.code == 0 and [Path(line["frame"]).name for line in lines(ran.out)] == ["x.png"] and "it has 60000 x 1 pixels" in ran.err
    change_bundle(unpacked, lambda raw: raw.update(preprocessing=None))
    ran = run_bundle(unpacked, "serve", "--watch", frames)
    assert ran.code == 2 and "does not say how a picture becomes an input" in ran.err


def test_a_picture_that_is_written_anew_is_a_new_frame(tmp_path: Path) -> None:
    latest = tmp_path / "latest.png"
    latest.write_bytes(b"1")
    frames = watched(str(tmp_path))
    assert next(frames) == str(latest)
    for _ in range(2):
        (tmp_path / "new").write_bytes(b"2")
        (tmp_path / "new").replace(latest)
        assert next(frames) == str(latest)
    (tmp_path / "last.png").write_bytes(b"3")
    assert next(frames) == str(tmp_path / "last.png")


def test_outputs_that_are_no_numbers_are_json_all_the_same(unpacked: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 1, 28, 28), np.inf, np.float32))
    (line,) = lines(run_bundle(unpacked, "infer", "--artifact", FP32, "--input", tmp_path / "x.npy").out)
    assert line["problem"] == "its outputs hold NaN or infinity" and "top" not in line


def test_a_python_without_lzma_says_so(unpacked: Path) -> None:
    code = "import sys; sys.modules['lzma'] = sys.modules['_lzma'] = None; import runpy; sys.argv = ['run', 'install', '../x']; "
    code += "runpy.run_module('run', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code], cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 2 and "this Python cannot decode it" in done.stderr and "Traceback" not in done.stderr


def test_one_artifact_is_proven_alone(unpacked: Path) -> None:
    change_bundle(unpacked, lambda raw: raw["artifacts"][1].update(any_flag=["of-no-processor"]))
    assert run_bundle(unpacked, "self-test", "--artifact", FP32).code == 0
    ran = run_bundle(unpacked, "self-test")
    assert ran.code == 1 and "needs a processor with one of of-no-processor" in ran.out


def test_labels_and_preprocessing_must_fit(demo: Demo, profile: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    for options, said in (
        (("--labels", tmp_path / "labels.txt"), "has 10 classes, and there are 2 labels"),
        (("--preprocess", "size=32x32,order=grey"), "and size=32x32"),
    ):
        ran = run_edge("pack", demo.artifacts / FP32, "--device", profile, *options, "--out", tmp_path / "x.tar.gz")
        assert ran.code == 2 and said in ran.err
    assert "is no name of a bundle" in run_edge("pack", demo.artifacts / FP32, "--device", profile, "--out", tmp_path / "my camera.tar.gz").err


def test_results_of_another_model_of_the_same_size_are_not_its_verdict(
    copy_of: Callable[[str], Path], demo: Demo, profile: Path, tmp_path: Path
) -> None:
    artifact = copy_of("onnx-fp32")
    edit_manifest(artifact, lambda raw: raw.update(tools={"another": "1"}))
    ran = run_edge("pack", artifact, "--device", profile, "--results", demo.folder / "results.json", "--out", tmp_path / "x.tar.gz")
    assert ran.code == 2 and "the results are of another export" in ran.err


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": {}},
        {"best": "nobody"},
        {"artifacts": []},
        {"labels": 3},
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_sentence(unpacked: Path, change: dict[str, Any]) -> None:
    change_bundle(unpacked, lambda raw: raw.update(change))
    ran = run_edge("inspect", unpacked)
    assert ran.code == 2 and "bundle.json" in ran.err and "internal" not in ran.err


def test_a_manifest_that_names_other_files_is_refused(unpacked: Path) -> None:
    change_bundle(unpacked, lambda raw: raw["artifacts"][0].update(vectors="elsewhere.npz"))
    assert "elsewhere.npz', and that is not in SHA256SUMS" in run_edge("inspect", unpacked).err
    change_bundle(unpacked, lambda raw: raw["artifacts"][0].update(folder="../../etc"))
    assert run_edge("inspect", unpacked).code == 2


def test_what_failed_its_gate_is_refused_unless_it_is_marked(copy_of: Callable[[str], Path], profile: Path, tmp_path: Path) -> None:
    artifact, out = copy_of("onnx-int8"), tmp_path / "bad.bundle.tar.gz"
    edit_manifest(artifact, lambda raw: raw.update(parity={**raw["parity"], "passed": False, "reason": "it is wrong"}))  # type: ignore[dict-item]
    ran = run_edge("pack", artifact, "--device", profile, "--out", out)
    assert ran.code == 1 and "failed its parity gate: it is wrong" in ran.err and not out.exists()
    ran = run_edge("pack", artifact, "--device", profile, "--out", out, "--force")
    assert ran.code == 0 and "packed with --force" in ran.out
    assert "packed with --force" in run_edge("inspect", out).out
    out.with_name(f"{out.name}.sig").write_bytes(b"of a stranger")
    assert f"{out.name}.sig was not verified" in run_edge("inspect", out).out


def test_a_failed_verdict_is_refused(demo: Demo, profile: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.toml"
    text = profile.read_text()
    lines_ = [line.replace("value = 9.31", "value = 0.00001") if line.startswith("total") else line for line in text.splitlines()]
    at = lines_.index("[storage]")
    lines_[at + 1] = 'total = { value = 20, unit = "KiB", source = "a test" }'
    strict.write_text("\n".join(lines_))
    for results in ((), ("--results", demo.folder / "results.json")):
        ran = run_edge("pack", demo.artifacts / FP32, "--device", strict, *results, "--out", tmp_path / "x.bundle.tar.gz")
        assert ran.code == 1 and ran.err.startswith("edge: not packed: ") and FP32 in ran.err and "--force" in ran.err


def test_pack_refuses_what_cannot_be_packed(demo: Demo, profile: Path, tmp_path: Path) -> None:
    licence = tmp_path / "a\nb"
    licence.write_text("a licence")
    for arguments, said in (
        ((demo.artifacts / FP32, "--device", profile, "--out", tmp_path / "x.zip"), "a bundle's name ends in .tar.zst or .tar.gz"),
        ((demo.artifacts / PADDLE, demo.artifacts / PADDLE, "--device", profile, "--out", tmp_path / "x.tar.gz"), "is named twice"),
        ((demo.artifacts / FP32, "--device", profile, "--wheels", tmp_path, "--out", tmp_path / "x.tar.gz"), "no wheel is in it"),
        ((demo.artifacts / f"{STUDENT}-paddle-lite-fp32-arm", "--device", profile, "--out", tmp_path / "x.tar.gz"), "is for arm, and desk is x86"),
        ((tmp_path, "--device", profile, "--out", tmp_path / "x.tar.gz"), "not an artifact"),
        ((demo.artifacts / FP32, "--device", profile, "--licence", licence, "--out", tmp_path / "x.tar.gz"), "its name is no plain one"),
        ((demo.artifacts / FP32, "--device", profile, "--out", tmp_path / "x\n.tar.gz"), "is no name of a bundle"),
    ):
        ran = run_edge("pack", *arguments)
        assert ran.code == 2 and said in ran.err and not list(tmp_path.glob("x.*"))


def test_inspect_tells_what_is_inside_and_finds_damage(packed: Path, unpacked: Path, demo: Demo) -> None:
    ran = run_edge("inspect", packed)
    assert ran.code == 0 and all(name in ran.out for name in (FP32, INT8, PADDLE, "plain tar.gz", "28x28 grey"))
    assert run_edge("inspect", unpacked).out.splitlines()[0] == ran.out.splitlines()[0]
    assert json.loads(run_edge("inspect", packed, "--json").out)["name"] == "camera"
    assert "parity: passed" in run_edge("inspect", demo.artifacts / FP32).out
    (unpacked / "artifacts" / "stray").write_text("x")
    assert "stray' is not in SHA256SUMS" in run_edge("inspect", unpacked).err
    (unpacked / "artifacts" / "stray").unlink()
    (unpacked / "LICENSE").write_text("another one")
    ran = run_edge("inspect", unpacked)
    assert ran.code == 2 and "'LICENSE' is not what was packed" in ran.err


def test_wheels_go_along_and_are_unpacked_where_they_fit(demo: Demo, profile: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("mine-1.0-py3-none-any.whl", "other-1.0-cp36-cp36m-win_amd64.whl"):
        with zipfile.ZipFile(wheels / name, "w") as archive:
            archive.writestr(f"{name.split('-')[0]}.py", "answer = 42\n")
            archive.writestr(f"{name.split('-')[0]}-1.0.data/purelib/deep/more.py", "answer = 43\n")
    out = tmp_path / "w.bundle.tar.zst"
    assert run_edge("pack", demo.artifacts / FP32, "--device", profile, "--wheels", wheels, "--out", out).code == 0
    subprocess.run(["tar", "--zstd", "-xf", out, "-C", tmp_path], check=True)
    ran = run_bundle(tmp_path / "w", "install", tmp_path / "there")
    assert ran.code == 0 and "other-1.0-cp36-cp36m-win_amd64.whl is not for this Python" in ran.out
    assert (tmp_path / "there/site/mine.py").read_text() == "answer = 42\n" and not (tmp_path / "there/site/other.py").exists()
    assert (tmp_path / "there/site/deep/more.py").read_text() == "answer = 43\n"
    assert run_bundle(tmp_path / "there", "self-test").code == 0 and run_edge("inspect", tmp_path / "there").code == 0
    small = tmp_path / "small.toml"
    storage = "".join(f'{name} = {{ value = {value}, unit = "{unit}", source = "a test" }}\n' for name, value, unit in ROOM)
    small.write_text(re.sub(r"\[storage\]\n(.+\n)*", f"[storage]\n{storage}", profile.read_text()))
    with zipfile.ZipFile(wheels / "mine-1.0-py3-none-any.whl", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.py", "#" * 300_000)
    int8 = demo.artifacts / INT8
    ran = run_edge("pack", int8, "--device", small, "--wheels", wheels, "--out", out)
    assert ran.code == 1 and "models and unpacked wheels have" in ran.err and f"the storage of desk has {300 << 10:,}" in ran.err
    assert run_edge("pack", int8, "--device", small, "--out", out).code == 0
    shutil.rmtree(tmp_path / "there" / "site")
    assert "site/mine.py cannot be read" in run_bundle(tmp_path / "there", "self-test").out
