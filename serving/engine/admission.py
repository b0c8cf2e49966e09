"""How many pictures may wait in a queue, and who has a place in it.

`ServiceTime` measures how long a piece takes and therefore how many can be done in time. `Permit` is some places that
were reserved and are not used yet. Knows moments and numbers only. All are in seconds, of time.perf_counter().
"""

from types import TracebackType
from typing import Protocol

WEIGHT = 0.2  # of the newest measurement in the moving average
# A measurement counts for at most this many times the average. One batch that took long because the whole machine was
# paused must not decide; where pieces really take a hundred times as long, the average follows within ten of them.
MOST_TIMES = 4.0


class ServiceTime:
    """The average time that a piece of one queue takes. At most `limit` may wait, and the last of them shall wait no
    longer than `patience`."""

    __slots__ = ("_busy_since", "_limit", "_patience", "room", "seconds")
    room: int  # how many may wait
    seconds: float  # that a piece takes on average, with everything that happens between two; 0 while nobody knows

    def __init__(self, limit: int, patience: float, seconds: float = 0.0):
        self._limit = limit
        self._patience = patience
        self._busy_since = 0.0  # when the last piece ended, if the next had to wait for that; else 0
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """A piece takes that long from now on."""
        self.seconds = seconds
        self.room = int(min(self._limit, max(self._patience / max(seconds, 1e-9), 1)))

    def ended(self, pieces: int, began: float, now: float, more_wait: bool) -> None:
        """So many were done just `now`; they began then, or as soon as those before them had ended. None, where what
        had waited was dropped."""
        if pieces:
            seconds = (now - (self._busy_since or began)) / pieces
            if self.seconds:
                seconds = min(seconds, MOST_TIMES * self.seconds)
                seconds = self.seconds + WEIGHT * (seconds - self.seconds)
            self.seconds = seconds  # as `set` does, once for every batch
            self.room = int(min(self._limit, max(self._patience / max(seconds, 1e-9), 1)))
        self._busy_since = now if more_wait else 0.0

    @property
    def why(self) -> str:
        """What to add to "the limit is {room}"."""
        return "" if self.room == self._limit else ", what can be done in time at the present pace"


class Reserving(Protocol):
    """A queue some of whose places are reserved."""

    reserved: int


class Permit:
    """Places in a queue that were reserved before the pictures for them are decoded.

    `queue.admit(n)` makes it; each picture that is queued takes one place. Who holds the permit calls `release` when no
    more will come, whatever has happened: the places that are left go back. (`with` does so.)
    """

    __slots__ = ("_queue", "left")

    def __init__(self, queue: Reserving, count: int):
        self._queue = queue
        self.left = count
        queue.reserved += count

    def use(self) -> None:
        """One picture is queued now, or will not be: its place goes back."""
        if self.left < 1:
            raise RuntimeError("more pictures are queued than were admitted")
        self.left -= 1
        self._queue.reserved -= 1

    def release(self) -> None:
        """Give back what is left; a second time does nothing."""
        self._queue.reserved -= self.left
        self.left = 0

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
