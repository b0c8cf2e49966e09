"""What was measured on this machine, remembered: artifact and machine -> the fastest backend that gave right answers.

One JSON file, `providers.json`, in the folder SHORTCUT_CACHE; a missing, damaged or unwritable one only costs the
measurement, once a start: what could not be written there, or was measured beside live requests, goes into a file of
that name in the folder that the processes of the service share. Knows neither sessions nor models.
"""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.engine.providers import Backend

FILE = "providers.json"
MAX_ENTRIES = 256  # the oldest go


@dataclass(frozen=True)
class Measurement:
    """The fastest backend, the images a second of every one that gave right answers, fastest first, and why others did
    not."""

    backend: Backend
    rates: dict[str, float]
    refused: list[str]


class Measurements:
    """The file in `folder`, and the one in `shared`. What a service measures while it is `busy` with requests it keeps
    for itself: the next start may find the machine idle, and measure better."""

    def __init__(self, folder: Path, shared: Path | None = None, busy: bool = False):
        cache, own = _file(folder), _file(shared)
        self._paths = [path for path in (cache, own) if path is not None]
        self._written = [path for path in (None if busy else cache, own) if path is not None]
        self._entries: dict[str, Any] = {}

    def find(self, key: str) -> Measurement | None:
        if key not in self._entries:  # another worker may have measured it meanwhile
            for path in self._paths:
                with contextlib.suppress(OSError, ValueError):
                    self._entries |= _entries(path.read_bytes())
        try:
            entry = self._entries[key]
            rates = {str(name): float(rate) for name, rate in entry["rates"].items()}
            backend = Backend(**(entry["backend"] | {"buckets": tuple(entry["backend"]["buckets"])}))
            return Measurement(backend, rates, [str(reason) for reason in entry["refused"]])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def keep(self, key: str, measurement: Measurement) -> None:
        """Does without where it cannot write. Two services that write at once both leave a whole file."""
        self._entries.pop(key, None)
        self._entries = dict(list(self._entries.items())[1 - MAX_ENTRIES :]) | {key: asdict(measurement)}
        for path in self._written:
            with contextlib.suppress(OSError):
                self._write(path)
                return

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
