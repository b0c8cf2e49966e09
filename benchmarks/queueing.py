"""`python -m benchmarks.queueing`: measured service times -> the p99 that a load will see, beside the p99 that it saw.

A worker is simulated as one server that takes all that waits, up to 32, as one batch (bulk service: Bailey 1954, "On
queueing processes with bulk service"), Poisson arrivals in front of it. What a batch of each size takes is measured in
closed loops, how much that varies with one client alone. Knows a started server and its load generators.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.load import Load, LoadError
from benchmarks.pictures import Subject, subject
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import CONTENDERS, OURS_CPU, Server, ServerError

SIZES = (1, 2, 4, 8, 16, 32)  # images of a batch, and clients of a closed loop
MOST = SIZES[-1]
ALONE = 400  # requests of one client, whose times tell how much a service time varies
SHARES = (0.3, 0.5, 0.7, 0.8)  # of the capacity
SIMULATED_SECONDS = 300.0


@dataclass(frozen=True)
class ServiceTimes:
    """`seconds` (MOST + 1,) that a batch of so many images takes, `varies` (n,) times by which one may take longer or
    shorter; their mean is 1."""

    seconds: np.ndarray
    varies: np.ndarray

    @classmethod
    def of(cls, rates: Mapping[int, float], alone: Sequence[float]) -> "ServiceTimes":
        """`rates` are images a second by clients of a closed loop: as many as wait are computed together. `alone` are
        the seconds of one client's requests."""
        sizes = sorted(rates)
        seconds = np.interp(np.arange(MOST + 1), sizes, [size / rates[size] for size in sizes])
        return cls(np.maximum.accumulate(seconds), np.asarray(alone) / np.mean(alone))

    @property
    def capacity(self) -> float:
        """Images a second in full batches."""
        return float(MOST / self.seconds[MOST])


def simulate(
    times: ServiceTimes, rate: float, seconds: float = SIMULATED_SECONDS, workers: int = 1, seed: int = 0
) -> np.ndarray:
    """The latencies, in seconds, of Poisson arrivals, `rate` a second, each at one of `workers` that share nothing."""
    found = [_one(times, rate / workers, seconds, np.random.default_rng((seed, worker))) for worker in range(workers)]
    return np.concatenate(found)


def _one(times: ServiceTimes, rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    arrivals = np.sort(rng.uniform(0, seconds, max(1, rng.poisson(rate * seconds))))
    varies = rng.choice(times.varies, len(arrivals))
    latencies = np.empty(len(arrivals))
    first, now = 0, 0.0
    while first < len(arrivals):
        now = max(now, arrivals[first])
        last = min(int(np.searchsorted(arrivals, now, "right")), first + MOST)
        now += times.seconds[last - first] * varies[first]
        latencies[first:last] = now - arrivals[first:last]
        first = last
    return latencies


def alone(port: int, path: str, body: bytes, kind: str, requests: int = ALONE) -> list[float]:
    """Seconds of one client's requests, one after the other on one connection."""
    found = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(requests):
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            found.append(time.perf_counter() - began)
            if response.status != 200:
                raise LoadError(f"{path}: status {response.status}")
    return found[requests // 10 :]  # warm


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
        closed: dict[int, list[float]] = {size: [] for size in SIZES}
        varies: list[float] = []
        opened: dict[float, list[tuple[float, float, float]]] = {share: [] for share in shares}
        times: ServiceTimes | None = None
        for _ in range(rounds):  # all in turn, so that what else the machine does meets them alike
            for size in SIZES:
                closed[size].append(load.closed(size, seconds).all_answered(f"{size} clients").rate)
                server.settle()
            varies += alone(server.port, server.path, *ours.body(chosen.small[0].data))
            times = ServiceTimes.of({size: median(rates) for size, rates in closed.items()}, varies)
            for share in shares:
                figures = load.open(share * times.capacity, 3 * seconds).all_answered(f"{share:.0%} of the capacity")
                opened[share].append((figures.p50_ms, figures.p99_ms, figures.late_ms))
                server.settle()
        assert times is not None
        return times, [_row(times, share, found) for share, found in opened.items()]


def _row(times: ServiceTimes, share: float, found: Sequence[tuple[float, float, float]]) -> Row:
    rate = share * times.capacity
    p50, p99, late = (np.array(column) for column in zip(*found, strict=True))
    predicted = 1000 * np.percentile(simulate(times, rate), (50, 99))
    return Row(
        rate, float(np.median(p50)), float(np.median(p99)), p99.min(), p99.max(), *predicted, float(np.median(late))
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
    found = conditions()
    sizes = {size: round(1000 * float(times.seconds[size]), 3) for size in SIZES}
    print(table(rows, times.capacity))
    print(f"\n{args.model}, one worker: ms a batch {json.dumps(sizes)}, {times.capacity:,.0f} images/s;", end=" ")
    print(f"{found['cpu_kind']}, {found['cores']} cores, something else took {busy:.1f} of them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
