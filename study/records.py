"""Results of experiments <-> JSON files: runs/study/NAME.json, and the full runs' runs/MODEL.json.

A record counts for a row only if it was made from the same specification: a changed row is a missing one. Knows
nothing of what the numbers mean.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from study.experiments import Committed, Row, specification

Record = dict[str, Any]


class Records:
    """The records there are for `rows` under the folder `runs`, by experiment name."""

    def __init__(self, runs: Path, rows: Iterable[Row]):
        self.runs = runs
        self.rows = {row.name: row for row in rows}
        self.found: dict[str, Record] = {}
        for row in self.rows.values():
            record = read(self.path(row.name))
            if record and (isinstance(row, Committed) or record.get("experiment") == specification(row)):
                self.found[row.name] = record

    def path(self, name: str) -> Path:
        row = self.rows[name]
        return self.runs / f"{row.model}.json" if isinstance(row, Committed) else self.runs / "study" / f"{name}.json"

    def __getitem__(self, name: str) -> Record:
        return self.found[name]

    def get_all(self, names: Iterable[str]) -> list[Record]:
        return [self.found[name] for name in names]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` without a record, in order."""
        return [name for name in names if name not in self.found]

    def keep(self, row: Row, result: Record) -> None:
        """Write a finished experiment at once, whole or not at all."""
        record = _short({"name": row.name, "experiment": specification(row), **result})
        path = self.path(row.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(path)
        self.found[row.name] = record


def read(path: Path) -> Record | None:
    """None for a file that is not there or does not parse: the experiment is then run again."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def _short(value: Any) -> Any:
    """Floats with 6 significant digits, except in the specification: that must compare equal."""
    if isinstance(value, dict):
        return {key: item if key == "experiment" else _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
