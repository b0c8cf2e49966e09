"""`python -m benchmarks.probes`: are probes answered within a second while the service has more than it can do?

/livez and /readyz are asked in turn, each on a connection of its own. First without a load, which says what the machine
itself does to a probe; then beside 64 clients that post photos of 12 megapixels; then while every connection that the
service allows is held. A load comes from a process of its own. Knows a started server and its paths.
"""

import argparse
import contextlib
import http.client
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import attacks
from benchmarks.attacks import PATIENCE, PROBE_EVERY, PROBE_SECONDS, attacked, held_connections
from benchmarks.pictures import FOR_PHOTO_MODELS, subject
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

PATHS = ("/livez", "/readyz")
CLIENTS = 64
ALONE = 5  # a fifth of the probes come without a load


@dataclass
class Probes:
    """Milliseconds of each probe, also of those that were missed; why those were."""

    milliseconds: list[float] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)

    def quantile(self, share: float) -> float:
        return sorted(self.milliseconds)[min(len(self.milliseconds) - 1, int(len(self.milliseconds) * share))]

    def __str__(self) -> str:
        why = f" ({', '.join(f'{what}: {number}' for what, number in self.missed.items())})" if self.missed else ""
        return (
            f"{self.missed.total()} of {len(self.milliseconds):,} probes missed{why}; "
            f"p50 {self.quantile(0.5):.0f} ms, p99 {self.quantile(0.99):.0f} ms, "
            f"slowest {max(self.milliseconds):.0f} ms"
        )


def probe(port: int, number: int, every: float = PROBE_EVERY, limit: float = PROBE_SECONDS) -> Probes:
    """Ask so many probes, `every` seconds after each other. One is missed that has no 200 within `limit` seconds."""
    probes = Probes()
    for index in range(number):
        path = PATHS[index % len(PATHS)]
        began = time.perf_counter()
        # The timeout holds for each step: connecting, sending, reading. So the whole is judged below once more.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
        problem = ""
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
            problem = "" if status == 200 else f"{path} {status}"
        except (OSError, http.client.HTTPException) as err:
            problem = f"{path} {type(err).__name__}"
        finally:
            connection.close()
        seconds = time.perf_counter() - began
        if problem or seconds > limit:
            probes.missed[problem or f"{path} late"] += 1
        probes.milliseconds.append(1000 * seconds)
        time.sleep(every)
    return probes


def photos(port: int, clients: int, path: str, body: bytes) -> None:
    """`clients` that post a picture again as soon as they have the answer, until the process is ended."""

    def post() -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
                    connection.getresponse().read()
            connection.close()

    for _ in range(clients):
        threading.Thread(target=post).start()


def beside(port: int, number: int, load: Callable[..., None], *arguments: object) -> Probes:
    """What probes get while a process of its own runs `load`."""
    with attacked(port, load, *arguments):
        return probe(port, number)


def answered(port: int) -> Counter[str]:
    """Answers of /classify so far, by status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    answers: Counter[str] = Counter()
    for labels, value in re.findall(r"^shortcut_requests_total\{(.*)\} (\S+)$", text, re.M):
        if 'route="/classify"' in labels and (status := re.search(r'status="(\d+)"', labels)):
            answers[status[1]] += int(float(value))
    return answers


def held(port: int) -> int:
    """Connections to this port that are open at the server's side."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in psutil.net_connections("tcp")
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="efficientnet_lite0-imagenet", help="(default: %(default)s)")
    parser.add_argument("--probes", type=int, default=1000, help="of each part (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="that post photos (default: %(default)s)")
    parser.add_argument(
        "--connections",
        type=int,
        default=attacks.HELD,
        help="that are held: more than SHORTCUT_MAX_CONNECTIONS of each worker together (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if min(args.probes, args.clients, args.connections) < 1:
        parser.error("--probes, --clients and --connections must be at least 1")
    busy = busy_cores()
    try:
        asked = subject(Path("models"), args.model)
        if (large := FOR_PHOTO_MODELS[-1]) not in asked.photos:
            parser.error(f"{args.model} is no model for photos")
        body, path = asked.photos[large][0].data, f"/classify?model={asked.name}"
        with Server(CONTENDERS[OURS], asked) as service:
            service.verify(asked.small[:8])
            print(f"no load: {probe(service.port, args.probes // ALONE or 1)}", flush=True)
            before = answered(service.port)
            beside_photos = beside(service.port, args.probes, photos, args.clients, path, body)
            print(f"{args.clients} clients with photos of 12 megapixels: {beside_photos}", flush=True)
            counts = ", ".join(f"{status}: {number}" for status, number in (answered(service.port) - before).items())
            print(f"  answers to the photos meanwhile: {counts}", flush=True)
            time.sleep(2)  # what is left of it is closed
            with attacked(service.port, held_connections, args.connections):
                beside_held = probe(service.port, args.probes)
                print(f"{held(service.port):,} connections held: {beside_held}", flush=True)
    except (ServerError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    machine = conditions()
    load = f"something else took {busy:.1f} cores before" if busy > BUSY else "quiet before"
    print(f"{machine['cpu_kind']}, {machine['cores']} cores, {load}.")
    return 1 if beside_photos.missed or beside_held.missed else 0


if __name__ == "__main__":
    sys.exit(main())
