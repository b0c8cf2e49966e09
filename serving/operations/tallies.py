"""What happens with every request, counted in plain numbers and handed to prometheus_client a little later.

That is a tenth of the cost of telling it each time. Knows no metric by name. All of it belongs to the event loop of the
process.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import Counter, Histogram

T = TypeVar("T")

FLUSH_SECONDS = 0.05  # until another worker's /metrics knows of it


class Pending(Protocol):
    """What has something to hand over."""

    def flush(self) -> None: ...


class Tally:
    """What a histogram's or counter's child will be told at the next flush."""

    def __init__(self, child: Histogram | Counter):
        self._child = child
        self._bounds = getattr(child, "_upper_bounds", [])
        self._counts = [0] * max(1, len(self._bounds))
        self._sum = 0.0
        self._changed = False  # since the last flush: it waits for that

    def add(self, value: float) -> None:
        """A histogram's: who calls flushes."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def count(self, number: int = 1) -> None:
        self._counts[0] += number
        if not self._changed:
            self._changed = True
            flush_soon(self)

    def flush(self) -> None:
        """As many calls of the child's own observe() or inc() would do, at once."""
        self._changed = False
        if isinstance(self._child, Counter):
            self._child.inc(self._counts[0])
        else:
            for bucket, number in zip(self._child._buckets, self._counts, strict=True):
                if number:
                    bucket.inc(number)
            self._child._sum.inc(self._sum)
        self._counts = [0] * len(self._counts)
        self._sum = 0.0


class Kept(Generic[T]):
    """Values that are kept until the next flush. `keep` appends to a list, and costs no more: a flush is due anyway,
    since each request is counted by a Tally when it is answered."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self.keep: Callable[[T], None] = self._values.append
        _kept.append(self)

    def flush(self) -> None:
        if self._values:
            values = self._values[:]
            self._values.clear()
            self.hand_over(values)

    def hand_over(self, values: list[T]) -> None:
        raise NotImplementedError


class Observations(Kept[float]):
    """A histogram's child's, or of one that `child` makes when there is something to tell."""

    def __init__(self, child: Histogram | Callable[[], Histogram]):
        super().__init__()
        self._child = child

    def hand_over(self, values: list[float]) -> None:
        if not isinstance(self._child, Histogram):
            self._child = self._child()
        tally = Tally(self._child)
        for value in values:
            tally.add(value)
        tally.flush()


_kept: list[Kept[Any]] = []  # all that there are
_changed: list[Pending] = []  # what the next flush hands over, of a version that has retired too
watched: list[Callable[[], None]] = []  # what sets gauges before somebody reads them
_due = False  # a flush is on its way


def flush_soon(what: Pending) -> None:
    """Let the next flush, which comes in FLUSH_SECONDS, call `what.flush`."""
    global _due
    _changed.append(what)
    if not _due:
        try:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, flush)
        except RuntimeError:  # outside a server: exposition flushes
            return
        _due = True


def flush() -> None:
    """Hand over what was counted. On the event loop."""
    global _due
    _due = False
    changed = list(_changed)
    _changed.clear()
    for one in (*changed, *_kept):
        one.flush()
    for look in list(watched):
        look()
