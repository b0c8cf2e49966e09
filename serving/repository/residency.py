"""Which models of one worker are in memory: each is loaded at its first use, and the one used least lately goes out.

Bounded in bytes, by what each was found to take. Knows neither requests nor how a model is loaded.
"""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakKeyDictionary

from serving.engine import memory
from serving.operations import metrics
from serving.processes import trim_memory

log = logging.getLogger("shortcut")

# A model that was loaded answers those who waited for it before it goes out; a busy one is spared so long.
PATIENCE_SECONDS = 1.0
LOOK_SECONDS = 0.005


class Resident(Protocol):
    """One version of a model, in memory or not. Hashable, and only weakly held here."""

    @property
    def name(self) -> str: ...
    @property
    def used(self) -> float:
        """When it computed last, by time.perf_counter()."""
        ...

    @property
    def may_go(self) -> bool:
        """Whether nobody waits for what it was loaded for."""
        ...

    def fetch(self) -> bool:
        """Load it, or tell who waits why not. Whether it is in memory now."""
        ...

    def let_go(self) -> bool:
        """Take it out of memory; False where it cannot go now."""
        ...


class Taken:
    """Bytes that a load has taken."""

    bytes = 0


class Residency:
    """At most `limit` bytes of models. A single one that is larger is in memory alone."""

    def __init__(self, limit: int):
        self._limit = limit
        self._bytes: WeakKeyDictionary[Resident, int] = WeakKeyDictionary()  # of each that is in memory
        self._last: WeakKeyDictionary[Resident, int] = WeakKeyDictionary()  # that each took when it was there last
        self._reported: set[str] = set()  # of which the log has said that they are too large
        self._lock = threading.RLock()  # held while models come and go, one at a time
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    @property
    def bytes(self) -> int:
        """That the models in memory take."""
        return sum(self._bytes.values())

    def want(self, one: Resident, least: int) -> None:
        """Load it, in its turn, on a thread. `least` is the bytes that it takes at the least: its file's."""
        self._loader.submit(self._load, one, least)

    def _load(self, one: Resident, least: int) -> None:
        try:
            with self._lock:
                with self.loading(max(least, self._last.get(one, 0)), least) as taken:
                    loaded = one.fetch()
                if loaded:
                    self.add(one, taken.bytes)
        except Exception:  # of nobody's thought, and on a thread whose failures nobody sees
            log.exception("%s is not loaded", one.name)

    @contextmanager
    def loading(self, expected: int, least: int) -> Iterator[Taken]:
        """Make room for so many bytes, let nothing else be loaded meanwhile, and measure what it takes."""
        with self._lock:
            self._make_room(expected)
            trim_memory()
            taken, before = Taken(), memory.own()
            yield taken
            trim_memory()  # what the load alone needed
            # What requests take meanwhile counts too: rather too few models in memory than too many.
            taken.bytes = max(memory.own() - before, least)

    def add(self, one: Resident, taken: int) -> None:
        """It is in memory, and takes so many bytes there; it may have been there before, and take more now."""
        with self._lock:
            self._bytes[one] = self._last[one] = taken
            self._make_room(0, keep=one)
            if taken > self._limit and one.name not in self._reported:
                self._reported.add(one.name)
                log.warning(
                    "%s takes %s of memory, more than SHORTCUT_RESIDENT_BYTES=%d: it is there alone",
                    one.name,
                    memory.megabytes(taken),
                    self._limit,
                )
            metrics.resident(self.bytes)

    def _make_room(self, expected: int, keep: Resident | None = None) -> None:
        patient_until = time.monotonic() + PATIENCE_SECONDS
        before = self.bytes
        while self.bytes + expected > self._limit:
            others = sorted((one for one in self._bytes if one is not keep), key=lambda one: one.used)
            patient = time.monotonic() < patient_until
            going = next((one for one in others if one.may_go or not patient), None)
            if going is not None and going.let_go():
                log.debug("%s is out of memory until it is asked again", going.name)
                self._bytes.pop(going, None)
            elif others and patient:
                time.sleep(LOOK_SECONDS)
            else:
                break
            del others, going
        if self.bytes != before:
            trim_memory()
            metrics.resident(self.bytes)
