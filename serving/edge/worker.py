"""What all connections of one worker share: its routes, limits, memory for bodies, and the places for connections.

A body of one connection is bounded by its route's limit; a thousand connections at once would still be a thousand times
that, so all bodies together have a budget. Knows numbers and files of /proc and /sys only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.edge.front import Front
from serving.edge.http1 import Headers, Request, Response, failure, head_lines
from serving.edge.places import Places
from serving.edge.router import Route, Router
from serving.edge.uploads import Budget
from serving.errors import ClassifyError

SHARE = 0.25  # fraction of the memory there is that all workers' bodies may take
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of cgroup versions 2 and 1


@dataclass(frozen=True)
class Limits:
    header_bytes: int
    head_seconds: float  # from the first byte until the headers are complete
    body_seconds: float  # that a body may be behind the least rate
    idle_seconds: float  # between two requests
    connections: int  # open at the same time in one worker
    body_rate: int = 10_000  # bytes a second at which a body comes at least


@dataclass
class Edge:
    """What all connections of one worker share. It belongs to the event loop."""

    router: Router
    limits: Limits
    bodies: Budget
    draining: bool = False  # every answer is the last of its connection
    half_closed: set[Any] = field(default_factory=set)  # connections whose clients have closed their side and wait
    common: Headers = ()  # headers of every answer; the server renews the date each second
    heads: dict[tuple[int, Headers], bytes] = field(default_factory=dict)  # status lines with headers of this second
    front: Front | None = None  # what stands before the routes, if anything does

    def __post_init__(self) -> None:
        self.places = Places(self.limits.connections)
        self.accept: Callable[[Request], Route] = (self.front or self.router).accept

    def renew(self, common: Headers) -> None:
        """Other headers go with every answer from now on."""
        self.common = common
        self.heads.clear()

    def head(self, status: int, headers: Headers) -> bytes:
        """The beginning of an answer: the same few for nearly all of a second, so that they are kept in `heads`."""
        written = self.heads[status, headers] = head_lines(status, self.common + headers)
        return written

    def answer(self, request: Request, response: Response, last: bool) -> bytes:
        """What goes out for `response`; `last` of its connection."""
        # RFC 9110: a 304 would say the length of what it stands for (15.4.5), and a 204 has none (8.6).
        length = b"" if response.status in (204, 304) else b"content-length: %d\r\n" % len(response.body)
        keep = b"connection: close\r\n" if last else b"connection: keep-alive\r\n" if request.minor == b"0" else b""
        headers = response.headers if self.front is None else response.headers + self.front.headers(request)
        head = self.heads.get((response.status, headers)) or self.head(response.status, headers)
        head += b"x-request-id: %b\r\n%b%b\r\n" % (request.request_id.encode(), keep, length)
        return head if request.method == b"HEAD" else head + response.body

    def refusal(self, err: ClassifyError) -> bytes:
        """What goes out where no request could be read, before the connection is closed."""
        response = failure(err)
        head = self.head(response.status, (*response.headers, ("connection", "close")))
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(response.body), response.body)


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
