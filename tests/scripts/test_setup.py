"""The set-up finds a CPython that runs, not one that is only named."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
HERE = sys.version_info[:2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_python(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_hidden_interpreter_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_PYTHON310", "/nonexistent/python3.10")
    assert script("setup").find_python(((3, 10),)) is None


def test_a_shim_that_fails_is_passed_over_for_the_version_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shims = tmp_path / "shims"
    fake_python(shims / "python3.9", "echo 'pyenv: version not active' >&2; exit 127")
    real = tmp_path / "versions" / "3.9.1" / "bin" / "python"
    fake_python(real, "echo 3 9")
    monkeypatch.setenv("PATH", f"{shims}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYENV_ROOT", "/nonexistent")
    assert script("setup").find_python(((3, 9),)) == str(real)


def test_the_running_interpreter_is_found() -> None:
    assert script("setup").version_of(sys.executable) == HERE
