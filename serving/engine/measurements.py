"""What was measured on this machine, remembered: artifact and machine -> how the artifact is best computed here.

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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from serving.engine.exactness import CloseCalls
from serving.engine.providers import Backend, ProviderError
from serving.processes import alive

FILE = "providers.json"
MAX_ENTRIES = 256  # the oldest go


class Other(NamedTuple):
    """The fastest backend of the other kind, where the chosen one is exact a less exact one or the other way round:
    which of both is faster hangs on how many of the pictures are close calls."""

    backend: Backend
    seconds: dict[int, float]  # what a run of each batch size takes
    image_seconds: float  # of an image in a large batch, where half as many as `even` are close calls
    bytes: int  # of memory, that loading it took at its peak
    even: float  # the share of close calls at which both are equally good
    calls: CloseCalls  # of the less exact one

    @classmethod
    def from_json(cls, entry: Any) -> "Other":
        """Of its list."""
        backend, seconds, image_seconds, size, even, calls = entry
        return cls(
            _backend(backend), _seconds(seconds), float(image_seconds), int(size), float(even), CloseCalls(**calls)
        )


@dataclass(frozen=True)
class Measurement:
    """How one version is best computed: the fastest backend, the images a second of every one that gave right answers,
    fastest first, and why others did not."""

    backend: Backend
    rates: dict[str, float]
    refused: list[str]
    seconds: dict[int, float] = field(default_factory=dict)  # what a run of each batch size takes on that backend
    image_seconds: float = 0.0  # of an image in a large batch, with the close calls that are computed again
    recomputed_share: float = 0.0  # of the golden images, that are computed again in float32
    deviation: float = 0.0  # the largest difference to a golden probability, where all were compared
    bytes: int = 0  # of memory, that loading the backend took at its peak
    other: Other | None = None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.rates.get(str(self.backend), 0.0)

    def suited(self, share: float | None) -> "Measurement":
        """What computes pictures best of which `share` are close calls; as it is, where that is not known."""
        other = self.other
        if share is None or other is None or (share < other.even) == (self.backend.precision != "float32"):
            return self
        return replace(
            self,
            backend=other.backend,
            seconds=other.seconds,
            image_seconds=other.image_seconds,
            recomputed_share=0.0 if other.backend.precision == "float32" else share,
            bytes=other.bytes,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Any) -> "Measurement":
        """Raises KeyError, TypeError, ValueError or AttributeError for what `as_json` has not made."""
        return cls(
            _backend(entry["backend"]),
            {str(name): float(rate) for name, rate in entry["rates"].items()},
            [str(reason) for reason in entry["refused"]],
            _seconds(entry["seconds"]),
            float(entry["image_seconds"]),
            float(entry["recomputed_share"]),
            float(entry["deviation"]),
            int(entry["bytes"]),
            None if entry["other"] is None else Other.from_json(entry["other"]),
        )


def _backend(entry: Any) -> Backend:
    return Backend(**(entry | {"buckets": tuple(entry["buckets"])}))


def _seconds(entry: Any) -> dict[int, float]:
    return {int(size): float(taken) for size, taken in entry.items()}


class Measurements:
    """The file in `folder`, and the one in `shared`."""

    def __init__(self, folder: Path, shared: Path | None = None):
        self._cache, self._own = _file(folder), _file(shared)
        self._shared = shared
        # What the next start may rely on, and what holds for this service only: the former goes into the cache.
        self._lasting: dict[str, Any] = {}
        self._passing: dict[str, Any] = {}
        self.measuring = threading.Lock()  # held while something is measured
        self._lock = threading.Lock()  # held while entries are read or changed, which waits for no measurement

    def find(self, key: str) -> Measurement | None:
        with self._lock:
            if key not in self._passing and key not in self._lasting:  # another worker may have measured it meanwhile
                for path, entries in ((self._cache, self._lasting), (self._own, self._passing)):
                    with contextlib.suppress(OSError, ValueError):
                        entries |= {} if path is None else _entries(path.read_bytes())
            entry = self._passing.get(key, self._lasting.get(key))
        try:
            return Measurement.from_json(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def keep(self, key: str, measurement: Measurement, lasting: bool = True) -> None:
        """For the next start too, if it is `lasting`. Does without where it cannot write. Two services that write at
        once both leave a whole file."""
        with self._lock:
            if lasting:
                self._passing.pop(key, None)
                self._lasting = _with(self._lasting, key, measurement)
                if self._cache is not None:
                    with contextlib.suppress(OSError):
                        _write(self._cache, self._lasting)
                        return
            self._passing = _with(self._passing, key, measurement)
            if self._own is not None:
                with contextlib.suppress(OSError):
                    _write(self._own, self._passing)

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


def _with(entries: dict[str, Any], key: str, measurement: Measurement) -> dict[str, Any]:
    """The newest entries with one more."""
    others = {name: entry for name, entry in entries.items() if name != key}
    return dict(list(others.items())[1 - MAX_ENTRIES :]) | {key: measurement.as_json()}


def _write(path: Path, entries: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".providers-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(entries, file, indent=1)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _entries(text: str | bytes) -> dict[str, Any]:
    entries = json.loads(text)
    return entries if isinstance(entries, dict) else {}


def _file(folder: Path | None) -> Path | None:
    try:
        return None if folder is None else folder.expanduser() / FILE
    except RuntimeError:  # HOME is not set, and the user has none
        return None
