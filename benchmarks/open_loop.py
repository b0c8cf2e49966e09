"""An open-loop HTTP load generator: requests leave on a Poisson schedule drawn beforehand, answered or not.

Each latency counts from the moment the request was *due*, so a server that stalls cannot hide the requests that would
have met the stall (coordinated omission). Knows one address and bodies to post; see README.md for why not another tool.
"""

import argparse
import asyncio
import json
import random
import selectors
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httptools

GRACE_SECONDS = 10.0  # that answers may take after the last request


class Schedule:
    """What is due, what waits for a free connection, and what came of it. Times in seconds of the loop's clock."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._sent = 0
        self.free: list[Connection] = []
        self.waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.not_200 = 0

    def due(self, moment: float, now: float) -> None:
        self.lateness.append(now - moment)
        self.waiting.append(moment)
        self.send()

    def send(self) -> None:
        while self.waiting and self.free:
            self.free.pop().post(self._requests[self._sent % len(self._requests)], self.waiting.popleft())
            self._sent += 1

    def answered(self, connection: "Connection", status: int, since: float, now: float) -> None:
        self.latencies.append(now - since)
        self.not_200 += status != 200
        self.free.append(connection)
        self.send()


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request under way."""

    transport: asyncio.Transport

    def __init__(self, schedule: Schedule, clock: asyncio.AbstractEventLoop) -> None:
        self._schedule, self._clock = schedule, clock
        self._parser = httptools.HttpResponseParser(self)
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._schedule.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._schedule.free:
            self._schedule.free.remove(self)

    def post(self, request: bytes, since: float) -> None:
        self._since = since
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._schedule.answered(self, status, self._since, self._clock.time())


def moments(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Arrival times in [0, seconds) of a Poisson process with `rate` a second; as many as expected, not random."""
    generator = random.Random(seed)
    return sorted(generator.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))


async def run(
    url: str, bodies: Sequence[bytes], content_type: str, rate: float, seconds: float, connections: int
) -> dict[str, float]:
    """The figures of one measurement, latencies in ms."""
    loop = asyncio.get_running_loop()
    address = urlsplit(url)
    target = address.path + (f"?{address.query}" if address.query else "")
    head = f"POST {target} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {content_type}\r\nContent-Length: "
    schedule = Schedule([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    for _ in range(connections):
        await loop.create_connection(
            lambda: Connection(schedule, loop), address.hostname or "127.0.0.1", address.port or 80
        )
    cpu, start = time.process_time(), loop.time() + 0.05
    planned = moments(rate, seconds)
    for moment in planned:
        delay = start + moment - loop.time()
        if delay > 0:
            await asyncio.sleep(delay)
        elif delay < -0.005:
            await asyncio.sleep(0)  # behind: let answers in before sending on
        schedule.due(start + moment, loop.time())
    deadline = loop.time() + GRACE_SECONDS
    while len(schedule.latencies) < len(planned) and loop.time() < deadline:
        await asyncio.sleep(0.005)
    cpu = time.process_time() - cpu
    lost = len(planned) - len(schedule.latencies)
    # A lost request took at least as long as it was waited for.
    latencies = sorted(schedule.latencies) + [GRACE_SECONDS] * lost
    return {
        "rate": len(schedule.latencies) / seconds,
        "p50_ms": 1000 * _percentile(latencies, 50),
        "p99_ms": 1000 * _percentile(latencies, 99),
        "not_200": schedule.not_200,
        "lost": lost,
        "late_ms": 1000 * _percentile(sorted(schedule.lateness), 99),
        "cpu": cpu / seconds,
    }


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop on select(): epoll and uvloop round timers to whole milliseconds, as long as an answer takes."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


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
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        try:
            got = runner.run(run(args.url, bodies, args.type, args.rate, args.seconds, args.connections))
        except OSError as err:
            print(f"error: {args.url}: {err}", file=sys.stderr)
            return 1
    print(json.dumps(got))
    return 0


if __name__ == "__main__":
    sys.exit(main())
