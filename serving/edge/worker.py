"""What all connections of one worker share: its routes, limits, memory for bodies, and the places for connections.

A body of one connection is bounded by its route's limit; a thousand connections at once would still be a thousand times
that, so all bodies together have a budget. Knows numbers and files of /proc and /sys only.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from serving.edge.http1 import Headers, head_lines
from serving.edge.places import Places
from serving.edge.router import Router
from serving.errors import Overloaded

SHARE = 0.25  # fraction of the memory there is that all workers' bodies may take
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of cgroup versions 2 and 1


BEHIND_SECONDS = 1.0  # an upload that is behind the least rate by less is not cut for others


class Upload(Protocol):
    """A connection whose request's body arrives."""

    @property
    def behind(self) -> float: ...
    @property
    def reserved(self) -> int: ...
    def give_up_memory(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    header_bytes: int
    head_seconds: float  # from the first byte until the headers are complete
    body_seconds: float  # that a body may be behind the least rate
    idle_seconds: float  # between two requests
    connections: int  # open at the same time in one worker
    body_rate: int = 10_000  # bytes a second at which a body comes at least


class Budget:
    """Bytes of all bodies: `reserve` what has arrived, `release` it when it is not needed any more."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0

    def check(self, size: int) -> None:
        """Raises Overloaded if there is no room for `size` more bytes."""
        if self.used + size > self.limit:
            raise Overloaded(
                f"no room for a body of {size:,} bytes beside {self.used:,} of others; the limit is {self.limit:,}"
            )

    def reserve(self, size: int) -> None:
        """Raises Overloaded if there is no room for `size` more bytes."""
        self.check(size)
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size


@dataclass
class Edge:
    """What all connections of one worker share. It belongs to the event loop."""

    router: Router
    limits: Limits
    bodies: Budget
    draining: bool = False  # every answer is the last of its connection
    uploads: dict[Upload, None] = field(default_factory=dict)  # bodies that arrive
    half_closed: set[Any] = field(default_factory=set)  # connections whose clients have closed their side and wait
    common: Headers = ()  # headers of every answer; the server renews the date each second
    heads: dict[tuple[int, Headers], bytes] = field(default_factory=dict)  # status lines with headers of this second

    def __post_init__(self) -> None:
        self.places = Places(self.limits.connections)

    def renew(self, common: Headers) -> None:
        """Other headers go with every answer from now on."""
        self.common = common
        self.heads.clear()

    def head(self, status: int, headers: Headers) -> bytes:
        """The beginning of an answer: the same few for nearly all of a second."""
        written = self.heads.get((status, headers))
        if written is None:
            written = self.heads[status, headers] = head_lines(status, self.common + headers)
        return written

    def reserve(self, size: int, upload: Upload) -> None:
        """`size` more bytes of a body have arrived. Raises Overloaded if there is no room for them."""
        if self.bodies.used + size > self.bodies.limit:
            self.make_room(size, upload)
        self.bodies.used += size

    def make_room(self, size: int, upload: Upload) -> None:
        """Raises Overloaded if there is no room for `size` bytes of `upload`, also where others give way that are
        behind the least rate, the one that is furthest behind first. Nothing is reserved."""
        while self.bodies.used + size > self.bodies.limit:
            others = (other for other in self.uploads if other.reserved and other is not upload)
            slowest = max(others, key=lambda other: other.behind, default=None)
            if slowest is None or slowest.behind < BEHIND_SECONDS:
                break
            slowest.give_up_memory()
        self.bodies.check(size)


def default_limit(workers: int, least: int) -> int:
    """Bytes for the bodies of one of `workers`: its part of SHARE of the memory there is, and at least `least`."""
    return max(least, int(SHARE * _memory() / max(1, workers)))


def _memory() -> int:
    """Bytes this process may use: the machine's, or the cgroup's limit where that is less."""
    try:
        kilobytes = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
        total = int(kilobytes.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        total = 4 * 2**30  # not Linux: what the smallest machines have
    for name in _LIMITS:
        try:
            return min(total, int((_CGROUP / name).read_text()))
        except (OSError, ValueError):  # no such version, or "max"
            continue
    return total
