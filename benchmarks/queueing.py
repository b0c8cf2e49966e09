"""`python -m benchmarks.queueing`: measured service times -> the p99 that a load will see, beside the p99 that it saw.

A worker is simulated as one server that takes all that waits, up to 32, as one batch (bulk service: Bailey 1954, "On
queueing processes with bulk service"). What a batch takes is the server's own measure of it in closed loops. A batch
after a pause takes longer, since caches and clock are not as they were. By how much, lone requests tell. The simulated
requests come at the very moments of the measured ones. Knows a started server and its load generators.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import Figures, Load, LoadError
from benchmarks.open_loop import moments
from benchmarks.pictures import Subject, subject
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import CONTENDERS, OURS_CPU, Server, ServerError

CLIENTS = (1, 2, 4, 8, 16, 32)  # of the closed loops
MOST = 32  # images of a batch
ALONE = 400  # requests of one client, whose times tell how much a service time varies
PAUSES = (0.5, 1, 2, 4, 8, 16)  # before a lone request, in times of one without a pause
AFTER_PAUSE = 60  # lone requests for each of PAUSES
QUANTILES = np.linspace(0, 1, 21)
SHARES = (0.3, 0.5, 0.7, 0.8)  # of the capacity
SIMULATED_SECONDS = 300.0
DRAWS = 20  # of what the batches of a measured load may have taken


class Batches(NamedTuple):
    """What a server has counted: batches, their images, and the seconds that they were computed."""

    count: float
    images: float
    seconds: float


class Closed(NamedTuple):
    """A closed loop: images a second, and the mean images and seconds of its batches. They are fewer images than it has
    clients: the first request that comes back is computed alone, while the others gather."""

    rate: float
    images: float
    seconds: float

    @classmethod
    def between(cls, rate: float, before: Batches, after: Batches) -> "Closed":
        count, images, seconds = (b - a for a, b in zip(before, after, strict=True))
        return cls(rate, images / count, seconds / count)


@dataclass(frozen=True)
class ServiceTimes:
    """`seconds` (MOST + 1,) that a worker is busy with a batch of so many images, and `around` that a request takes
    beside: its client and its way. `varies` (n,) times by which a batch may take longer or shorter; their mean is 1.
    `extra` (P, Q) seconds more that the first batch takes after each of `pauses` (P,) seconds, at Q even quantiles."""

    seconds: np.ndarray
    varies: np.ndarray
    around: float = 0.0
    pauses: np.ndarray = field(default_factory=lambda: np.zeros(1))
    extra: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))

    @classmethod
    def of(
        cls, loops: Mapping[int, Closed], alone: Sequence[float], paused: Mapping[float, Sequence[float]]
    ) -> "ServiceTimes":
        """`loops` by their clients. `alone` are the seconds of one client's requests without a pause between them,
        `paused` those after a pause of so many seconds.

        Computing a batch is a line over its images: what any batch costs, and what an image costs. Where the clients
        are most, the worker never rests: what an image takes there beyond its computing is reading and answering it.
        """
        images, seconds = (np.array([getattr(loop, name) for loop in loops.values()]) for name in ("images", "seconds"))
        # Weighed by their inverse, since the error of a measured time grows with it.
        slope, start = np.polyfit(images, seconds, 1, w=1 / seconds)
        if min(slope, start) < 0 or np.ptp(images) < 0.5:  # no line is to be seen
            slope, start = np.mean(seconds / images), 0.0
        busiest, single = loops[max(loops)], loops[min(loops)]
        handling = max(1 / busiest.rate - busiest.seconds / busiest.images, 0.0)
        around = max(min(loops) / single.rate - single.seconds - handling, 0.0)
        sizes = np.arange(MOST + 1)
        computing = np.where(sizes > 0, start + slope * sizes, 0.0)
        # After no pause as before; after a longer one at least what a shorter one costs, as noise aside it must be.
        extra = [np.zeros(len(QUANTILES))]
        for _, seconds in sorted(paused.items()):
            extra.append(np.maximum(np.quantile(seconds, QUANTILES) - np.median(alone), extra[-1]))
        pauses = np.array([0.0, *sorted(paused)])
        return cls(computing + handling * sizes, np.asarray(alone) / np.mean(alone), around, pauses, np.array(extra))

    @property
    def capacity(self) -> float:
        """Images a second in full batches."""
        return float(MOST / self.seconds[MOST])

    def after_pause(self, pause: float, quantile: float) -> float:
        """Seconds more that a batch takes after a pause of so many seconds; as after the longest for longer ones."""
        at = np.array([np.interp(pause, self.pauses, column) for column in self.extra.T])
        return float(np.interp(quantile, np.linspace(0, 1, len(at)), at))


def simulate(
    times: ServiceTimes, rate: float, seconds: float = SIMULATED_SECONDS, workers: int = 1, seed: int = 0
) -> np.ndarray:
    """The latencies, in seconds, of Poisson arrivals, `rate` a second, each at one of `workers` that share nothing."""
    latencies = []
    for worker in range(workers):
        rng = np.random.default_rng((seed, worker))
        moments = np.sort(rng.uniform(0, seconds, max(1, rng.poisson(rate / workers * seconds))))
        latencies.append(served(times, moments, rng))
    return np.concatenate(latencies)


def served(times: ServiceTimes, arrivals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The latencies, in seconds, of requests that come at one worker at these moments, in order."""
    varies, quantiles = rng.choice(times.varies, len(arrivals)), rng.random(len(arrivals))
    latencies = np.empty(len(arrivals))
    first, now = 0, 0.0
    while first < len(arrivals):
        pause = max(arrivals[first] - now, 0.0) if first else 0.0
        now = max(now, arrivals[first])
        last = min(int(np.searchsorted(arrivals, now, "right")), first + MOST)
        now += times.seconds[last - first] * varies[first] + times.after_pause(pause, quantiles[first])
        latencies[first:last] = now - arrivals[first:last]
        first = last
    return latencies + times.around


def predicted(times: ServiceTimes, rate: float, seconds: float) -> np.ndarray:
    """The p50 and p99, in seconds, of the requests that `Load.open` sends."""
    arrivals = np.array(moments(rate, seconds))
    draws = [np.percentile(served(times, arrivals, np.random.default_rng(draw)), (50, 99)) for draw in range(DRAWS)]
    medians: np.ndarray = np.median(draws, axis=0)
    return medians


def alone(port: int, path: str, body: bytes, kind: str, requests: int = ALONE, pause: float = 0.0) -> list[float]:
    """Seconds of one client's requests, one after the other on one connection, each after a pause in seconds."""
    durations = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(requests):
            if pause:
                time.sleep(pause)
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            durations.append(time.perf_counter() - began)
            if response.status != 200:
                raise LoadError(f"{path}: status {response.status}")
    return durations[requests // 10 :]  # warm


def batches(port: int) -> Batches:
    """So far, of the one model that is served."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    sums = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name
        in ("shortcut_batch_images_sum", "shortcut_compute_seconds_sum", "shortcut_compute_seconds_count")
    }
    count, seconds = (sums[f"shortcut_compute_seconds_{what}"] for what in ("count", "sum"))
    return Batches(count, sums["shortcut_batch_images_sum"], seconds)


@dataclass(frozen=True)
class Row:
    """Of one load: requests a second, p50 and p99 in ms as measured, with the least and largest p99, and as predicted;
    and how late the load generator itself was, in ms."""

    rate: float
    p50_ms: float
    p99_ms: float
    least_ms: float
    most_ms: float
    predicted_p50_ms: float
    predicted_p99_ms: float
    late_ms: float

    @property
    def off(self) -> float:
        """How far the prediction is from the measured p99, as a fraction of that."""
        return self.predicted_p99_ms / self.p99_ms - 1


def measure(
    models: Path, name: str, shares: Sequence[float], rounds: int, seconds: int
) -> tuple[ServiceTimes, list[Row]]:
    """Raises ServerError, LoadError, FileNotFoundError."""
    chosen = subject(models, name)
    with tempfile.TemporaryDirectory(prefix="shortcut-queueing-") as alone_in:
        Path(alone_in, name).symlink_to((models / name).resolve())  # no other model takes time or memory
        return _measured(Path(alone_in), chosen, shares, rounds, seconds)


def _measured(
    models: Path, chosen: Subject, shares: Sequence[float], rounds: int, seconds: int
) -> tuple[ServiceTimes, list[Row]]:
    name = chosen.name
    settings = {
        "SHORTCUT_MODELS": str(models),
        "SHORTCUT_DEFAULT_MODEL": name,
        "SHORTCUT_PROVIDER": "cpu",
        "SHORTCUT_WORKERS": "1",  # the load generator has a core of its own, where there are two
    }
    ours = replace(CONTENDERS[OURS_CPU], environment=settings)
    with ExitStack() as stack:
        server = stack.enter_context(Server(ours, chosen))
        server.verify(chosen.small)
        load = Load(server.port, server.path, [ours.body(picture.data) for picture in chosen.small])
        stack.callback(load.close)
        load.closed(MOST, 1)
        closed: dict[int, list[Closed]] = {clients: [] for clients in CLIENTS}
        varies: list[float] = []
        paused: dict[float, list[float]] = {}
        opened: dict[float, list[Opened]] = {share: [] for share in shares}
        times: ServiceTimes | None = None
        for _ in range(rounds):  # all in turn, so that what else the machine does meets them alike
            for clients in CLIENTS:
                before = batches(server.port)
                figures = load.closed(clients, seconds).all_answered(f"{clients} clients")
                server.settle()
                closed[clients].append(Closed.between(figures.rate, before, batches(server.port)))
            one = (server.port, server.path, *ours.body(chosen.small[0].data))
            varies += alone(*one)
            for pause in paused or [times_alone * np.median(varies) for times_alone in PAUSES]:
                paused.setdefault(pause, []).extend(alone(*one, AFTER_PAUSE, pause))
            loops = {clients: Closed(*np.median(rounds_of, axis=0)) for clients, rounds_of in closed.items()}
            times = ServiceTimes.of(loops, varies, paused)
            for share in shares:
                rate = share * times.capacity
                figures = load.open(rate, 3 * seconds).all_answered(f"{share:.0%} of the capacity")
                opened[share].append(Opened(rate, figures))
                server.settle()
        assert times is not None
        return times, [_row(times, rounds_of, 3 * seconds) for rounds_of in opened.values()]


class Opened(NamedTuple):
    """A load at random moments, `rate` a second, and what came of it."""

    rate: float
    figures: Figures


def _row(times: ServiceTimes, opened: Sequence[Opened], seconds: int) -> Row:
    """The medians of the rounds. Each is predicted at its own rate, by what all of them have told of service times."""
    p50, p99, late = np.array([(one.figures.p50_ms, one.figures.p99_ms, one.figures.late_ms) for one in opened]).T
    guesses = 1000 * np.median([predicted(times, one.rate, seconds) for one in opened], axis=0)
    rate = median(one.rate for one in opened)
    return Row(
        rate, float(np.median(p50)), float(np.median(p99)), p99.min(), p99.max(), *guesses, float(np.median(late))
    )


def table(rows: Sequence[Row], capacity: float) -> str:
    """In Markdown."""
    lines = [
        "| requests/s | of the capacity | p50 | p50 predicted | p99 (least to most) | p99 predicted | off by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.rate:,.0f} | {row.rate / capacity:.0%} | {row.p50_ms:.2f} ms | {row.predicted_p50_ms:.2f} ms | "
        f"{row.p99_ms:.2f} ms ({row.least_ms:.2f} to {row.most_ms:.2f}) | {row.predicted_p99_ms:.2f} ms | "
        f"{row.off:+.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queueing", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?", default="resnet9-cifar10", help="(default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="of each closed loop (default: %(default)s)")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="of the capacity (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        shares = [float(text) for text in args.shares.split(",")]
    except ValueError:
        shares = []
    if min(args.rounds, args.seconds) < 1 or not shares or not all(0 < share < 1 for share in shares):
        parser.error("--rounds and --seconds must be at least 1, --shares numbers between 0 and 1")
    if (busy := busy_cores()) > BUSY:
        print(
            f"warning: something else takes {busy:.1f} cores: the measured p99 will say more of that", file=sys.stderr
        )
    try:
        times, rows = measure(args.models, args.model, shares, args.rounds, args.seconds)
    except (ServerError, LoadError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    machine = conditions()
    sizes = {size: round(1000 * float(times.seconds[size]), 3) for size in CLIENTS}
    later = {f"{1000 * p:.1f}": round(1000 * times.after_pause(p, 0.5), 2) for p in times.pauses[1:]}
    print(table(rows, times.capacity))
    print(f"\n{args.model}, one worker: ms a batch {json.dumps(sizes)}, {1000 * times.around:.2f} ms around;", end=" ")
    print(f"ms more after a pause of so many ms {json.dumps(later)};", end=" ")
    print(f"{times.capacity:,.0f} images/s; {machine['cpu_kind']}, {machine['cores']} cores,", end=" ")
    print(f"something else took {busy:.1f} of them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
