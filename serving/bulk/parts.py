"""Tables of answers -> one Parquet file, so that nothing is lost or half-written when the work is interrupted.

While it runs, each part lies whole in the folder `<output>.parts`; at the end all are merged into `<output>`. A run
that goes on reads from both what is answered. Knows nothing of pictures, models or Ray.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from serving.bulk.reading import SCHEMA, UNREADABLE

PART_ROWS = 50_000
PART_SECONDS = 30.0  # at most this much work is lost when the machine dies
PREFIX = b"shortcut."  # of the keys in a file's metadata


class Counts(NamedTuple):
    """Of the merged file: rows, those with an error, and those that are unsure."""

    pictures: int
    errors: int
    unsure: int


class OutputError(Exception):
    """One line that says why the answers cannot be written there."""


class Output:
    """The answers under `path`. `metadata` says what was asked and of which model: one file has one kind of answers."""

    def __init__(self, path: Path, metadata: Mapping[str, str]):
        if path.suffix != ".parquet":
            raise OutputError(f"--output {path}: must end with .parquet")
        if path.is_dir():
            raise OutputError(f"--output {path}: is a folder")
        self.path = path
        self.folder = path.with_name(path.name + ".parts")
        self.done: set[str] = set()  # names of the pictures that were answered before this run
        self.answered = 0  # pictures, before it and in it
        self._schema = SCHEMA.with_metadata({PREFIX + k.encode(): v.encode() for k, v in metadata.items()})
        self._waiting: list[pyarrow.Table] = []
        self._since = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for part in self._parts():
                self._check(part)
                for table in _tables(part, ["file", "code"]):
                    self.done.update(table.filter(_lasting(table))["file"].to_pylist())
        except (OSError, pyarrow.ArrowException) as err:
            raise OutputError(f"{path}: cannot be read or made ({str(err).splitlines()[0]})") from err
        self.answered = len(self.done)

    def add(self, table: pyarrow.Table) -> None:
        """Keep answers; on the disk once there are many, or they have waited long."""
        self._waiting.append(table.cast(SCHEMA))
        self.answered += pyarrow.compute.sum(_lasting(table)).as_py() or 0
        rows = sum(map(len, self._waiting))
        if rows >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put what waits on the disk, as one part."""
        self._since = time.monotonic()
        if not self._waiting:
            return
        self.folder.mkdir(exist_ok=True)
        number = max((int(part.stem) for part in self._numbered()), default=0) + 1
        self._write(self.folder / f"{number:06}.parquet", iter([pyarrow.concat_tables(self._waiting)]))
        self._waiting = []

    def merge(self) -> "Counts":
        """All answers into the one file; the parts go. A picture that could not be read before, and was tried again,
        has its last answer only."""
        self.flush()
        parts = self._parts()
        if parts != [self.path]:
            self._write(self.path, self._merged(parts))
            shutil.rmtree(self.folder, ignore_errors=True)
        pictures = errors = unsure = 0
        for table in _tables(self.path, ["error", "unsure"]):
            pictures += len(table)
            errors += len(table) - table["error"].null_count
            unsure += len(table) - table["unsure"].null_count
        return Counts(pictures, errors, unsure)

    def listed_errors(self, most: int) -> Iterator[tuple[str, str]]:
        """The first names with an error, and the error."""
        for part in self._parts():
            for table in _tables(part, ["file", "error"]):
                for row in table.filter(pyarrow.compute.is_valid(table["error"])).to_pylist():
                    if most == 0:
                        return
                    most -= 1
                    yield row["file"], row["error"]

    def _merged(self, parts: list[Path]) -> Iterator[pyarrow.Table]:
        """Every row, but only the newest of a picture that could not be read once."""
        unread: set[str] = set()
        for part in parts:
            for table in _tables(part, ["file", "code"]):
                unread.update(table.filter(pyarrow.compute.equal(table["code"], UNREADABLE))["file"].to_pylist())
        names = pyarrow.array(unread, pyarrow.string())
        seen: set[str] = set()
        for part in reversed(parts):  # the newest first
            for table in _tables(part):
                keep = np.ones(len(table), bool)
                for row in pyarrow.compute.indices_nonzero(pyarrow.compute.is_in(table["file"], names)).to_pylist():
                    name = table["file"][row].as_py()
                    keep[row] = name not in seen
                    seen.add(name)
                yield table if keep.all() else table.filter(pyarrow.array(keep))

    def _parts(self) -> list[Path]:
        """Every file that holds answers, the oldest first."""
        return ([self.path] if self.path.is_file() else []) + self._numbered()

    def _numbered(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.parquet") if path.stem.isdecimal())

    def _check(self, part: Path) -> None:
        """Raises OutputError where the file holds answers of another kind."""
        schema = pyarrow.parquet.read_schema(part)
        if schema.remove_metadata() != SCHEMA:
            raise OutputError(f"{part}: holds no answers of this command: choose another --output, or remove it")
        for key, value in self._schema.metadata.items():
            before = (schema.metadata or {}).get(key, b"nothing")
            if before != value:
                what = key.removeprefix(PREFIX).decode()
                raise OutputError(
                    f"{part}: holds answers with {what} {before.decode()}, asked is {value.decode()}: "
                    "choose another --output, or remove it"
                )

    def _write(self, path: Path, tables: Iterator[pyarrow.Table]) -> None:
        """Beside, then renamed into place."""
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with pyarrow.parquet.ParquetWriter(beside, self._schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table.replace_schema_metadata(self._schema.metadata))
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as err:
            raise OutputError(f"{path}: cannot be written ({err.strerror or err})") from err
        finally:
            beside.unlink(missing_ok=True)


def _lasting(table: pyarrow.Table) -> pyarrow.ChunkedArray:
    """(N,) booleans: whether the picture need not be tried again."""
    return pyarrow.compute.fill_null(pyarrow.compute.not_equal(table["code"], UNREADABLE), True)


def _tables(part: Path, columns: list[str] | None = None) -> Iterator[pyarrow.Table]:
    """Some rows at a time, whatever the file's size."""
    with pyarrow.parquet.ParquetFile(part) as parquet:
        for batch in parquet.iter_batches(PART_ROWS, columns=columns):
            yield pyarrow.Table.from_batches([batch])
