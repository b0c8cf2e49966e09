"""A request's body on its way to its route: its memory in the worker's budget, and the rate at which it comes.

What has arrived is counted, not what was announced. Every byte pays for the time that it takes at the least rate. An
upload that is behind gives way when memory is short, and is cut when it is behind by the time that a body may take. So
one that goes on may take as long as it likes, as a photo does from a slow phone. Knows no sockets.
"""

from collections.abc import Callable
from typing import Protocol

from serving.edge.bodies import Body
from serving.edge.router import Route
from serving.errors import ClassifyError, Overloaded, RequestTimeout

CREDIT_SECONDS = 2.0  # that an upload may be ahead of the least rate, however fast it was
BEHIND_SECONDS = 1.0  # an upload that is behind by less is not cut for others


class Rates(Protocol):
    """What uploads may take; `serving.edge.worker.Limits` has it."""

    @property
    def body_seconds(self) -> float: ...
    @property
    def body_rate(self) -> int: ...


class Budget:
    """Bytes of all bodies of a worker: those that arrive, and those whose answer is due."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
        self.arriving: dict[Upload, None] = {}

    def make_room(self, size: int, upload: "Upload") -> None:
        """Raises Overloaded if there is no room for `size` bytes of `upload`, also where others give way that are
        behind the least rate, the one that is furthest behind first. Nothing is reserved."""
        while self.used + size > self.limit:
            others = (other for other in self.arriving if other.reserved and other is not upload)
            slowest = min(others, key=lambda other: other.due, default=None)
            if slowest is None or slowest.behind < BEHIND_SECONDS:
                raise Overloaded(
                    f"no room for a body of {size:,} bytes beside {self.used:,} of others; the limit is {self.limit:,}"
                )
            slowest.give_way()


class Upload:
    """`cut` ends the connection with the failure that it is given. Times are the event loop's."""

    def __init__(
        self,
        route: Route,
        length: int | None,
        budget: Budget,
        rates: Rates,
        time: Callable[[], float],
        cut: Callable[[ClassifyError], None],
    ):
        """Raises Overloaded if there is no room for the length that was announced."""
        budget.make_room(length or 0, self)
        self.route = route
        self.body = Body(length, route.max_bytes)
        self.reserved = 0  # bytes of the budget
        self.due = time()  # until when the body has come at the least rate or faster
        self._budget, self._rates, self._time, self._cut = budget, rates, time, cut
        budget.arriving[self] = None

    def take(self, data: bytes, at: int, now: float) -> int:
        """Takes `data` from `at` on, and returns where to go on. Raises what the body cannot be."""
        body, budget = self.body, self._budget
        end = body.take(data, at)
        grown = body.held - self.reserved
        if grown:
            if budget.used + grown > budget.limit:
                budget.make_room(grown, self)
            budget.used += grown
            self.reserved += grown
        if body.complete:
            del budget.arriving[self]
        else:
            due, most = self.due + (end - at) / self._rates.body_rate, now + CREDIT_SECONDS
            self.due = due if due < most else most
        return end

    def release(self) -> None:
        """Its memory is not needed any more; called again it does nothing."""
        self._budget.used -= self.reserved
        self.reserved = 0
        self._budget.arriving.pop(self, None)

    @property
    def behind(self) -> float:
        """Seconds that the body is behind the least rate; negative where it is ahead."""
        return self._time() - self.due

    def look_at_pace(self) -> float:
        """Seconds until it would be cut if nothing more came; it is cut if there are none."""
        left = self._rates.body_seconds - self.behind
        if left <= 0:
            self._cut(self._too_slow("within"))
        return left

    def give_way(self) -> None:
        """For others, which need its memory."""
        self._cut(self._too_slow("and its memory is needed: it did not arrive within"))

    def _too_slow(self, what: str) -> RequestTimeout:
        seconds, rate = self._rates.body_seconds, self._rates.body_rate
        came = self.body.received
        return RequestTimeout(
            f"the request's body did not arrive {what} {seconds:g} seconds, nor at {rate:,} bytes a second: "
            f"{came:,} bytes came"
        )
