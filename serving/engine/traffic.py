"""How many of the pictures that come are close calls, and so whether a less exact backend pays for them.

The golden images are hard ones: of noise a network with a thousand classes is never sure, of people's photos nearly
always. So what was chosen by the golden images is chosen again by the pictures that are computed. Knows numbers only.
"""

import time

import numpy as np

from serving.engine.buckets import Outputs, Run
from serving.engine.exactness import CloseCalls

LEAST = 256  # pictures, before anything is decided by them
MOST = 4096  # pictures that count; then those before them count for half
# Between two batches in float32 that are looked at, which takes 11 us: a small network computes thousands a second.
LOOK_SECONDS = 0.005
CLEARLY = 1.25  # times the share at which both backends are equally good, so that nothing goes to and fro
FIRST_SECONDS, LAST_SECONDS = 60.0, 3600.0  # between a move and the next one: twice as long after each


class Traffic:
    """The pictures of one version in one process, over all backends that compute them. `even` is the share of close
    calls at which the less exact backend and float32 are equally good. For one thread at a time."""

    def __init__(self, even: float):
        self.even = even
        self._images = self._close = 0
        self._moves = 0
        self._settled_until = 0.0  # by time.monotonic()

    def add(self, images: int, close: int) -> None:
        """So many were computed, and so many of them were close calls."""
        if self._images >= MOST:
            self._images, self._close = self._images // 2, self._close // 2
        self._images += images
        self._close += close

    @property
    def share(self) -> float | None:
        """Of close calls, None while too few pictures have come."""
        return self._close / self._images if self._images >= LEAST else None

    def wants_other(self, exact: bool) -> bool:
        """Whether the pictures ask for the other backend than the one in use, which is `exact` or not."""
        share = self.share
        if share is None or time.monotonic() < self._settled_until:
            return False
        return share < self.even / CLEARLY if exact else share > self.even * CLEARLY

    def moved(self) -> None:
        """Another backend was taken, or tried in vain: its pictures are counted anew."""
        self._images = self._close = 0
        self._settled_until = time.monotonic() + min(FIRST_SECONDS * 2**self._moves, LAST_SECONDS)
        self._moves += 1


def counting(exact: Run, calls: CloseCalls, traffic: Traffic) -> Run:
    """`exact`, and how many of its answers would have been close calls to a less exact backend."""
    due = 0.0

    def run(images: np.ndarray) -> Outputs:
        nonlocal due
        outputs = exact(images)
        now = time.monotonic()
        if now >= due:
            due = now + LOOK_SECONDS
            traffic.add(len(images), len(calls.among(outputs)))
        return outputs

    return run
