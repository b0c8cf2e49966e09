"""Minutes of all kinds of requests at once against the real service: does memory grow, does any get a wrong answer?

`make soak MINUTES=10`, or `.venv-dev/bin/python -m benchmarks.soak --minutes 10 --plot soak.png` from the repository's
root. The service is started from .venv as `make serve` does it, with the same SHORTCUT_ variables (SHORTCUT_QUEUE=32
makes it overload). The clients are threads of this process and share the cores with the service, so their latencies
tell of change over time only; `benchmarks.run` is for speed.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NoReturn

import psutil

from benchmarks.connection import status_of
from benchmarks.mix import KINDS, LANES, TIMED, Lane, Request, requests
from benchmarks.pictures import subject
from benchmarks.run import ENDING, say
from benchmarks.servers import CONTENDERS, OURS, Server, ServerError

ANSWER_SECONDS = 30  # an answer that takes longer is an error
STALE_SECONDS = 0.5  # a connection that its client left alone for longer may have been closed meanwhile
DRIBBLE_SECONDS = 0.2  # between two pieces of a slow request
WINDOW, FROM, JUDGED = 10, 60, 120  # seconds: of a median, where growth counts from, and of the shortest run judged
MAX_GROWTH = 5.0  # percent
EXAMPLES = 20  # of unexpected answers that are shown
LATENCIES = 200  # of a second that are kept


@dataclass
class Tally:
    """What came of requests: how many answers of each kind and how many of all were 503, the seconds that TIMED ones
    took, and what went wrong."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        self.answers += other.answers
        self.seconds += other.seconds
        self.unexpected += other.unexpected


def total(samples: Sequence["Sample"]) -> Tally:
    whole = Tally()
    for sample in samples:
        whole.add(sample.tally)
    return whole


class Clients:
    """All lanes' clients, from now on until `stop` is set."""

    def __init__(self, port: int, asked: dict[str, list[list[Request]]]) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._tally = Tally()
        self.stop = threading.Event()
        for lane in LANES:
            for number in range(lane.clients):
                sequence = asked[lane.kind][number % len(asked[lane.kind])]
                threading.Thread(target=self._drive, args=(lane, sequence), daemon=True).start()

    def take(self) -> Tally:
        """What came since it was last taken."""
        with self._lock:
            taken, self._tally = self._tally, Tally()
        taken.seconds = sorted(taken.seconds)[:: 1 + len(taken.seconds) // LATENCIES]  # a soak may last for hours
        return taken

    def _drive(self, lane: Lane, sequence: Sequence[Request]) -> None:
        sock, used = None, 0.0
        for request in itertools.cycle(sequence):
            if self.stop.wait(lane.pause):
                return
            came, started = Tally(), time.monotonic()
            try:
                if sock is None or started - used > STALE_SECONDS:
                    sock = socket.create_connection(("127.0.0.1", self._port), ANSWER_SECONDS)
                answer, closing = exchange(sock, request, lane.pieces)
                came.answers.update([lane.kind, "503"] if answer.startswith("503") else [lane.kind])
                if lane.kind == TIMED and answer == "200":
                    came.seconds.append(time.monotonic() - started)
            except Exception as err:  # nothing may go wrong here, so whatever does is a finding
                came.unexpected[f"{lane.kind}, {request.name}: {type(err).__name__}: {err}"] += 1
                closing = True
            used = time.monotonic()
            if closing or not lane.keep:
                sock = None  # and is closed, since nobody else holds it
            if self.stop.wait(0.1 if came.unexpected else 0):
                return  # what the service's end did to it is no finding
            with self._lock:
                self._tally.add(came)


def exchange(sock: socket.socket, request: Request, pieces: int = 1) -> tuple[str, bool]:
    """The answer, which is one of those allowed, and whether the connection is at its end. Raises ValueError for any
    other answer, OSError, EOFError."""
    size = math.ceil(len(request.data) / pieces)
    for start in range(0, len(request.data), size):
        if start:
            time.sleep(DRIBBLE_SECONDS)
        sock.sendall(request.data[start : start + size])
    if not request.allowed:
        return "", True
    received = b""
    while not (status := status_of(received)):
        if not (piece := sock.recv(65536)):
            raise EOFError(f"closed after {received[:40]!r}")
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    answer = "200" if status == 200 else f"{status} {json.loads(body).get('code')}"
    if answer not in request.allowed or (status == 200 and request.proof not in body):
        raise ValueError(f"{answer}: {body[:200].decode(errors='replace')}")
    return answer, request.last or b"\r\nconnection: close" in head.lower()


@dataclass(frozen=True)
class Sample:
    """The service `at` so many seconds after the load began, and what came of requests since the sample before."""

    at: float
    tally: Tally
    parent: int = 0  # bytes
    memory: dict[int, int] = field(default_factory=dict)  # bytes by worker
    fds: int = 0  # of all workers
    threads: int = 0


def look(service: Server, at: float, tally: Tally) -> Sample:
    parent, memory, fds, threads = 0, {}, 0, 0
    for number, process in enumerate(service._tree()):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if number == 0:
                parent = process.memory_info().rss
            elif process.status() != psutil.STATUS_ZOMBIE:
                fds += process.num_fds()
                threads += process.num_threads()
                memory[process.pid] = process.memory_info().rss
    return Sample(at, tally, parent, memory, fds, threads)


def soak(service: Server, asked: dict[str, list[list[Request]]], seconds: float, samples: list[Sample]) -> None:
    """Loads the service for `seconds`, and appends to `samples` every second."""
    clients, began = Clients(service.port, asked), time.monotonic()
    try:
        for second in range(1, max(1, round(seconds)) + 1):
            time.sleep(max(0.0, began + second - time.monotonic()))
            samples.append(look(service, time.monotonic() - began, clients.take()))
    finally:
        clients.stop.set()


@dataclass(frozen=True)
class Verdict:
    """`growth`: percent of the workers' memory, None of a run too short to say; `lost`: workers that ended."""

    growth: float | None
    unexpected: Counter[str]
    lost: int
    answers: int

    @property
    def failed(self) -> bool:
        grown = self.growth is not None and self.growth > MAX_GROWTH
        return grown or self.unexpected.total() > 0 or self.lost > 0 or self.answers == 0

    def __str__(self) -> str:
        growth = "not judged, too short" if self.growth is None else f"{self.growth:+.1f} % (limit {MAX_GROWTH:g} %)"
        lines = [f"memory of the workers since the first minute: {growth}"]
        lines += [f"answers: {self.answers:,}; unexpected: {self.unexpected.total():,}; workers replaced: {self.lost}"]
        lines += [f"  {number:,} × {what}" for what, number in self.unexpected.most_common(EXAMPLES)]
        return "\n".join([*lines, "FAILED" if self.failed else "passed"])


def judge(samples: Sequence[Sample]) -> Verdict:
    whole = total(samples)
    seen = {worker for sample in samples for worker in sample.memory}
    lost = len(seen) - len(samples[-1].memory)  # for each that ended another was seen, or is missing
    answers = sum(whole.answers[lane.kind] for lane in LANES)
    return Verdict(growth(samples), whole.unexpected, lost, answers)


def growth(samples: Sequence[Sample]) -> float | None:
    """Percent, from the end of the first minute to the end, of what all workers hold."""
    end = samples[-1].at
    before = [sum(s.memory.values()) for s in samples if FROM - WINDOW < s.at <= FROM]
    after = [sum(s.memory.values()) for s in samples if s.at > end - WINDOW]
    if end < JUDGED or not before or not median(before):
        return None
    return 100 * (median(after) / median(before) - 1)


def condensed(samples: Sequence[Sample], count: int) -> list[dict[str, float]]:
    """At most `count` rows of figures over time; each covers the samples since the row before."""
    rows = []
    size = math.ceil(len(samples) / count)
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        whole = total(part)
        span = part[-1].at - (samples[start - 1].at if start else 0.0)
        seconds = sorted(whole.seconds) or [math.nan]
        rows.append(
            {
                "minute": part[-1].at / 60,
                "MiB": median(sum(sample.memory.values()) for sample in part) / 2**20,
                "parent MiB": median(sample.parent for sample in part) / 2**20,
                "fds": median(sample.fds for sample in part),
                "threads": median(sample.threads for sample in part),
                **{f"{kind}/s": whole.answers[kind] / span for kind in KINDS},
                "p50 ms": 1000 * seconds[len(seconds) // 2],
                "p99 ms": 1000 * seconds[len(seconds) * 99 // 100],
                "unexpected": whole.unexpected.total(),
            }
        )
    return rows


def table(samples: Sequence[Sample], count: int = 10) -> str:
    rows = condensed(samples, count)
    lines = [[*rows[0]], ["---:"] * len(rows[0])]
    lines += [[f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Memory, answers and latency over time, as PNG."""
    import matplotlib  # not where the service and its peers run

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory, answers, latency) = plt.subplots(3, 1, figsize=(9, 9), sharex=True, layout="constrained")
    minutes = [sample.at / 60 for sample in samples]
    for worker in sorted({worker for sample in samples for worker in sample.memory}):
        memory.plot(minutes, [s.memory.get(worker, math.nan) / 2**20 for s in samples], label=f"worker {worker}")
    memory.plot(minutes, [sample.parent / 2**20 for sample in samples], label="parent")
    rows = condensed(samples, 120)
    for axis, names in ((answers, (*(f"{kind}/s" for kind in KINDS), "unexpected")), (latency, ("p50 ms", "p99 ms"))):
        for name in names:
            axis.plot([row["minute"] for row in rows], [row[name] or math.nan for row in rows], label=name)
    for axis, label in ((memory, "resident MiB"), (answers, "by kind"), (latency, f"{TIMED} requests")):
        axis.set(ylabel=label, xlabel="minutes" if axis is latency else None)
        if axis is answers:
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, None)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _interrupt(*_: object) -> NoReturn:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # the service is being stopped; a second Ctrl-C must not cut that short
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (default: %(default)g)")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all that SHORTCUT_MODELS holds")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args(argv)
    folder = Path(os.environ.get("SHORTCUT_MODELS") or "models")
    names = args.models or sorted({onnx.parts[-3] for onnx in folder.glob("*/*/model.onnx")}) or [""]
    for number in ENDING:
        signal.signal(number, _interrupt)
    samples: list[Sample] = []
    status = 0
    try:
        subjects = [subject(folder, name) for name in names]
        with Server(CONTENDERS[OURS], subjects[0]) as service:
            say(f"{args.minutes:g} min of load on {', '.join(names)}")
            soak(service, requests(subjects), 60 * args.minutes, samples)
            if judge(samples).failed:
                say(service._last_lines())
    except (ServerError, FileNotFoundError) as err:
        say(f"error: {err}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the service was stopped")
        status = 130
    if samples:
        verdict = judge(samples)
        print(f"{table(samples)}\n\n{verdict}")
        if args.plot is not None:
            plot(samples, args.plot)
        status = status or int(verdict.failed)
    return status


if __name__ == "__main__":
    sys.exit(main())
