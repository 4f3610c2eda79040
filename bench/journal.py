"""What the workers of a run have found so far, a file each: an interrupted run takes it up again, and nothing measured is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from edge.files import write_atomic

#: Of a record, and of what it holds.
SCHEMA_VERSION = 1
MAX_RECORD = 256 << 20


class Journal:
    """A folder of records beside the results file.

    A record is found again by all that decides what it holds: its key, plain JSON values.
    """

    def __init__(self, results: Path) -> None:
        self.folder = results.with_name(f"{results.name}.partial")

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The record for this key; None where there is none that can be read."""
        path = self._path(key)
        try:
            if path.stat().st_size > MAX_RECORD:
                return None
            raw = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        good = isinstance(raw, dict) and raw.get("schema_version") == SCHEMA_VERSION and raw.get("key") == json.loads(json.dumps(key))
        record = raw.get("record") if good else None
        return record if isinstance(record, dict) else None

    def put(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Keep the record, whole or not at all."""
        write_atomic(self._path(key), json.dumps({"schema_version": SCHEMA_VERSION, "key": key, "record": record}))

    def remove(self) -> None:
        """The run is complete: its results hold everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"
