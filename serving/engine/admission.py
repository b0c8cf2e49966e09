"""How long a queue's pieces take, and therefore how many may wait in it: no more than can be done in time.

Knows moments and numbers only. All are in seconds, of time.perf_counter().
"""

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
            self.set(seconds)
        self._busy_since = now if more_wait else 0.0

    @property
    def why(self) -> str:
        """What to add to "the limit is {room}"."""
        return "" if self.room == self._limit else ", what can be done in time at the present pace"
