"""SHORTCUT_UNSURE_PICTURES=DIR: pictures whose answer was unsure are kept, for a person to sort and training to learn.

A file is DIR/<model>/<label that was answered>/<hash of its bytes>.<format>: nothing in a path is a client's text. A
thread writes, so that no request waits for the disk. Knows answers and files, no protocol.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import queue
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from serving.errors import StartError
from serving.images.formats import picture_format
from serving.operations import metrics
from serving.repository.answers import Answer, Outcome, rank

log = logging.getLogger("shortcut")

MOST_WAITING = 32  # pictures that may wait to be written; what comes then is dropped
MOST_WAITING_BYTES = 64 * 1024 * 1024
LOOK_SECONDS = 10.0  # until a full folder is looked through again
SAY_SECONDS = 60.0  # between two lines of the log about failures
FREE_AGAIN = 0.9  # of the limit: once no more is taken, the log says anew that the folder is full
BLOCK = 4096  # bytes that a disk gives at a time: a file of 300 bytes takes so many
LEDGER = ".bytes"  # the file that workers lock while they write; it says what all pictures take
LONGEST = 120  # bytes of a folder's name; file systems allow 143 to 255
_ENDINGS = {"JPEG": "jpg"}  # of formats that are not called as their files end
_UNSAFE = "/\\%~"


def folder_name(label: str) -> str:
    """A folder's name for any label; two labels never have the same.

    Most labels stay as they are. What cannot be in a name, is not seen, or would hide the folder is written as in a URL
    (%2F). So are all accents where they are not in Unicode's composed form, to which training brings names. A long name
    is cut, and a hash of the label appended after `~`, which no other name has.
    """
    composed = unicodedata.is_normalized("NFC", label)
    name = "".join(
        _quoted(letter)
        if letter in _UNSAFE or not letter.isprintable() or (letter > "\x7f" and not composed)
        else letter
        for letter in label
    )
    if name.startswith("."):
        name = _quoted(".") + name[1:]
    if len(name.encode()) > LONGEST:
        digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return name.encode()[: LONGEST - 33].decode("utf-8", "ignore") + "~" + digest
    return name or "%"


def _quoted(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


def need_folder(folder: Path) -> None:
    """Make it, for its owner alone, if it is not there. Raises StartError where it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as err:
        raise StartError(f"SHORTCUT_UNSURE_PICTURES={folder}: cannot be written: {err.strerror or err}") from err


class _Picture(NamedTuple):
    """What waits to be written."""

    model: str
    label: str
    data: bytes


class UnsurePictures:
    """At most `limit` bytes of pictures in `folder`, of all workers and models together, counted in whole blocks.

    When the folder is full, what is new is not kept. Raises StartError where the folder cannot be written.
    """

    def __init__(self, folder: Path, limit: int):
        need_folder(folder)
        self._folder, self._limit = folder, limit
        self._waiting: queue.Queue[_Picture] = queue.Queue(MOST_WAITING)
        self._given = self._done = 0  # bytes: the event loop counts the one, the thread the other
        self._looked: float | None = None  # when this process has looked through the folder, by time.monotonic()
        self._failure_logged: float | None = None
        self._full_logged = False
        threading.Thread(target=self._write, name="unsure", daemon=True).start()

    def after(
        self, done: Callable[[Outcome], None], data: bytes, min_probability: float | str | None
    ) -> Callable[[Outcome], None]:
        """`done`, and then the picture is kept where its answer is unsure; `min_probability` is as for `rank`."""
        return functools.partial(self._answered, done, data, min_probability)

    def _answered(
        self, done: Callable[[Outcome], None], data: bytes, min_probability: float | str | None, outcome: Outcome
    ) -> None:
        done(outcome)
        if not isinstance(outcome, Answer):
            return
        ranking = rank(outcome, 1, min_probability)
        if ranking.unsure is None:
            return
        picture = _Picture(outcome.model, outcome.labels[ranking.best[0][0]], data)
        if self._given - self._done + len(data) <= MOST_WAITING_BYTES:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(picture)
                self._given += len(data)
                return
        metrics.unsure_picture(picture.model, "dropped")

    def _write(self) -> None:
        """On a thread of its own, for ever."""
        while True:
            picture = self._waiting.get()
            try:
                result = self._keep(picture)
            except Exception as err:  # the disk's, mostly; never the end of keeping
                result = "failed"
                self._say_failed(err)
            self._done += len(picture.data)
            metrics.unsure_picture(picture.model, result)
            del picture  # not held until the next one comes

    def _keep(self, picture: _Picture) -> str:
        """What came of it. Raises OSError."""
        form = picture_format(picture.data)
        digest = hashlib.sha256(picture.data).hexdigest()[:32]
        name = f"{digest}.{_ENDINGS.get(form, form.lower())}"
        of_model = self._folder / folder_name(picture.model)
        with self._ledger() as ledger:
            if any(of_model.glob(f"*/{name}")):  # in another label's folder, where somebody has put it there
                return "known"
            size = _on_disk(len(picture.data))
            taken = self._taken(ledger.read(), size)
            full = taken + size > self._limit
            if not full:
                _write_whole(of_model / folder_name(picture.label), name, picture.data)
                taken += size
            ledger.seek(0)
            ledger.truncate()
            ledger.write(str(taken))
        self._say_full(full, taken)
        return "full" if full else "kept"

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[TextIO]:
        """While it is open no other worker writes, so that all together stay below the limit."""
        self._folder.mkdir(mode=0o700, exist_ok=True)  # somebody may have moved it away as a whole
        with os.fdopen(os.open(self._folder / LEDGER, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _taken(self, entry: str, size: int) -> int:
        """The bytes that pictures take: as the ledger has it, or by a look where there is no room for `size` more."""
        now = time.monotonic()
        known = int(entry) if entry.isascii() and entry.isdecimal() else None
        due = self._looked is None or now - self._looked >= LOOK_SECONDS
        if known is not None and self._looked is not None and not (due and known + size > self._limit):
            return known
        self._looked = now
        return _look(self._folder)

    def _say_full(self, full: bool, taken: int) -> None:
        if full and not self._full_logged:
            log.warning(
                "%s is full: SHORTCUT_UNSURE_BYTES is %d. Unsure pictures are not kept until some are sorted away",
                self._folder,
                self._limit,
            )
        self._full_logged = full or (self._full_logged and taken > FREE_AGAIN * self._limit)

    def _say_failed(self, err: Exception) -> None:
        now = time.monotonic()
        if self._failure_logged is None or now - self._failure_logged >= SAY_SECONDS:
            self._failure_logged = now
            log.error("an unsure picture cannot be kept: %s", err)


def _write_whole(folder: Path, name: str, data: bytes) -> None:
    """Under a hidden name first, which training passes over. Raises OSError."""
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    part = folder / f".{name}.part"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        part.rename(folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _look(folder: Path) -> int:
    """The bytes that all files take, in whole blocks. What a killed worker has left half-written is removed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):  # somebody sorts
                if name.endswith(".part"):
                    path.unlink()
                elif name != LEDGER:
                    total += _on_disk(path.lstat().st_size)
    return total


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
