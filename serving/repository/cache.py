"""The answers to pictures that were asked before, and the pictures that are being answered right now.

Keeps values, never what a protocol wrote: so the same file through two doors is one entry. Bounded in bytes; the entry
that was not used for the longest time goes first. Belongs to the event loop. Knows no protocol.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np

from serving.operations import metrics
from serving.repository.answers import NO_MOMENTS, Answer, Outcome

Key: TypeAlias = tuple[str, float | None, bytes]  # an artifact, the threshold of the request, a picture
ENTRY_BYTES = 1024  # that an entry takes beside its probabilities: its key, an answer and two arrays (700 measured)
NO_IMAGE = np.zeros((0, 0, 0), np.uint8)  # in place of what the network saw: an answer from here does not show it


class Cancellable(Protocol):
    """A picture on its way. `large` is one that waits for a decoder of its own."""

    cancelled: bool

    @property
    def large(self) -> bool: ...


Start: TypeAlias = Callable[[Callable[[Outcome], None]], Cancellable]


def key_of(identity: str, threshold: float | None, picture: bytes) -> Key:
    """`identity` is of everything that decides an answer beside the picture: the artifact's hash and how it decodes."""
    return identity, threshold, hashlib.blake2b(picture, digest_size=16).digest()


class AnswerCache:
    """At most `limit` bytes of answers."""

    def __init__(self, limit: int):
        self._limit = limit
        self._bytes = 0
        self._answers: OrderedDict[Key, Answer] = OrderedDict()  # the one used last is at the end
        self._flights: dict[Key, _Flight] = {}

    @property
    def bytes(self) -> int:
        """That the answers take."""
        return self._bytes

    def predict(self, key: Key, done: Callable[[Outcome], None], start: Start) -> Cancellable:
        """Give `done` the answer of `key`: at once where it is known, else when it has been computed, once for all who
        ask meanwhile. `start` begins computing it and raises what refuses it.

        A failure is not kept, and not shared: each of those who waited for it then starts on its own.
        """
        if (known := self._answers.get(key)) is not None:
            self._answers.move_to_end(key)
            metrics.cached("hit")
            done(known)
            return _Waiter(done, None)
        flight = self._flights.get(key)
        if flight is not None:
            metrics.cached("joined")
            return flight.join(done, start)
        metrics.cached("miss")
        flight = _Flight(self, key)
        waiter = flight.join(done, start)
        self._flights[key] = flight
        try:
            flight.work = start(flight.landed)
        except BaseException:
            self._flights.pop(key, None)
            raise
        return waiter

    def end(self, key: Key, outcome: Outcome | None) -> None:
        """A flight has ended: with an answer, a failure, or because nobody waits for it any more."""
        self._flights.pop(key, None)
        if isinstance(outcome, Answer):
            # A row of its own: the batch that it was computed in goes.
            kept = outcome._replace(probabilities=outcome.probabilities.copy(), image=NO_IMAGE, moments=NO_MOMENTS)
            self._answers[key] = kept
            self._bytes += ENTRY_BYTES + kept.probabilities.nbytes
            while self._bytes > self._limit and self._answers:
                _, oldest = self._answers.popitem(last=False)
                self._bytes -= ENTRY_BYTES + oldest.probabilities.nbytes


class _Flight:
    """One picture that is being answered, and everybody who waits for it."""

    def __init__(self, cache: AnswerCache, key: Key):
        self._cache, self._key = cache, key
        self._waiters: list[tuple[_Waiter, Start]] = []
        self.work: Cancellable | None = None

    def join(self, done: Callable[[Outcome], None], start: Start) -> "_Waiter":
        waiter = _Waiter(done, self)
        self._waiters.append((waiter, start))
        return waiter

    def leave(self, waiter: "_Waiter") -> None:
        """One client has gone; with the last of them the work ends."""
        self._waiters = [one for one in self._waiters if one[0] is not waiter]
        if not self._waiters and self.work is not None:
            self.work.cancelled = True
            self._cache.end(self._key, None)

    def landed(self, outcome: Outcome) -> None:
        waiters, self._waiters, self.work = self._waiters, [], None
        self._cache.end(self._key, outcome)
        for index, (waiter, start) in enumerate(waiters):
            waiter.flight = None
            if index == 0 or isinstance(outcome, Answer):
                waiter.done(outcome)
            else:
                waiter.again(start)


class _Waiter:
    """What a client waits for. Setting `cancelled` says that nobody does any more."""

    def __init__(self, done: Callable[[Outcome], None], flight: _Flight | None):
        self.done = done
        self.flight = flight
        self._own: Cancellable | None = None  # after another's failure

    def again(self, start: Start) -> None:
        try:
            self._own = start(self.done)
        except Exception as err:  # what refuses it, as another was refused
            self.done(err)

    @property
    def large(self) -> bool:
        return self.flight is not None and self.flight.work is not None and self.flight.work.large

    @property
    def cancelled(self) -> bool:
        return self.flight is None and (self._own is None or self._own.cancelled)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.leave(self)
        elif self._own is not None:
            self._own.cancelled = True
