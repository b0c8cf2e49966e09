"""`python -m benchmarks.overload`: three times as many requests as the service can answer, and what comes of them.

Finds the saturation of a model with a closed loop, then offers a multiple of it at random moments, while another model
is asked gently; the saturation is found anew after each such flood. Wanted: nearly the whole saturation still answered
200, in time; the rest refused at once; the other model hardly slower. The service has one half of the cores and the
generator the other, since three times as many requests are three times the work for the generator, too. Knows a started
server and two paths.
"""

import argparse
import contextlib
import http.client
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.load import Figures, Load
from benchmarks.pictures import subject
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

CLOSED_CONNECTIONS = 64
OPEN_CONNECTIONS = 800  # enough that requests wait in the service, not for a connection; select() takes 1,024
TURN_SECONDS = 2.0  # in which each connection has its turn: one that is left alone for longer may be closed
SATURATION_SECONDS = 2.0  # about, of a measurement; less than half of what the open loop waits for a last answer
GENTLE_SECONDS = 0.05  # between two requests for the other model


@contextlib.contextmanager
def half_of_the_cores(number: int) -> Iterator[None]:
    """Processes and threads that are started inside keep to this half, 0 or 1; to all where there is but one core, or
    where the system has no say in it (macOS)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    whole = sorted(os.sched_getaffinity(0))
    middle = len(whole) // 2
    os.sched_setaffinity(0, (whole[:middle], whole[middle:])[number] or whole)
    try:
        yield
    finally:
        os.sched_setaffinity(0, whole)


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


def measure(
    port: int, flooded: Target, other: Target, times: float = 3.0, seconds: float = 4.0, rounds: int = 3
) -> list[Outcome]:
    """An outcome a round, each beside the mean of the saturations before and after it. The service at `port` was
    started within half_of_the_cores(0)."""
    load = Load(port, flooded.path, [(flooded.body, "image/png")])

    def saturation(guess: float, part: float = 1.0) -> float:
        count = max(CLOSED_CONNECTIONS * 2, guess * SATURATION_SECONDS * part)
        return load.open(count / 0.001, 0.001, CLOSED_CONNECTIONS).accepted_rate  # all due at once: a closed loop

    outcomes = []
    try:
        with half_of_the_cores(1):
            before = saturation(saturation(saturation(200.0), 0.5))
            for _ in range(rounds):
                connections = min(OPEN_CONNECTIONS, math.ceil(times * before * TURN_SECONDS))
                with Neighbour(port, other) as neighbour:
                    figures = load.open(times * before, seconds, connections)
                after = saturation(before)
                mean = (before + after) / 2
                outcomes.append(Outcome(mean, times * before, figures, neighbour.milliseconds, neighbour.statuses))
                before = after
        return outcomes
    finally:
        load.close()


def goodput(outcomes: Sequence[Outcome]) -> float:
    """The median round's."""
    return median(outcome.goodput for outcome in outcomes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--model", default="conv_resnet_deep-cifar10", help="that is flooded (default: %(default)s)")
    parser.add_argument("--other", default="dense_resnet-mnist", help="that is asked gently (default: %(default)s)")
    parser.add_argument("--times", type=float, default=3.0, help="the saturation (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a flood (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=5, help="floods (default: %(default)s)")
    parser.add_argument("--deadline-ms", type=int, default=500, help="SHORTCUT_DEADLINE_MS (default: %(default)s)")
    args = parser.parse_args(argv)
    os.environ["SHORTCUT_DEADLINE_MS"] = str(args.deadline_ms)
    try:
        flooded, other = (subject(Path("models"), name) for name in (args.model, args.other))
        with contextlib.ExitStack() as stack:
            with half_of_the_cores(0):
                service = stack.enter_context(Server(CONTENDERS[OURS], flooded))
            service.verify(flooded.small)
            targets = (Target(f"/classify?model={one.name}", one.small[0].data) for one in (flooded, other))
            outcomes = measure(service.port, *targets, times=args.times, seconds=args.seconds, rounds=args.rounds)
        print("\n".join(map(str, outcomes)))
        print(f"goodput at {args.times:g} times the saturation: {100 * goodput(outcomes):.0f} % of it (median round)")
    except (ServerError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
