"""Rows about pictures -> a CSV file that is there whole, or not at all. Knows neither models nor what the rows say."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write `header` and `rows` beside `path`, then rename. A name that is no UTF-8 is written in its own bytes.

    A link or a device, as /dev/stdout, is written through and not replaced. Raises OSError.
    """
    whole = not path.is_symlink() and (path.is_file() or not path.exists())
    partial = path.with_name(f".{path.name}.partial") if whole else path
    try:
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
        if whole:
            partial.replace(path)
    finally:
        if whole:
            partial.unlink(missing_ok=True)
