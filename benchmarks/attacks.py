"""`python -m benchmarks.attacks`: what honest clients and probes get beside each attack that costs its sender little.

Ten clients ask for small pictures, once without the attack and once beside it; a probe asks for /livez meanwhile.
Wanted: a p90 of at most three times the one without, every answer 200, and every probe answered within a second.
The attacker is a process of its own, which keeps a core busy by itself: `nothing` says what that alone costs.
Knows a started server and paths; each attack is a few lines of sockets.
"""

import argparse
import contextlib
import http.client
import multiprocessing
import resource
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.pictures import subject
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

CLIENTS = 10
PROBE_SECONDS = 1.0  # a probe's patience, as Kubernetes' default
PROBE_EVERY = 0.05
LIMIT = 3.0  # of the p90 beside an attack, in p90 without it
PATIENCE = 30.0  # seconds an honest client waits for an answer
RETRY_SECONDS = 0.25  # until an attacker opens again what was closed
HELD = 2060  # connections, more than two workers take
SILENT = 256  # uploads


# The attacks. Each runs until it is ended, and keeps up what is closed.


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def tiny_chunks(port: int, path: str = "/classify") -> None:
    """A body in chunks of one byte: six bytes on the wire for each."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    piece = b"1\r\na\r\n" * 20_000
    while True:
        with contextlib.suppress(OSError), _connect(port) as connection:
            connection.sendall(head)
            while True:
                connection.sendall(piece)


def dropped_chunks(port: int) -> None:
    """The same for a route that is not there."""
    tiny_chunks(port, "/nothing")


def slow_heads(port: int) -> None:
    """Heads of 16 KB, a few bytes at a time."""
    while True:
        with contextlib.suppress(OSError), _connect(port) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ")
            while True:
                connection.sendall(b"aa")


def _keep_open(port: int, count: int, sent: bytes) -> None:
    """`count` connections on which `sent` was sent; those that are closed are opened again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 100), hard), hard))
    held: list[socket.socket] = []
    while True:
        for connection in list(held):
            with contextlib.suppress(BlockingIOError):
                try:
                    closed = not connection.recv(65536)
                except ConnectionError:
                    closed = True
                if closed:
                    connection.close()
                    held.remove(connection)
        with contextlib.suppress(OSError):
            while len(held) < count:
                connection = _connect(port)
                connection.settimeout(0.5)
                held.append(connection)
                connection.sendall(sent)
                connection.setblocking(False)
        time.sleep(RETRY_SECONDS)


def silent_uploads(port: int, count: int = SILENT) -> None:
    """Uploads of which half a megabyte comes, and then nothing."""
    head = b"POST /classify/batch HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=a\r\n"
    _keep_open(port, count, head + b"Content-Length: 60000000\r\n\r\n" + b"x" * 500_000)


def held_connections(port: int, count: int = HELD) -> None:
    """More connections than there may be, each with the beginning of a body."""
    _keep_open(port, count, b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")


def half_closed(port: int) -> None:
    """Requests whose sender closes its side, and does not wait for the answer."""
    while True:
        with contextlib.suppress(OSError), _connect(port) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.01)


def pipelined(port: int) -> None:
    """Thousands of requests in each read, of one connection."""
    requests = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 2000
    while True:
        with contextlib.suppress(OSError), _connect(port) as connection:
            reader = threading.Thread(target=_read_all, args=(connection,))
            reader.start()
            with contextlib.suppress(OSError):
                while True:
                    connection.sendall(requests)
            reader.join()


def _read_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 20):
            pass


def nothing(port: int) -> None:
    """No attack: what another busy process of the machine costs, which each attacker is too."""
    while True:
        pass


def checkerboard() -> bytes:
    """A PNG of 128x128 pixels in 158 bytes: every pixel is an edge of a figure."""
    rows = b"".join(b"\0" + (b"\xaa" if y % 2 else b"\x55") * 16 for y in range(128))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (128).to_bytes(4, "big") * 2 + b"\x01\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def dear_pictures(port: int) -> None:
    """Small pictures that are dear for the finder of digits."""
    png = checkerboard()
    request = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(png) + png
    while True:
        with contextlib.suppress(OSError), _connect(port) as connection:
            while True:
                connection.sendall(request)
                if not connection.recv(65536):
                    break


ATTACKS: dict[str, Callable[[int], None]] = {
    attack.__name__: attack
    for attack in (
        nothing,
        tiny_chunks,
        dropped_chunks,
        slow_heads,
        silent_uploads,
        held_connections,
        half_closed,
        pipelined,
        dear_pictures,
    )
}


@contextlib.contextmanager
def attacked(port: int, attack: Callable[..., None], *arguments: object) -> Iterator[None]:
    """While it lasts, a process of its own attacks the service at `port`."""
    process = multiprocessing.get_context("spawn").Process(target=attack, args=(port, *arguments), daemon=True)
    process.start()
    try:
        time.sleep(1.5)  # until it has begun: what waits for a second gives way by then
        yield
    finally:
        process.kill()
        process.join()


# What others get meanwhile


@dataclass
class Answers:
    """Of honest clients: milliseconds of each answer and the statuses; the same of probes."""

    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    probe_milliseconds: list[float] = field(default_factory=list)
    missed_probes: int = 0

    @property
    def p90(self) -> float:
        return sorted(self.milliseconds)[len(self.milliseconds) * 9 // 10] if self.milliseconds else float("inf")

    @property
    def failed(self) -> int:
        return sum(number for status, number in self.statuses.items() if status != "200")

    def __str__(self) -> str:
        probes = sorted(self.probe_milliseconds) or [float("nan")]
        return (
            f"p90 {self.p90:.1f} ms of {len(self.milliseconds)} {dict(self.statuses)}; "
            f"{len(self.probe_milliseconds)} probes, worst {probes[-1]:.0f} ms, {self.missed_probes} missed"
        )


def ask(port: int, path: str, body: bytes, seconds: float, clients: int = CLIENTS) -> Answers:
    """What `clients`, each with a connection that is kept, and a probe get in `seconds`."""
    answers, lock, end = Answers(), threading.Lock(), time.monotonic() + seconds

    def classify() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while time.monotonic() < end:
            began = time.perf_counter()
            try:
                connection.request("POST", path, body, {"Content-Type": "image/png"})
                response = connection.getresponse()
                response.read()
                status = str(response.status)
            except (OSError, http.client.HTTPException) as err:
                connection.close()
                status = type(err).__name__
            with lock:
                answers.milliseconds.append(1000 * (time.perf_counter() - began))
                answers.statuses[status] += 1
            time.sleep(0.02)  # they are no load
        connection.close()

    def probe() -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
            try:
                connection.request("GET", "/livez")
                missed = connection.getresponse().status != 200
            except (OSError, http.client.HTTPException):
                missed = True
            finally:
                connection.close()
            answers.missed_probes += missed
            answers.probe_milliseconds.append(1000 * (time.perf_counter() - began))
            time.sleep(PROBE_EVERY)

    threads = [*(threading.Thread(target=classify) for _ in range(clients)), threading.Thread(target=probe)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@dataclass(frozen=True)
class Outcome:
    """`alone` was measured just before."""

    attack: str
    alone: Answers
    beside: Answers

    @property
    def ratio(self) -> float:
        return self.beside.p90 / self.alone.p90

    @property
    def holds(self) -> bool:
        return self.ratio <= LIMIT and not self.beside.failed and not self.beside.missed_probes

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"{self.attack}: {verdict}, ratio {self.ratio:.2f}\n  alone:  {self.alone}\n  beside: {self.beside}"


def measure(port: int, name: str, path: str, body: bytes, seconds: float, *arguments: int) -> Outcome:
    """What comes of the attack `name`, with numbers of its own in place of its defaults."""
    alone = ask(port, path, body, seconds)
    with attacked(port, ATTACKS[name], *arguments):
        beside = ask(port, path, body, seconds)
    return Outcome(name, alone, beside)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--model", default="digits_cnn-mnist", help="that is asked (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack (default: %(default)g)")
    parser.add_argument("--only", choices=ATTACKS, action="append", help="one attack; may be repeated (default: all)")
    args = parser.parse_args(argv)
    try:
        asked = subject(Path("models"), args.model)
        with Server(CONTENDERS[OURS], asked) as service:
            service.verify(asked.small)
            path, body = f"/classify?model={asked.name}", asked.small[0].data
            ask(service.port, path, body, 1.0)  # warm
            outcomes = []
            for name in args.only or ATTACKS:
                outcomes.append(measure(service.port, name, path, body, args.seconds))
                print(outcomes[-1], flush=True)
                time.sleep(2)  # what is left of it is closed
    except (ServerError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0 if all(outcome.holds for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
