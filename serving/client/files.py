"""Files -> answers: many at once, in batches, and the CSV that a folder's answers are kept in."""

import csv
import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.client.clients import Client
from serving.client.protocol import NoAnswer, Options, Result
from serving.errors import BodyTooLarge, ClassifyError

BATCH_BYTES = 4 * 1024 * 1024  # a batch that has so many takes no further file
LARGEST = 64 * 1024 * 1024  # bytes of a file that is sent; the service takes half of that unless it is told otherwise
# A batch that is refused so may be answered in two halves. A single picture is then at fault itself.
DIVISIBLE = (400, 408, 413, 500, 504)


class UnreadableFile(NoAnswer):
    """Nobody was asked: the file cannot be read."""

    code = "unreadable_file"


def classify_files(
    client: Client,
    files: Sequence[str],
    report: Callable[[list[tuple[str, Result]]], None],
    options: Options,
    batch: int,
    concurrency: int,
) -> None:
    """Ask about `batch` files a request, with `concurrency` requests at once. `report` is given the files of each
    request with what came of them, one request after the other, as they come.

    Raises what is no file's failure, when the requests that were under way have been reported.

    (With threads: under asyncio httpx 0.28 takes four times as long for a request, because httpcore 1.0.9 looks again
    and again for a module that is not installed, sniffio.)
    """
    left = iter(files)  # one step of a list's iterator is not interrupted by another thread
    stop, reporting = threading.Event(), threading.Lock()

    def work() -> None:
        try:
            while not stop.is_set() and (read := _read(left, batch)):
                answers = iter(_ask(client, [picture for _, picture in read if isinstance(picture, bytes)], options))
                with reporting:
                    report([(file, next(answers) if isinstance(got, bytes) else got) for file, got in read])
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(concurrency) as pool:
        working = [pool.submit(work) for _ in range(concurrency)]
        try:
            for done in working:
                done.result()
        except BaseException:  # Ctrl-C too
            stop.set()
            raise


def _ask(client: Client, pictures: list[bytes], options: Options) -> list[Result]:
    if not pictures:
        return []
    try:
        return client.classify_batch(pictures, **options)
    except ClassifyError as err:
        if err.status not in DIVISIBLE:
            raise
        if len(pictures) == 1:
            return [err]
    half = len(pictures) // 2
    return _ask(client, pictures[:half], options) + _ask(client, pictures[half:], options)


def _read(files: Iterator[str], count: int) -> list[tuple[str, bytes | ClassifyError]]:
    """The next `count` files, or fewer if they are large."""
    read: list[tuple[str, bytes | ClassifyError]] = []
    size = 0
    while len(read) < count and size < BATCH_BYTES and (file := next(files, None)) is not None:
        got = _read_file(file)
        read.append((file, got))
        size += len(got) if isinstance(got, bytes) else 0
    return read


def _read_file(file: str) -> bytes | ClassifyError:
    try:
        with io.FileIO(file, opener=_open) as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                return UnreadableFile("cannot be read: no regular file")
            if found.st_size > LARGEST:
                return BodyTooLarge(f"{found.st_size:,} bytes; files of up to {LARGEST:,} are sent")
            return opened.readall()
    except OSError as err:
        return UnreadableFile(f"cannot be read: {err.strerror}")


def _open(file: str, flags: int) -> int:
    return os.open(file, flags | os.O_NONBLOCK)  # or a named pipe would be waited for


def files_below(folder: str, output: str) -> tuple[list[str], list[str]]:
    """The files in and below `folder` (which ends in /), relative to it and sorted, without `output`; and what could
    not be looked into. Links to folders are not followed."""
    own = Path(output).resolve()
    files: list[str] = []
    problems: list[str] = []
    for root, _, names in os.walk(folder, onerror=lambda err: problems.append(str(err))):
        if own.name in names and Path(root).resolve() == own.parent:
            names.remove(own.name)
        start = f"{root.rstrip('/')}/".removeprefix(folder)
        files += [start + name for name in names]
    return sorted(files), problems


class Table:
    """A line a file. Whole lines are appended, and those of an earlier run are kept.

    `done` are the files that have a line, `refused` counts those whose line is a failure. Raises OSError, and
    ValueError for a file that holds something else, or answers of another version.
    """

    def __init__(self, path: str, top_k: int):
        columns = [name + n for n in ("", *map(str, range(2, top_k + 1))) for name in ("label", "probability")]
        header = _encode([["file", *columns, "unsure", "model", "version", "code", "error"]])
        self.done: set[str] = set()
        self.refused = 0
        self._path, self._width = path, len(columns)
        self._source = ("", "")  # model and version; empty as long as nobody knows
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        there = Path(path).read_bytes()
        if not (there.startswith(header) or header.startswith(there)):
            raise ValueError(f"{path} is there, and holds something else than answers with --top-k {top_k}")
        self._end = _whole(there)
        os.ftruncate(self._file, self._end)  # a run that was killed may have left a piece of a line
        if not self._end:
            self._append(header)
        text = there[len(header) : self._end].decode("utf-8", "surrogateescape")
        self._take(list(csv.reader(io.StringIO(text, newline=""))))

    def add(self, results: Iterable[tuple[str, Result]]) -> None:
        rows = [[file, *self._cells(result)] for file, result in results]
        self._take(rows)
        self._append(_encode(rows))

    def _cells(self, result: Result) -> list[str]:
        if isinstance(result, ClassifyError):
            return [""] * (self._width + 3) + [result.code, str(result)]
        cells = [str(cell) for best in result.predictions for cell in (best.label, best.probability)]
        cells += [""] * (self._width - len(cells))  # the model has fewer classes
        return [*cells, result.unsure or "", result.model, str(result.version), "", ""]

    def _take(self, rows: list[list[str]]) -> None:
        for row in rows:
            source = row[-4], row[-3]
            if source != self._source and any(source):
                if any(self._source):
                    of, now = (" version ".join(pair) for pair in (self._source, source))
                    raise ValueError(f"{self._path} has answers of {of}, and {now} answers now; say which you want")
                self._source = source
            self.refused += row[-2] != ""
        self.done.update(row[0] for row in rows)

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
