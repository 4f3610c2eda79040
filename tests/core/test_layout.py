"""The house: who may import whom, what the wheel holds, how light the command line is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
#: Room -> rooms it may import. `core` is everything in edge/ but cli and workflows.
ALLOWED = {
    "core": {"core"},
    "export": {"core", "export"},
    "devices": {"core", "devices"},
    "bench": {"core", "export", "devices", "bench"},
    "workflows": {"core", "export", "devices", "bench", "workflows"},
    "cli": {"core", "export", "devices", "bench", "workflows", "cli"},
}


def room_of(module: str) -> str:
    second = [*module.split("."), ""][1]
    return second if second in ALLOWED else "core"


def python_files() -> Iterator[tuple[str, Path]]:
    """(dotted module, file) of everything the wheel holds, the worker left out."""
    for package in packages():
        folder = ROOT / package.removeprefix("edge.") if (ROOT / package.removeprefix("edge.")).is_dir() else ROOT / package.replace(".", "/")
        for file in sorted(folder.glob("*.py")):
            if "worker" not in package:
                yield f"{package}.{file.stem}", file


def packages() -> list[str]:
    listed: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    return listed


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == "edge" or name.startswith("edge.")}


@pytest.mark.parametrize(("module", "file"), [pytest.param(m, f, id=m) for m, f in python_files() if m != "edge.__init__"])
def test_imports_point_in_one_direction(module: str, file: Path) -> None:
    allowed = ALLOWED[room_of(module)] if module != "edge.__main__" else {"cli", "core"}
    wrong = {name for name in imports_of(file) if room_of(name) not in allowed}
    assert not wrong, f"{module} may not import {wrong}"


def test_the_wheel_lists_every_package_of_the_tree() -> None:
    inside = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "edge").rglob("__init__.py") if not any(q.is_symlink() for q in p.parents)}
    rooms = {
        f"edge.{'.'.join(p.parent.relative_to(ROOT).parts)}" for room in ("export", "bench", "devices") for p in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(inside | rooms) == sorted(packages())


def test_the_wheel_holds_what_its_modules_read() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for room in ("export", "bench", "devices"):
        found = {path for path in (ROOT / room).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert found == {path for pattern in data[f"edge.{room}"] for path in (ROOT / room).glob(pattern)}


@pytest.mark.parametrize("heavy", ["paddle", "onnxruntime", "onnx", "matplotlib", "pydantic", "rich.progress"])
def test_help_is_light(heavy: str) -> None:
    code = f"import sys; from edge.cli.main import main; main(['--help']); sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_importing_the_package_is_light_and_its_names_are_listed() -> None:
    code = "import sys, edge; sys.exit(any(m.split('.')[0] in ('numpy', 'paddle', 'pydantic') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert edge.__all__ == [
        "BenchRequest",
        "ExportRequest",
        "LocalTarget",
        "check",
        "export_model",
        "load_artifact",
        "load_profile",
        "make_target",
        "read_results",
        "run_bench",
        "write_report",
    ]
    assert all(callable(getattr(edge, name)) for name in edge.__all__)


def test_the_user_s_packages_are_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = " ".join(project["dependencies"])
    assert all(package in named for package in ("paddlepaddle", "paddle2onnx", "onnxruntime", "numpy"))
    assert any("paddlelite" in line and "python_version" in line for line in project["optional-dependencies"]["lite"])


def test_no_registry_host_stands_in_a_file() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org")
    texts = {name: (ROOT / name).read_text(errors="replace") for name in listed if name and (ROOT / name).is_file()}
    assert not [(name, host) for name, text in texts.items() for host in hosts if host in text]


def test_worker_needs_only_the_standard_library_numpy_and_a_runtime_and_parses_as_python_3_8() -> None:
    known = set(sys.stdlib_module_names) | {"numpy", "edge_worker", "onnxruntime", "paddle", "paddlelite", "pynvml", "mlperf_loadgen"}
    for file in sorted((ROOT / "bench" / "worker").rglob("*.py")):
        tree = ast.parse(file.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {str(name).split(".")[0] for name in names} <= known | {"__future__"}, file
