"""What an operator sees: Prometheus metrics with fixed labels, correct across workers; the access log; spans.

The workers of one service share a folder where prometheus_client keeps each process's values; /metrics sums them. A
route's label is its pattern, never the path a client sent, so a scan of random URLs adds no series. What happens with
every request is counted in plain numbers and handed to prometheus_client a little later, which is a tenth of the cost.
"""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from serving.operations import shared, tracing
from serving.operations.tallies import Kept, Observations, Tally, flush, watched
from serving.processes import alive

CONTENT_TYPE = CONTENT_TYPE_LATEST
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

UNKNOWN = "unknown"  # the route of any other path
NATIVE = "native"  # the protocol of a route that names none

log = logging.getLogger("shortcut")
access_log = logging.getLogger("shortcut.access")
detailed = False  # somebody wants to know of each request: `start`


class Stage(NamedTuple):
    """A part of a request's time, both ends by time.perf_counter()."""

    name: str
    start: float
    end: float


# Reserved for a process, by file of prometheus_client's; each grows by itself, but then it may find no room.
_FILES = {
    "counter": 256 * 1024,
    "gauge_livesum": 64 * 1024,
    "gauge_livemax": 128 * 1024,
    "histogram": 512 * 1024,
}  # bytes
FOLDER_BYTES = sum(_FILES.values())


def join(folder: Path | None) -> None:
    """In a worker, before the first request: share the figures in `folder`. Without one, or where it has no room left,
    /metrics knows of this worker only.

    (The folder that BentoML 1.4.39 names is one for all services of a user, and is emptied whenever one starts.)
    """
    try:
        if folder is None:
            raise OSError("there is no folder for them")
        for kind, size in _FILES.items():
            file = folder / f"{kind}_{os.getpid()}.db"
            if kind.startswith("gauge"):
                file.unlink(missing_ok=True)  # of a dead worker that had the same process id
            elif file.exists() or _inherit(folder, kind, file):
                continue
            shared.reserve(file, size)
    except OSError as err:
        log.warning("metrics are not shared between workers: %s", err)
        os.environ.pop(VARIABLE, None)
        values.ValueClass = values.MutexValue  # in memory, as without the variable
        return
    os.environ[VARIABLE] = str(folder)


def _inherit(folder: Path, kind: str, file: Path) -> bool:
    """Go on counting where a dead worker stopped: its counts stay, and there are no more files than workers."""
    for old in folder.glob(f"{kind}_*.db"):
        process = old.stem.rpartition("_")[2]
        if process.isdecimal() and not alive(int(process)):
            try:
                old.rename(file)
            except FileNotFoundError:  # another new worker has it
                continue
            return True
    return False


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_MODEL = ("model", "version")

_REQUESTS = Counter("shortcut_requests", "Requests answered", ("protocol", "route", "status"))
_REQUEST = Histogram(
    "shortcut_request_seconds", "Seconds from a request's head to its answer", ("protocol", "route"), buckets=_SECONDS
)
_DECODE = Histogram("shortcut_decode_seconds", "Seconds to decode an image", _MODEL, buckets=_SHORT)
_QUEUE = Histogram("shortcut_queue_seconds", "Seconds an image waited for its batch", _MODEL, buckets=_SHORT)
_COMPUTE = Histogram("shortcut_compute_seconds", "Seconds a batch was computed", _MODEL, buckets=_SHORT)
_BATCH = Histogram("shortcut_batch_images", "Images of a batch", _MODEL, buckets=(1, 2, 4, 8, 16, 32))
_WAITING = Gauge("shortcut_queue_images", "Images that wait now", _MODEL, multiprocess_mode="livesum")
_ROOM = Gauge("shortcut_queue_room_images", "Images that may wait now", _MODEL, multiprocess_mode="livesum")
_REJECTED = Counter("shortcut_rejected_images", "Images refused because the queue was full", _MODEL)
_EXPIRED = Counter("shortcut_expired_images", "Images dropped because their deadline had passed", _MODEL)
_UNSURE = Counter("shortcut_unsure_answers", "Answers that should not be relied on, and why", (*_MODEL, "reason"))
_UNSURE_PICTURES = Counter(
    "shortcut_unsure_pictures", "Pictures with unsure answers, by what came of keeping them", ("model", "result")
)
_FAILED = Counter("shortcut_failed_batches", "Batches that the execution provider failed on", _MODEL)
_REFUSED = Counter("shortcut_refused_connections", "Connections closed for what arrived on them", ("status",))
_CACHED = Counter("shortcut_cached_answers", "Pictures looked up among the answers that are kept", ("result",))
_LOADED = Gauge(
    "shortcut_model_workers",
    "Workers that serve this version, and how",
    ("model", "version", "provider", "precision"),
    multiprocess_mode="livesum",
)
_MEASURING = Gauge(
    "shortcut_model_measuring",
    "Workers that do not know yet which provider is the fastest for this version",
    _MODEL,
    multiprocess_mode="livesum",
)

_RESIDENT = Gauge(
    "shortcut_model_resident", "Workers that hold this version in memory", _MODEL, multiprocess_mode="livesum"
)
_LOADS = Counter("shortcut_model_loads", "Times that this version was loaded because somebody asked", _MODEL)
_LOAD_SECONDS = Counter("shortcut_model_load_seconds", "Seconds that those loads took", _MODEL)


@functools.cache
def _resident_bytes() -> Gauge:
    """Not at the import: what has no label opens its file at once, before `join` has said in which folder, and takes
    every other gauge of its kind there."""
    return Gauge("shortcut_resident_bytes", "Bytes that models take in memory", multiprocess_mode="livesum")


# What a model sees, beside what it saw in validation: whether the stream has drifted away from what it was trained for.
MOST_LABELS = 100  # of a version have a series of their own; the rest is counted as OTHER
OTHER = "other"
TOP_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
UNFAMILIARITIES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)
_PREDICTED = Counter("shortcut_predicted_labels", "Answers, by their most probable class", (*_MODEL, "label"))
_TOP = Histogram(
    "shortcut_top_probability", "Probability of an answer's most probable class", _MODEL, buckets=TOP_PROBABILITIES
)
_UNFAMILIARITY = Histogram(
    "shortcut_unfamiliarity",
    "Unfamiliarity of an answered picture, divided by the card's threshold",
    _MODEL,
    buckets=UNFAMILIARITIES,
)
_SHARE = Gauge(
    "shortcut_reference_label_share",
    "Share of the validation answers by their most probable class, from the card",
    (*_MODEL, "label"),
    multiprocess_mode="livemax",
)
_TOP_SHARE = Gauge(
    "shortcut_reference_probability_share",
    "Share of the validation answers whose top probability is at most `le`, from the card",
    (*_MODEL, "le"),
    multiprocess_mode="livemax",
)
_UNFAMILIARITY_SHARE = Gauge(
    "shortcut_reference_unfamiliarity_share",
    "Share of the validation pictures whose unfamiliarity is at most `le` thresholds, from the card",
    (*_MODEL, "le"),
    multiprocess_mode="livemax",
)


class _Answers(Kept[tuple[int, float, float | None]]):
    """What one version has answered since the last flush: sorted into its counters then, at a fourth of the cost."""

    def __init__(self, labels: tuple[str, str], classes: Sequence[str], unfamiliar_from: float | None):
        super().__init__()
        self.predicted = [_PREDICTED.labels(*labels, label) for label in classes]
        self._top, self._unfamiliarity = _TOP.labels(*labels), _UNFAMILIARITY.labels(*labels)
        self._scale = 1 / unfamiliar_from if unfamiliar_from else 0.0

    def hand_over(self, rows: list[tuple[int, float, float | None]]) -> None:
        top, unfamiliarity = Tally(self._top), Tally(self._unfamiliarity)
        counts = dict.fromkeys(range(len(self.predicted)), 0)
        for index, probability, strange in rows:
            if counts:
                counts[min(index, len(counts) - 1)] += 1
            top.add(probability)
            if strange is not None and self._scale:
                unfamiliarity.add(strange * self._scale)
        for index, number in counts.items():
            if number:
                self.predicted[index].inc(number)
        top.flush()
        unfamiliarity.flush()


class Queue(Protocol):
    """How many wait in it, and how many may."""

    def __len__(self) -> int: ...
    @property
    def room(self) -> int: ...


class Meter:
    """One served version's figures: what its batcher and decoder report, and what it answers.

    `labels` are its classes, in order; `reference` is the card's of that name: what the model answered in validation.
    An unfamiliarity is counted in multiples of `unfamiliar_from`, the card's threshold, and not where there is none. A
    version that is not always in memory (`bounded`) has most of its series once it was asked.
    """

    def __init__(
        self,
        model: str,
        version: int,
        labels: Sequence[str] = (),
        reference: Any = None,
        unfamiliar_from: float | None = None,
        bounded: bool = False,
    ):
        self._labels = (model, str(version))
        self._bounded = bounded
        histograms = (_DECODE, _QUEUE, _COMPUTE, _BATCH)
        children = (functools.partial(kind.labels, *self._labels) for kind in histograms)
        decode, queue, compute, batch = (Observations(child if bounded else child()).keep for child in children)
        self.decoded, self.waited, self._compute, self._batch = decode, queue, compute, batch
        self.rejected, self.expired = (Tally(kind.labels(*self._labels)).count for kind in (_REJECTED, _EXPIRED))
        # Not by a tally, which belongs to the event loop: a batch may fail anywhere, and it is rare.
        self.failed: Callable[[], None] = _FAILED.labels(*self._labels).inc
        self._classes = list(labels) if len(labels) <= MOST_LABELS else [*labels[: MOST_LABELS - 1], OTHER]
        self._unfamiliar_from = unfamiliar_from
        self._answers: _Answers | None = None  # from when it is served
        self._reference = reference
        self._workers: Gauge | None = None  # while it is served
        self._measuring = _MEASURING.labels(*self._labels)

    def computed(self, images: int, seconds: float) -> None:
        self._batch(images)
        self._compute(seconds)

    def answered(self, index: int, probability: float, unfamiliarity: float | None = None) -> None:
        """A picture was answered: its most probable class, that one's probability, and how unfamiliar the picture is.
        On the event loop."""
        if self._answers is not None:
            self._answers.keep((index, probability, unfamiliarity))

    def _expect(self) -> None:
        """Show from the start which classes there are, and what the card says of validation."""
        self._answers = _Answers(self._labels, self._classes, self._unfamiliar_from)
        shares = _shares(self._reference, "labels")
        left = dict(shares)
        for label in self._classes if shares else ():
            _SHARE.labels(*self._labels, label).set(left.pop(label, 0.0))
        if OTHER in self._classes and shares:
            _SHARE.labels(*self._labels, OTHER).set(sum(left.values()))
        for gauge, part in ((_TOP_SHARE, "probability"), (_UNFAMILIARITY_SHARE, "unfamiliarity")):
            for bound, share in _shares(self._reference, part).items():
                with contextlib.suppress(ValueError):  # no number: of no bucket
                    le = floatToGoString(float(bound))  # type: ignore[no-untyped-call]
                    gauge.labels(*self._labels, le).set(share)

    def unsure(self, reason: str) -> None:
        """An answer was marked as not to be relied on."""
        _unsure(*self._labels, reason).count()

    def loaded(self, provider: str, precision: str, queue: "Queue", measuring: bool = False) -> None:
        """It is served from now on; `queue` is looked at whenever somebody wants to know."""
        self._workers = _LOADED.labels(*self._labels, provider, precision)
        self._workers.inc()
        _serving[self._labels] = self
        if not self._bounded:
            self._expect()
        self._measuring.set(measuring)
        waiting, room = (gauge.labels(*self._labels) for gauge in (_WAITING, _ROOM))

        def look() -> None:
            waiting.set(len(queue))
            room.set(queue.room)

        look()
        self._look = look
        watched.append(look)

    def moved(self, provider: str, precision: str, measuring: bool = False) -> None:
        """Another provider serves it from now on, if it is served at all."""
        if self._workers is None:
            return
        self._workers.dec()
        self._workers = _LOADED.labels(*self._labels, provider, precision)
        self._workers.inc()
        if _serving.get(self._labels) is self:
            self._measuring.set(measuring)

    def resident(self, there: bool, load_seconds: float = 0.0) -> None:
        """It has come into memory, after a load of so many seconds, or has left it. On any thread."""
        if there and self._answers is None:
            self._expect()
        _RESIDENT.labels(*self._labels).set(there)
        if load_seconds:
            _LOADS.labels(*self._labels).inc()
            _LOAD_SECONDS.labels(*self._labels).inc(load_seconds)

    def retired(self) -> None:
        """It is not served any more."""
        if self._workers is None:
            return
        self._workers.dec()
        self._workers = None
        watched.remove(self._look)
        if _serving.get(self._labels) is not self:
            return  # a version that was changed where it lies: its gauges are those of what has taken its place
        del _serving[self._labels]
        for gauge in (_WAITING, _ROOM, _MEASURING, *([_RESIDENT] if self._bounded else [])):
            gauge.labels(*self._labels).set(0)


def _shares(reference: Any, part: str) -> dict[str, float]:
    """A part of a card's reference; empty where somebody has put something else there, which is no reason not to
    serve."""
    shares = reference.get(part) if isinstance(reference, Mapping) else None
    if not isinstance(shares, Mapping) or not all(isinstance(share, int | float) for share in shares.values()):
        return {}
    return {str(name): float(share) for name, share in shares.items()}


_serving: dict[tuple[str, str], Meter] = {}  # whose gauges are shown, by model and version


@functools.cache  # models, versions and reasons are few
def _unsure(model: str, version: str, reason: str) -> Tally:
    return Tally(_UNSURE.labels(model, version, reason))


def cached(result: str) -> None:
    """A picture was looked up among the answers that are kept: `hit`, `miss`, or `joined` to one under way."""
    _of_cache(result).count()


@functools.cache
def _of_cache(result: str) -> Tally:
    return Tally(_CACHED.labels(result))


def unsure_picture(model: str, result: str) -> None:
    """A picture was to be kept: `kept`, `known` already, the folder `full`, `dropped` or `failed`. On any thread."""
    _UNSURE_PICTURES.labels(model, result).inc()


def resident(size: int) -> None:
    """So many bytes of models are in memory. On any thread."""
    _resident_bytes().set(size)


_protocols: dict[str, str] = {}  # of each route
_quiet: set[str] = set()  # routes whose successes are not in the access log


def start(protocols: Mapping[str, str], quiet: Sequence[str] = ()) -> None:
    """In a process that answers requests, once logging and tracing are set up; `protocols` has a protocol for each
    route. Successes of the routes `quiet` are left out of the access log. The 500s are counted from 0, so that an
    alert sees the first one: Prometheus cannot tell one that appears from one that was there."""
    global detailed
    detailed = tracing.enabled or access_log.isEnabledFor(logging.INFO)
    _protocols.update(protocols)
    _quiet.update(quiet)
    for route in (*protocols, UNKNOWN):
        _series(route, 500)


@functools.cache  # routes and statuses are few and fixed
def _series(route: str, status: int) -> tuple[Tally, Observations]:
    protocol = _protocols.get(route, NATIVE)
    return Tally(_REQUESTS.labels(protocol, route, str(status))), Observations(_REQUEST.labels(protocol, route))


def finished(route: str, status: int, started: float, request_id: str, stages: Sequence[Stage] = ()) -> None:
    """A request was answered, now; `started` is by time.perf_counter()."""
    ended = time.perf_counter()
    requests, duration = _series(route, status)
    requests.count()
    duration.keep(ended - started)
    if not detailed:
        return
    if access_log.isEnabledFor(logging.INFO) and not (status < 400 and route in _quiet):
        figures = {"route": route, "status": status, "seconds": round(ended - started, 6), "request_id": request_id}
        times = {f"{stage.name}_seconds": round(stage.end - stage.start, 6) for stage in stages}
        access_log.info("%s %s", route, status, extra={"figures": figures | times})
    if tracing.enabled:
        parts = [(stage.name, stage.start, stage.end) for stage in stages]
        tracing.record(route, started, ended, {"http.response.status_code": status, "request_id": request_id}, parts)


def refused(status: int) -> None:
    """A connection was closed with this status: no valid HTTP, too slow, too large a head, or one too many."""
    _refusals(status).count()


@functools.cache
def _refusals(status: int) -> Tally:
    return Tally(_REFUSED.labels(str(status)))


def exposition() -> bytes:
    """The text of /metrics, summed over all workers of this service."""
    flush()
    return collected()


def collected() -> bytes:
    """The same as of the last `flush`. It may run on a thread."""
    if VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    _forget_the_dead(Path(os.environ[VARIABLE]))
    while True:
        registry = CollectorRegistry()
        _Collector(registry)  # type: ignore[no-untyped-call]
        try:
            return generate_latest(registry)
        except FileNotFoundError:  # a new worker has just taken over a dead one's: once for each
            continue


class _Collector(MultiProcessCollector):
    """Leaves out files without a byte: a worker has just made one, or the disk was full then. It holds no figure."""

    def collect(self) -> Any:
        files = Path(os.environ[VARIABLE]).glob("*.db")
        return self.merge([str(file) for file in files if file.stat().st_size])  # type: ignore[no-untyped-call]


def _forget_the_dead(folder: Path) -> None:
    """The gauges of workers that are no more: what they served nobody serves now. Their counters stay."""
    for file in folder.glob("gauge_live*_*.db"):
        process = file.stem.rpartition("_")[2]
        if process.isdecimal() and not alive(int(process)):
            file.unlink(missing_ok=True)
