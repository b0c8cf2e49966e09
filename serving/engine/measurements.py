"""What was measured on this machine, remembered: artifact and machine -> the fastest backend that gave right answers.

One JSON file, `providers.json`, in the folder SHORTCUT_CACHE; a missing, damaged or unwritable one only costs the
measurement, once a start: what could not be written there, or what the next start should not rely on, goes into a file
of that name in the folder that the processes of the service share. Knows neither sessions nor models.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serving.engine.providers import Backend, ProviderError
from serving.processes import alive

FILE = "providers.json"
MAX_ENTRIES = 256  # the oldest go


@dataclass(frozen=True)
class Measurement:
    """The fastest backend, the images a second of every one that gave right answers, fastest first, and why others did
    not."""

    backend: Backend
    rates: dict[str, float]
    refused: list[str]
    seconds: dict[int, float] = field(default_factory=dict)  # what a run of each batch size takes on that backend


class Measurements:
    """The file in `folder`, and the one in `shared`."""

    def __init__(self, folder: Path, shared: Path | None = None):
        self._cache, self._own = _file(folder), _file(shared)
        self._shared = shared
        self._entries: dict[str, Any] = {}
        self.turn = threading.RLock()  # for the thread that measures: it needs the machine for itself

    def find(self, key: str) -> Measurement | None:
        with self.turn:
            if key not in self._entries:  # another worker may have measured it meanwhile
                for path in filter(None, (self._cache, self._own)):
                    with contextlib.suppress(OSError, ValueError):
                        self._entries |= _entries(path.read_bytes())
        try:
            entry = self._entries[key]
            rates = {str(name): float(rate) for name, rate in entry["rates"].items()}
            backend = Backend(**(entry["backend"] | {"buckets": tuple(entry["backend"]["buckets"])}))
            seconds = {int(size): float(taken) for size, taken in entry["seconds"].items()}
            return Measurement(backend, rates, [str(reason) for reason in entry["refused"]], seconds)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def keep(self, key: str, measurement: Measurement, lasting: bool = True) -> None:
        """For the next start too, if it is `lasting`; within a `turn`. Does without where it cannot write. Two services
        that write at once both leave a whole file."""
        self._entries.pop(key, None)
        self._entries = dict(list(self._entries.items())[1 - MAX_ENTRIES :]) | {key: asdict(measurement)}
        for path in filter(None, (self._cache if lasting else None, self._own)):
            with contextlib.suppress(OSError):
                self._write(path)
                return

    @contextlib.contextmanager
    def trying(self, key: str) -> Iterator[None]:
        """While native code that has worked in a child process is loaded into this one. Raises ProviderError where a
        process of this service has died of the same before: the one that takes its place shall not."""
        mark = self._shared and self._shared / f"trying-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if mark is None:
            yield
            return
        with contextlib.suppress(OSError, ValueError):
            if not alive(int(mark.read_text())):
                raise ProviderError("a worker died when it was loaded")
        with contextlib.suppress(OSError):
            mark.write_text(str(os.getpid()))
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".providers-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(self._entries, file, indent=1)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _entries(text: str | bytes) -> dict[str, Any]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _file(folder: Path | None) -> Path | None:
    try:
        return None if folder is None else folder.expanduser() / FILE
    except RuntimeError:  # HOME is not set, and the user has none
        return None
