"""`python -m benchmarks.overload`: three times as many requests as the service can answer, and what comes of them.

Finds the saturation of a model with a closed loop, then offers a multiple of it at random moments, while another model
is asked gently. Wanted: nearly the whole saturation still answered 200, in time; the rest refused at once; the other
model hardly slower. Knows a started server and two paths.
"""

import argparse
import http.client
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.load import Figures, Load
from benchmarks.pictures import subject
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

CLOSED_CONNECTIONS = 64
OPEN_CONNECTIONS = 800  # enough that requests wait in the service, not for a connection; select() takes 1,024
GENTLE_SECONDS = 0.05  # between two requests for the other model


@dataclass(frozen=True)
class Target:
    path: str
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """Rates are answers 200 a second. `neighbour` is the other model's: milliseconds of each answer, and statuses."""

    saturation: float
    offered: float
    figures: Figures
    neighbour_ms: list[float]
    neighbour_statuses: Counter[str]

    @property
    def goodput(self) -> float:
        """Of the saturation."""
        return self.figures.accepted_rate / self.saturation

    def __str__(self) -> str:
        figures = self.figures
        waits = sorted(self.neighbour_ms) or [float("nan")]
        return "\n".join(
            (
                f"saturation: {self.saturation:,.0f} requests/s; offered: {self.offered:,.0f}",
                f"answered 200: {figures.accepted_rate:,.0f} requests/s, {100 * self.goodput:.0f} % of saturation, "
                f"p99 {figures.accepted_p99_ms:.0f} ms; refused within {figures.refused_p50_ms:.1f} ms (p50)",
                f"answers by status: {figures.statuses}; lost: {figures.lost}; "
                f"the generator was late by {figures.late_ms:.1f} ms (p99)",
                f"the other model: p50 {median(waits):.1f} ms, p99 {waits[len(waits) * 99 // 100]:.1f} ms, "
                f"{dict(self.neighbour_statuses)}",
            )
        )


class Neighbour:
    """A client of another model that asks now and then, on a connection of its own each time."""

    def __init__(self, port: int, target: Target):
        self.milliseconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self._port, self._target = port, target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(GENTLE_SECONDS):
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                connection.request("POST", self._target.path, self._target.body, {"Content-Type": "image/png"})
                response = connection.getresponse()
                response.read()
                self.statuses[str(response.status)] += 1
            except (OSError, http.client.HTTPException) as err:
                self.statuses[type(err).__name__] += 1
            finally:
                connection.close()
            self.milliseconds.append(1000 * (time.perf_counter() - began))


def measure(port: int, flooded: Target, other: Target, times: float = 3.0, seconds: float = 5.0) -> Outcome:
    load = Load(port, flooded.path, [(flooded.body, "image/png")])
    try:
        rate = 200.0  # a first guess, corrected by what was answered
        for part in (0.1, 0.3, 1.0):  # all due at once: a closed loop over its connections
            count = max(CLOSED_CONNECTIONS * 2, rate * seconds * part)
            rate = load.open(count / 0.001, 0.001, CLOSED_CONNECTIONS).accepted_rate
        with Neighbour(port, other) as neighbour:
            figures = load.open(times * rate, seconds, OPEN_CONNECTIONS)
        return Outcome(rate, times * rate, figures, neighbour.milliseconds, neighbour.statuses)
    finally:
        load.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--model", default="conv_resnet_deep-cifar10", help="that is flooded (default: %(default)s)")
    parser.add_argument("--other", default="dense_resnet-mnist", help="that is asked gently (default: %(default)s)")
    parser.add_argument("--times", type=float, default=3.0, help="the saturation (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--deadline-ms", type=int, default=500, help="SHORTCUT_DEADLINE_MS (default: %(default)s)")
    args = parser.parse_args(argv)
    os.environ["SHORTCUT_DEADLINE_MS"] = str(args.deadline_ms)
    try:
        flooded, other = (subject(Path("models"), name) for name in (args.model, args.other))
        with Server(CONTENDERS[OURS], flooded) as service:
            service.verify(flooded.small)
            targets = (Target(f"/classify?model={one.name}", one.small[0].data) for one in (flooded, other))
            print(measure(service.port, *targets, times=args.times, seconds=args.seconds))
    except (ServerError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
