"""The written schema of results files is that of the models that read and write them, and a results file obeys it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_written_schema_is_the_one_in_use() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "schema.py", "--check"], capture_output=True)
    assert done.returncode == 0, "run: .venv/bin/python scripts/schema.py"
