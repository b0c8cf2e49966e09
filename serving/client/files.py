"""Files -> answers: many at once, in batches. Knows the file system and the client, not how answers are kept."""

import io
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from serving.client.clients import Client
from serving.client.protocol import NoAnswer, Options, Result
from serving.errors import BodyTooLarge, ClassifyError

BATCH_BYTES = 4 * 1024 * 1024  # a batch that has so many takes no further file
LARGEST = 64 * 1024 * 1024  # bytes of a file that is sent; the service takes half of that unless it is told otherwise
# A batch that is refused so may be answered in two halves. A single picture is then at fault itself.
DIVISIBLE = (400, 408, 413, 500, 504)
# What tools leave in folders, beside all that begins with a dot. (Training leaves out the same.)
TOOLS = {"__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini"}


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
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                return UnreadableFile("cannot be read: no regular file")
            if status.st_size > LARGEST:
                return BodyTooLarge(f"{status.st_size:,} bytes; files of up to {LARGEST:,} are sent")
            return opened.readall()
    except OSError as err:
        return UnreadableFile(f"cannot be read: {err.strerror}")


def _open(file: str, flags: int) -> int:
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))  # or a named pipe, which Windows lacks, is waited for


def files_below(folder: str, output: str) -> tuple[dict[str, str], list[str]]:
    """The files in and below `folder` (which ends in /), relative to it and sorted, each with the time of its last
    change; and what could not be looked into. Left out are `output`, hidden files and what tools leave. Links to
    folders are not followed. Raises NotADirectoryError or FileNotFoundError."""
    own = Path(output).resolve()
    files: dict[str, str] = {}
    problems: list[str] = []
    with os.scandir(folder):  # raises
        pass
    for root, folders, names in os.walk(folder, onerror=lambda err: problems.append(str(err))):
        folders[:] = [name for name in folders if not _of_a_tool(name)]
        if own.name in names and Path(root).resolve() == own.parent:
            names.remove(own.name)
        start = f"{slashed(root).rstrip('/')}/".removeprefix(folder)
        files |= {start + name: _changed(Path(root, name)) for name in names if not _of_a_tool(name)}
    return dict(sorted(files.items())), problems


def slashed(path: str) -> str:
    """With / between the folders on every system, so that a table from one is a table on another."""
    return path.replace(os.sep, "/")


def _of_a_tool(name: str) -> bool:
    return name.startswith(".") or name in TOOLS


def _changed(path: Path) -> str:
    """When the file was last changed, to the microsecond; empty where that is not known."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    except (OSError, ValueError, OverflowError):
        return ""
