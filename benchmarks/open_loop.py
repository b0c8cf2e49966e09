"""An open-loop HTTP load generator: requests leave on a Poisson schedule drawn beforehand, answered or not.

Each latency counts from the moment the request was *due*, so a server that stalls cannot hide the requests that would
have met the stall (coordinated omission). One thread, non-blocking sockets and select(), because it shares the cores
with the server under test. Knows one address and bodies to post; see README.md for why not another tool.
"""

import argparse
import ctypes
import gc
import json
import random
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.connection import Connection

GRACE_SECONDS = 10.0  # that answers may take after the last request
TIMER_SLACK = 29  # Linux's PR_SET_TIMERSLACK


class Schedule:
    """What is due, what is under way, and what came of it. Times in seconds of time.perf_counter()."""

    def __init__(self, connections: Sequence[Connection], requests: Sequence[bytes], due: Sequence[float]) -> None:
        # The one unused for longest goes next: all stay alive, and the server's workers get even shares.
        self._free = deque(connections)
        self._requests = requests
        self._due = array("d", due)
        self._busy: dict[int, Connection] = {}
        self._writing: dict[int, Connection] = {}
        self.latencies = array("d")
        self.lateness = array("d")
        self.accepted, self.refused = array("d"), array("d")  # those of `latencies` that were answered 200, or 503
        self.statuses: Counter[int] = Counter()
        self.lost = self.resent = 0
        self.problem = f"no answer within {GRACE_SECONDS:.0f} s of the last request"

    def run(self) -> None:
        due, free, clock = self._due, self._free, time.perf_counter
        total, noticed, posted = len(due), 0, 0
        deadline = due[-1] + GRACE_SECONDS
        while len(self.latencies) + self.lost < total:
            now = clock()
            while noticed < total and due[noticed] <= now:
                self.lateness.append(now - due[noticed])
                noticed += 1
            while free and posted < noticed:
                self._post(free.popleft(), self._requests[posted % len(self._requests)], due[posted])
                posted += 1
            wait = (due[noticed] if noticed < total else deadline) - clock()
            if wait < 0 and noticed == total:
                break
            # epoll and poll round timeouts to whole milliseconds, as long as an answer takes; select does not.
            readable, writable, _ = select.select(self._busy, self._writing, (), max(0.0, wait))
            for fd in readable:
                self._read(self._busy[fd])
            for fd in writable:
                if fd in self._writing:
                    self._write(self._writing[fd])
        self.lost = total - len(self.latencies)

    def _post(self, connection: Connection, request: bytes, due: float) -> None:
        connection.post(request, due)
        self._busy[connection.fd] = connection
        if connection.used:
            self._write(connection)
        else:
            self._writing[connection.fd] = connection  # may not be connected yet

    def _write(self, connection: Connection) -> None:
        try:
            if connection.write():
                self._writing.pop(connection.fd, None)
            else:
                self._writing[connection.fd] = connection
        except OSError as err:
            self._broken(connection, err)

    def _read(self, connection: Connection) -> None:
        try:
            status = connection.read()
        except (OSError, EOFError, ValueError) as err:
            return self._broken(connection, err)
        if status:
            self.latencies.append(latency := time.perf_counter() - connection.due)
            self.statuses[status] += 1
            if status == 200:
                self.accepted.append(latency)
            elif status == 503:
                self.refused.append(latency)
            del self._busy[connection.fd]
            if self._writing.pop(connection.fd, None):  # answered before the whole body was out
                connection.connect()
            self._free.append(connection)

    def _broken(self, connection: Connection, problem: Exception) -> None:
        """Connect again. What met a kept-alive connection being closed is sent once more, anything else is lost."""
        del self._busy[connection.fd]
        self._writing.pop(connection.fd, None)
        again = connection.used and not isinstance(problem, ValueError)
        connection.connect()
        if again:
            self.resent += 1
            self._post(connection, connection.request, connection.due)
        else:
            self.lost += 1
            self.problem = str(problem)
            self._free.append(connection)

    def close(self) -> None:
        for connection in (*self._free, *self._busy.values()):
            connection.close()


def moments(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Arrival times in [0, seconds) of a Poisson process with `rate` a second; as many as expected, not random."""
    generator = random.Random(seed)
    return sorted(generator.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))


def run(
    url: str, bodies: Sequence[bytes], content_type: str, rate: float, seconds: float, connections: int
) -> dict[str, Any]:
    """The figures of one measurement, latencies in ms; `cpu` in cores, `cpu_us` a request. Raises OSError.

    `accepted_…` is of what was answered 200, its rate until the last answer; `refused_…` of what was answered 503.
    """
    address = urlsplit(url)
    target = address.path + (f"?{address.query}" if address.query else "")
    head = f"POST {target} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {content_type}\r\nContent-Length: "
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    with socket.create_connection((address.hostname or "127.0.0.1", address.port or 80)) as first:
        family, peer = first.family, first.getpeername()
    planned = moments(rate, seconds)
    opened = [Connection(family, peer) for _ in range(connections)]
    start = time.perf_counter() + 0.05
    schedule = Schedule(opened, requests, [start + moment for moment in planned])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(TIMER_SLACK, 1)  # ns; by default a wait may end 50 µs late
    gc.collect()
    gc.disable()
    cpu = time.process_time()
    try:
        schedule.run()
    finally:
        took = time.perf_counter() - start
        cpu = time.process_time() - cpu
        gc.enable()
        schedule.close()
    # A lost request took at least as long as it was waited for.
    latencies = sorted(schedule.latencies) + [GRACE_SECONDS] * schedule.lost
    return {
        "rate": len(schedule.latencies) / seconds,
        "p50_ms": 1000 * _percentile(latencies, 50),
        "p99_ms": 1000 * _percentile(latencies, 99),
        "accepted_rate": len(schedule.accepted) / took,
        "accepted_p99_ms": 1000 * _percentile(sorted(schedule.accepted), 99),
        "refused_p50_ms": 1000 * _percentile(sorted(schedule.refused), 50),
        "statuses": {str(status): number for status, number in sorted(schedule.statuses.items())},
        "not_200": len(schedule.latencies) - len(schedule.accepted),
        "lost": schedule.lost,
        "late_ms": 1000 * _percentile(sorted(schedule.lateness), 99),
        "cpu": cpu / seconds,
        "cpu_us": 1e6 * cpu / len(planned),
        "resent": schedule.resent,
        "problem": schedule.problem if schedule.lost else "",
    }


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--bodies", type=Path, required=True, help="a file that names the bodies' files, one a line")
    parser.add_argument("--type", required=True, help="the Content-Type")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    args = parser.parse_args(argv)
    bodies = [Path(line).read_bytes() for line in args.bodies.read_text().splitlines()]
    try:
        got = run(args.url, bodies, args.type, args.rate, args.seconds, args.connections)
    except OSError as err:
        print(f"error: {args.url}: {err}", file=sys.stderr)
        return 1
    print(json.dumps(got))
    return 0


if __name__ == "__main__":
    sys.exit(main())
