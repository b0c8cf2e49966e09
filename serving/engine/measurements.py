"""What was measured on this machine, remembered: artifact and machine -> the fastest way that gave right answers.

One JSON file, `providers.json` in the folder SHORTCUT_CACHE; a missing, damaged or unwritable one only costs the
measurement, once a start: the parent hands what it measured to its workers, and what a worker measures of a version
that came later it leaves for the others in the folder that they share. Knows neither sessions nor models.
"""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.engine.providers import Way

FILE = "providers.json"
MAX_ENTRIES = 256  # the oldest go
_SHARED = "SHORTCUT_MEASURED"  # from the parent to its workers; not a setting


@dataclass(frozen=True)
class Choice:
    """The fastest way, the images a second of every one that gave right answers, fastest first, and why others did
    not."""

    way: Way
    rates: dict[str, float]
    refused: list[str]


class Choices:
    """The file and what the parent measured; `keep` writes the file anew."""

    def __init__(self, folder: Path, shared: Path | None = None):
        self._paths = [place.expanduser() / FILE for place in (folder, shared) if place is not None]
        self._entries: dict[str, Any] = {}
        self._asked: set[str] = set()
        with contextlib.suppress(ValueError):
            self._entries |= _entries(os.environ.get(_SHARED, "{}"))

    def find(self, key: str) -> Choice | None:
        self._asked.add(key)
        if key not in self._entries:  # another worker may have measured it meanwhile
            for path in self._paths:
                with contextlib.suppress(OSError, ValueError):
                    self._entries |= _entries(path.read_bytes())
        try:
            entry = self._entries[key]
            rates = {str(name): float(rate) for name, rate in entry["rates"].items()}
            way = Way(**(entry["way"] | {"buckets": tuple(entry["way"]["buckets"])}))
            return Choice(way, rates, [str(reason) for reason in entry["refused"]])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def keep(self, key: str, choice: Choice) -> None:
        """Does without where it cannot write. Two services that write at once both leave a whole file."""
        self._asked.add(key)
        self._entries.pop(key, None)
        self._entries = dict(list(self._entries.items())[1 - MAX_ENTRIES :]) | {key: asdict(choice)}
        for path in self._paths:
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

    def share(self) -> None:
        """In the parent: let the workers know what was asked or kept here, wherever it could be written."""
        os.environ[_SHARED] = json.dumps({key: self._entries[key] for key in self._asked & self._entries.keys()})


def _entries(text: str | bytes) -> dict[str, Any]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {}
