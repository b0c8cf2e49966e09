"""The CSV that a folder's answers are kept in: rows in, whole lines out, and what an earlier run has answered.

Knows neither HTTP nor how a picture is asked about.
"""

import csv
import errno
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.client.protocol import Result
from serving.errors import ClassifyError

BOM = b"\xef\xbb\xbf"  # by which spreadsheets know UTF-8
_FORMULA = re.compile(r"[=+\-@\t\r']")  # a spreadsheet computes a cell that begins so; ' is how one is told not to
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_LOCKED_BYTE = 1 << 40  # far behind the end of any table: on Windows a locked byte cannot be read


class Table:
    """A line a file. Whole lines are appended, and those of an earlier run are kept.

    `changed` says of each file that is there when it was last changed, as the column `changed` has it. A line of a file
    that has changed since is dropped. `bom` begins a new table with a byte order mark.

    `done` are the files that have a line, `refused` those whose line is a failure. Raises OSError, and ValueError for a
    file that holds something else, or answers of another version, or that another run writes to.
    """

    def __init__(self, path: str, top_k: int, changed: Mapping[str, str] | None = None, bom: bool = False):
        columns = [name + n for n in ("", *map(str, range(2, top_k + 1))) for name in ("label", "probability")]
        header = _encode([["file", *columns, "unsure", "model", "version", "changed", "code", "error"]])
        self.done: set[str] = set()
        self.refused: set[str] = set()
        self._path, self._width, self._changed = path, len(columns), changed or {}
        self._source = ("", "")  # model and version; empty as long as nobody knows
        self._file = _open(path)
        try:
            self._begin(header, top_k, bom)
        except BaseException:
            os.close(self._file)
            raise

    def _begin(self, header: bytes, top_k: int, bom: bool) -> None:
        _lock(self._file, self._path)
        there = Path(self._path).read_bytes()
        marked = there.startswith(BOM)
        text = there.removeprefix(BOM)
        if not (text.startswith(header) or header.startswith(text)):
            raise ValueError(f"{self._path} is there, and holds something else than answers with --top-k {top_k}")
        self._end = _whole(there)
        os.ftruncate(self._file, self._end)  # a run that was killed may have left a piece of a line
        if not self._end:
            self._append((BOM if bom or marked else b"") + header)
            return
        kept = there[len(header) + (len(BOM) if marked else 0) : self._end].decode("utf-8", "surrogateescape")
        rows = self._rows(kept, header)
        current = [row for row in rows if self._changed.get(_plain(row[0]), row[-3]) in (row[-3], "")]
        self._take(current)
        if len(current) < len(rows):
            self._rewrite(there[: self._end - len(kept.encode("utf-8", "surrogateescape"))] + _encode(current))

    def _rows(self, kept: str, header: bytes) -> list[list[str]]:
        """Raises ValueError where somebody has written other lines into the table."""
        width = header.count(b",") + 1
        try:
            rows = list(csv.reader(io.StringIO(kept, newline="")))
        except csv.Error as err:
            raise ValueError(f"{self._path} holds something else than answers: {err}") from err
        for row in rows:
            if len(row) != width:
                line = f"a line of {len(row)} cells, not {width}, begins with {','.join(row)[:40]!a}"
                raise ValueError(f"{self._path} holds something else than answers: {line}")
        return rows

    def _rewrite(self, content: bytes) -> None:
        """Put a new table in the place of the old one, whole or not at all."""
        path, beside = Path(self._path), Path(f"{self._path}.tmp")
        try:
            beside.write_bytes(content)
            os.close(self._file)  # Windows replaces no open file
            try:
                beside.replace(path)
            finally:
                self._file = _open(self._path)
        finally:
            beside.unlink(missing_ok=True)
        _lock(self._file, self._path)
        self._end = len(content)

    def add(self, results: Iterable[tuple[str, Result]]) -> None:
        rows = [[_safe(file), *self._cells(file, result)] for file, result in results]
        self._take(rows)
        self._append(_encode(rows))

    def _cells(self, file: str, result: Result) -> list[str]:
        changed = self._changed.get(file, "")
        if isinstance(result, ClassifyError):
            return [""] * (self._width + 3) + [changed, result.code, _safe(str(result))]
        cells = [cell for best in result.predictions for cell in (_safe(best.label), str(best.probability))]
        cells += [""] * (self._width - len(cells))  # the model has fewer classes
        return [*cells, result.unsure or "", result.model, str(result.version), changed, "", ""]

    def _take(self, rows: list[list[str]]) -> None:
        for row in rows:
            source = row[-5], row[-4]
            if source != self._source and any(source):
                if any(self._source):
                    of, now = (" version ".join(pair) for pair in (self._source, source))
                    raise ValueError(f"{self._path} has answers of {of}, and {now} answers now; say which you want")
                self._source = source
            if row[-2]:
                self.refused.add(_plain(row[0]))
        self.done.update(_plain(row[0]) for row in rows)

    def _append(self, lines: bytes) -> None:
        try:
            if os.write(self._file, lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(lines)

    def close(self) -> None:
        os.close(self._file)


def _open(path: str) -> int:
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is no file: answers go into a table that can be read again")
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)


def _lock(file: int, path: str) -> None:
    """Until the file is closed, no other run may write to it. Raises ValueError where one does."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return  # a file system without locks
        raise ValueError(f"{path}: another run writes to it; wait for its end, or name another --output") from err


def _safe(cell: str) -> str:
    """The cell as text, where a spreadsheet would compute it: with ' before it, as one tells a spreadsheet."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _plain(cell: str) -> str:
    """What `_safe` was given."""
    return cell[1:] if cell.startswith("'") else cell


def _encode(rows: Iterable[Sequence[Any]]) -> bytes:
    """RFC 4180; the names of files keep their bytes, whether these are UTF-8 or not."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _whole(table: bytes) -> int:
    """Where the last whole line ends; a line end between quotes belongs to a name."""
    end = at = quotes = 0
    for line in io.BytesIO(table):
        at += len(line)
        quotes += line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:
            end = at
    return end
