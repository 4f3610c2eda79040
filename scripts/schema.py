#!/usr/bin/env python3
"""Writes the schema of results files, ``bench/results.schema.json`` (JSON Schema 2020-12), from the models that read and write them.

.venv/bin/python scripts/schema.py            writes it
.venv/bin/python scripts/schema.py --check    exit code 1 when the file and the models differ
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge.bench.results import Results

TARGET = Path(__file__).resolve().parents[1] / "bench" / "results.schema.json"


def schema() -> str:
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **Results.model_json_schema(mode="serialization")}, indent=1) + "\n"


def main() -> int:
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.is_file() and TARGET.read_text() == schema() else 1
    TARGET.write_text(schema())
    print(f"{TARGET}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
