"""Measures every server in every cell, several rounds, interleaved: A B C D, then B C D A, and so on.

Knows the order of things and what a cell is. Servers, load generators and tables have modules of their own.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load import Figures, Load
from benchmarks.pictures import Subject
from benchmarks.servers import CONTENDERS, EMPTY, SERVING_BIN, Server, ServerError, multipart

BATCH = 64  # images of one upload
BATCH_CONNECTIONS = 8
LARGE_CONNECTIONS = 8
SATURATION = 0.6  # share of the best closed-loop rate, a server's own or the slowest one's, at which open loops run
BARE_BATCHES = (1, 32)


@dataclass(frozen=True)
class Plan:
    """What to measure. `warm_seconds` precede every measurement unless they are 0."""

    contenders: Sequence[str]
    rounds: int
    seconds: int
    warm_seconds: int
    connections: Sequence[int]


@dataclass
class Loads:
    """The bodies for one server."""

    small: Load
    large: Load | None
    batch: Load | None

    def close(self) -> None:
        for load in (self.small, self.large, self.batch):
            if load is not None:
                load.close()


def measure(subject: Subject, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """All samples of one model: {"servers": {name: …}, "samples": [{"server", "cell", "round", figures…}, …], …}.

    Of the cells `bare N` the "server" is the kind of session; "bare_left_out" says which kinds are not to be had.
    """
    samples: list[dict[str, Any]] = []
    with ExitStack() as stack:
        started = {name: _start(stack, name, subject, say) for name in plan.contenders}
        loads = {name: _loads(stack, server, subject) for name, server in started.items()}
        described = {name: _warm_and_describe(started[name], loads[name], say) for name in started}
        described[EMPTY] = {"ready_seconds": _time_empty(subject)}
        names = list(started)
        for number in range(plan.rounds):
            best: dict[str, float] = {}
            for cell, run in _cells(plan, best):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    with _awake(started[name]):
                        figures = run(name, loads[name], plan.warm_seconds)
                    if figures is not None:
                        samples.append({"server": name, "cell": cell, "round": number, **asdict(figures)})
                say(f"round {number + 1} of {plan.rounds}, {cell}: {_summary(samples, cell, number)}")
            bare = _bare(subject, plan.seconds)
            for row, rates in bare["rates"].items():
                for batch, rate in rates.items():
                    samples.append({"server": row, "cell": f"bare {batch}", "round": number, "rate": rate})
            say(f"round {number + 1} of {plan.rounds}, bare: {bare['rates']}")
        for name, server in started.items():
            described[name]["largest_process_mib"] = round(server.largest_process(), 1)
            with _awake(server):
                server.verify(subject.small[:8])  # still right after all that
    return {"servers": described, "samples": samples, "bare_left_out": bare["left_out"]}


Run = Callable[[str, Loads, int], Figures | None]


def _cells(plan: Plan, best: dict[str, float]) -> Iterator[tuple[str, Run]]:
    """The cells in order; the closed loops fill `best`, the open loops need it."""

    def closed(connections: int) -> Run:
        def run(name: str, loads: Loads, warm: int) -> Figures:
            if warm:
                loads.small.closed(connections, warm)
            figures = loads.small.closed(connections, plan.seconds)
            best[name] = max(best.get(name, 0.0), figures.rate)
            return figures

        return run

    def open_(best_rate: Callable[[str], float]) -> Run:
        def run(name: str, loads: Loads, warm: int) -> Figures:
            if warm:
                loads.small.closed(1, warm)
            return loads.small.open(SATURATION * best_rate(name), plan.seconds)

        return run

    def large(name: str, loads: Loads, warm: int) -> Figures | None:
        if loads.large is None:
            return None
        if warm:
            loads.large.closed(LARGE_CONNECTIONS, warm)
        return loads.large.closed(LARGE_CONNECTIONS, plan.seconds)

    def batch(name: str, loads: Loads, warm: int) -> Figures | None:
        if loads.batch is None:
            return None
        if warm:
            loads.batch.closed(BATCH_CONNECTIONS, warm)
        got = loads.batch.closed(BATCH_CONNECTIONS, plan.seconds)
        return Figures(got.rate * BATCH, got.p50_ms, got.p99_ms, got.not_200, got.lost)

    for connections in plan.connections:
        yield f"closed {connections}", closed(connections)
    yield "open own rate", open_(lambda name: best[name])
    yield "open same rate", open_(lambda name: min(best.values()))
    yield "large", large
    yield "batch", batch


def _start(stack: ExitStack, name: str, subject: Subject, say: Callable[[str], None]) -> Server:
    """A started, verified and paused server."""
    server = stack.enter_context(Server(CONTENDERS[name], subject))
    server.verify(subject.small)
    if subject.large is not None:
        server.verify([subject.large])
    if server.contender.ours:
        server.verify_batch(subject.small[:BATCH])
    say(f"{name}: ready after {server.ready_seconds:.1f} s, {len(subject.small)} answers of {subject.name} are right")
    server.pause()
    return server


def _time_empty(subject: Subject) -> float:
    with Server(CONTENDERS[EMPTY], subject) as server:
        return round(server.ready_seconds, 2)


def _loads(stack: ExitStack, server: Server, subject: Subject) -> Loads:
    def load(path: str, bodies: list[tuple[bytes, str]]) -> Load:
        made = Load(server.port, path, bodies)
        stack.callback(made.close)
        return made

    return Loads(
        small=load(server.path, [server.body(picture.data) for picture in subject.small]),
        large=load(server.path, [server.body(subject.large.data)]) if subject.large else None,
        batch=load(server.batch_path, [multipart([p.data for p in subject.small[:BATCH]])])
        if server.contender.ours
        else None,
    )


def _warm_and_describe(server: Server, loads: Loads, say: Callable[[str], None]) -> dict[str, Any]:
    with _awake(server):
        loads.small.closed(8, 1)
        server.measure_idle()
        provider = server.provider()
    if server.idle_cpu > 0.05:
        say(f"{server.name}: takes {100 * server.idle_cpu:.0f} % of a core while idle")
    return {"ready_seconds": round(server.ready_seconds, 2), "idle_cpu": round(server.idle_cpu, 3), **provider}


def _bare(subject: Subject, seconds: int) -> dict[str, Any]:
    """What `benchmarks.bare` prints in our service's environment."""
    batches = [str(batch) for batch in BARE_BATCHES]
    command = [str(SERVING_BIN / "python"), "-m", "benchmarks.bare", str(subject.artifact), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--batch", *batches], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise ServerError(f"benchmarks.bare ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _awake(server: Server) -> Iterator[None]:
    server.resume()
    try:
        yield
    finally:
        server.pause()


def _summary(samples: list[dict[str, Any]], cell: str, number: int) -> str:
    rates = [f"{s['server']} {s['rate']:.0f}/s" for s in samples if s["cell"] == cell and s["round"] == number]
    return ", ".join(rates) or "not for this model"
