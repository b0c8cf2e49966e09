"""Prometheus metrics with fixed labels, correct across worker processes. Knows the metrics library and nothing else.

The workers of one service share a folder where prometheus_client keeps each process's values; /metrics sums them. (The
folder that BentoML 1.4.39 names is one for all services of a user, and is emptied whenever one starts.) A route's label
is its pattern, never the path a client sent, so a scan of random URLs adds no series.
"""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SHARED = "SHORTCUT_METRICS_FOLDER"  # from the parent to its workers; not a setting


def create_folder() -> Path | None:
    """In the parent, before it starts workers: an empty folder for them, removed when the parent ends."""
    try:
        os.environ[_SHARED] = tempfile.mkdtemp(prefix="shortcut-metrics-")
    except OSError:  # nowhere to write: the workers keep BentoML's folder
        return None
    atexit.register(shutil.rmtree, os.environ[_SHARED], ignore_errors=True)
    return Path(os.environ[_SHARED])


def join_folder() -> None:
    """In a worker, before the first request: use the folder that its parent created."""
    if _SHARED in os.environ:
        os.environ[VARIABLE] = os.environ[_SHARED]


_REQUESTS = Counter("shortcut_requests", "Requests answered", ("route", "status"))
_SECONDS = Histogram(
    "shortcut_request_seconds",
    "Seconds from a request's head to its answer",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


@functools.cache  # labels() costs more than the increment; routes and statuses are few and fixed
def _series(route: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(route, str(status)), _SECONDS.labels(route)


def observe(route: str, status: int, seconds: float) -> None:
    requests, duration = _series(route, status)
    requests.inc()
    duration.observe(seconds)


def exposition() -> bytes:
    """The text of /metrics, summed over all workers of this service."""
    if VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
