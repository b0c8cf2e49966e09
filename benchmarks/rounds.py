"""Measures every server in every cell, several rounds, interleaved: A B C D, then B C D A, and so on.

Knows the order of things and what a cell is. Servers, load generators and tables have modules of their own.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load import Figures, Load, LoadError
from benchmarks.pictures import Photos, Picture, Subject
from benchmarks.servers import CONTENDERS, EMPTY, SERVING_BIN, Server, ServerError, multipart

BATCH = 64  # images of one upload
BATCH_CONNECTIONS = 8
WARM_CONNECTIONS = 8
ACCEPTED_CONNECTIONS = 32  # over which `--cells acceptance` asks a model for photos
UPLOADS = 3  # at least, of each connection in a measurement
LARGE_SECONDS = 4  # at least, of a measurement with photos of which some servers answer a dozen a second
LARGE_BYTES = 1_000_000  # of such a photo
SATURATION = 0.6  # share of the best closed-loop rate, a server's own or the slowest one's, at which open loops run
BARE_BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Plan:
    """What to measure. `warm_seconds` of load come first whenever a server is woken, unless they are 0.

    With `acceptance` these are left out: the open loop that all have in common, the peers' own, large photos for a
    model of small pictures, and every second round of the bare runtimes, which have a second each; a model for photos
    is asked over ACCEPTED_CONNECTIONS, in closed loops and without uploads of many.
    """

    contenders: Sequence[str]
    rounds: int
    seconds: int
    warm_seconds: int
    connections: Sequence[int]
    acceptance: bool = False


@dataclass
class Loads:
    """The bodies for one server; `batch` only where it takes several images a request."""

    small: Load
    photos: dict[Photos, Load]
    batch: Load | None


Samples = list[dict[str, Any]]  # {"server", "cell", "round", figures…}
Say = Callable[[str], None]


def measure(subject: Subject, plan: Plan, say: Say) -> dict[str, Any]:
    """All samples of one model: {"small": …, "servers": {name: …}, "samples": [{"server", "cell", "round",
    figures…}, …], "left_out": {peer: why}, "problems": {server: which it had after the
    last round}, "bare_left_out": {kind: why}}.

    Of the cells `bare N` the "server" is the kind of session. A peer that does not start, answers wrongly or breaks
    down is left out, whatever it did before; of ours that is a ServerError.
    """
    samples: Samples = []
    left_out: dict[str, str] = {}
    problems: dict[str, str] = {}
    with ExitStack() as stack:
        started: dict[str, Server] = {}

        @contextmanager
        def unless_broken(name: str) -> Iterator[None]:
            try:
                yield
            except (ServerError, LoadError) as err:
                if CONTENDERS[name].ours:
                    raise
                started.pop(name, None)
                left_out[name] = str(err)
                say(f"{name} is left out: {err}")

        for name in plan.contenders:
            with unless_broken(name):
                started[name] = _start(stack, name, subject, say)
        loads = {name: _loads(stack, server, subject) for name, server in started.items()}
        described: dict[str, Any] = {}
        for name in list(started):
            with unless_broken(name):
                described[name] = _warm_and_describe(started[name], loads[name], say)
        described[EMPTY] = {"ready_seconds": _time_empty(subject)}
        bare: dict[str, Any] = {}
        for number in range(plan.rounds):
            best: dict[str, float] = {}
            for name in _in_turn(started, number):
                with unless_broken(name), _awake(started[name], loads[name], plan.warm_seconds):
                    for cell, figures in _cells(loads[name], plan, subject.for_photos, started[name].settle):
                        samples.append({"server": name, "cell": cell, "round": number, **asdict(figures)})
                        if cell.startswith("closed"):
                            best[name] = max(best.get(name, 0.0), figures.rate)
                    say(f"round {number + 1} of {plan.rounds}: {_summary(samples, name, number)}")
            if not plan.acceptance:
                for name in _in_turn(started, number):
                    with unless_broken(name), _awake(started[name], loads[name], plan.warm_seconds):
                        started[name].settle()
                        rate = SATURATION * min(best[peer] for peer in started)
                        figures = loads[name].small.open(rate, plan.seconds)
                        samples.append({"server": name, "cell": "open same rate", "round": number, **asdict(figures)})
            if not plan.acceptance or number % 2 == 0:
                bare = _bare(subject, 1 if plan.acceptance else plan.seconds)
                for row, rates in bare["rates"].items():
                    for batch, rate in rates.items():
                        samples.append({"server": row, "cell": f"bare {batch}", "round": number, "rate": rate})
                say(f"round {number + 1} of {plan.rounds}, bare: {bare['rates']}")
        for name, server in list(started.items()):
            try:
                with _awake(server):
                    described[name]["largest_process_mib"] = round(server.largest_process(), 1)
                    server.verify(subject.small[:8])  # still right after all that
            except ServerError as err:
                problems[name] = str(err)
                say(f"after all that {err}")
    return {
        "small": subject.small_title,
        "servers": {name: row for name, row in described.items() if name not in left_out},
        "samples": samples,
        "left_out": left_out,
        "problems": problems,
        "bare_left_out": bare["left_out"],
    }


def _in_turn(started: dict[str, Server], number: int) -> list[str]:
    """Each round begins with the next one."""
    names = list(started)
    first = number % len(names)
    return names[first:] + names[:first]


def _cells(loads: Loads, plan: Plan, for_photos: bool, settle: Callable[[], None]) -> Iterator[tuple[str, Figures]]:
    """What one server does in each cell of a round but the open loop that all have in common. `settle` waits until it
    has nothing left to do: wrk goes when its time is over, and what it had asked for is computed all the same."""
    best = 0.0
    ours = loads.batch is not None
    for connections in (ACCEPTED_CONNECTIONS,) if plan.acceptance and for_photos else plan.connections:
        settle()
        figures = loads.small.closed(connections, plan.seconds)
        best = max(best, figures.rate)
        yield f"closed {connections}", figures
    if not plan.acceptance or (ours and not for_photos):
        settle()
        yield "open own rate", loads.small.open(SATURATION * best, plan.seconds)
    for photos, load in loads.photos.items() if for_photos or not plan.acceptance else ():
        seconds = max(plan.seconds, LARGE_SECONDS) if load.bytes > LARGE_BYTES else plan.seconds
        for connections in photos.connections:
            settle()
            yield f"{photos.title}, {connections} connections", load.closed(connections, seconds)
    if loads.batch is not None and not (plan.acceptance and for_photos):
        settle()
        at_once = BATCH * BATCH_CONNECTIONS / max(best, 1.0)  # seconds until all that is asked for at once is answered
        got = loads.batch.closed(BATCH_CONNECTIONS, max(plan.seconds, round(UPLOADS * at_once)))
        yield "batch", Figures(got.rate * BATCH, got.p50_ms, got.p99_ms, got.not_200, got.lost)


def _start(stack: ExitStack, name: str, subject: Subject, say: Say) -> Server:
    """A started, verified and paused server. Raises ServerError, having stopped it."""
    with ExitStack() as own:
        server = own.enter_context(Server(CONTENDERS[name], subject))
        server.verify(subject.small)
        for pictures in subject.photos.values():
            server.verify(pictures)
        if server.contender.ours:
            server.verify_batch(subject.small[:BATCH])
        number = len(subject.small) + sum(map(len, subject.photos.values()))
        say(f"{name}: ready after {server.ready_seconds:.1f} s, {number} answers of {subject.name} are right")
        server.pause()
        stack.push(own.pop_all())
    return server


def _time_empty(subject: Subject) -> float:
    with Server(CONTENDERS[EMPTY], subject) as server:
        return round(server.ready_seconds, 2)


def _loads(stack: ExitStack, server: Server, subject: Subject) -> Loads:
    def load(path: str, bodies: list[tuple[bytes, str]]) -> Load:
        made = Load(server.port, path, bodies)
        stack.callback(made.close)
        return made

    def single(pictures: Sequence[Picture]) -> Load:
        return load(server.path, [server.body(picture.data) for picture in pictures])

    upload = multipart([picture.data for picture in subject.small[:BATCH]])
    return Loads(
        small=single(subject.small),
        photos={photos: single(pictures) for photos, pictures in subject.photos.items()},
        batch=load(server.batch_path, [upload]) if server.contender.ours else None,
    )


def _warm_and_describe(server: Server, loads: Loads, say: Say) -> dict[str, Any]:
    with _awake(server, loads, seconds=1):
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
def _awake(server: Server, loads: Loads | None = None, seconds: int = 0) -> Iterator[None]:
    """`seconds` of load come first. It is stopped when it has nothing left to do: an answer that takes minutes looks to
    a server as if something had broken, and ours then begins anew."""
    server.resume()
    try:
        if loads is not None and seconds:
            loads.small.closed(WARM_CONNECTIONS, seconds)
        yield
        server.settle()
    finally:
        server.pause()


def _summary(samples: Samples, name: str, number: int) -> str:
    mine = [s for s in samples if s["server"] == name and s["round"] == number]
    return f"{name}: " + ", ".join(f"{s['cell']} {s['rate']:.0f}/s" for s in mine)
