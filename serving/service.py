"""The BentoML service: how it starts, what each worker loads, and how it ends. Wiring only."""

import os

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # before BentoML is imported, in every process
# For the workers, glibc's: the pixels of large pictures go back to the system at once. By default their size is learnt,
# later ones are taken from the heap, and that stays as large as it once was (100 MB of two workers' 580 in the soak).
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * 1024 * 1024))

import asyncio
import gc
import logging
import signal
import sys
from typing import Any

import bentoml

from serving import artifacts, platforms
from serving.assembly import assemble
from serving.edge import counts, front, seams
from serving.engine import cores, memory
from serving.engine.measurements import Measurements
from serving.errors import StartError, Unavailable
from serving.operations import deaths, logs, metrics, shared, tracing
from serving.platforms import Platform
from serving.processes import give_memory_back
from serving.protocols import bentoml_client, doors
from serving.repository import models, unsure, watching
from serving.repository.models import Repository
from serving.settings import Settings

log = logging.getLogger("shortcut")
seams.let_bentoml_replace_workers()


def _start() -> tuple[Settings, Platform, list[str]]:
    try:
        shared.need_temporary_files()
        platform = platforms.detect()
        settings = Settings.from_environment(models=platform.models)
        return settings, platform, doors.opened(settings.protocols, platform)
    except StartError as err:
        raise SystemExit(f"error: {err}") from err


# BentoML reads the decorator's values when this module is imported, in the parent and in every worker.
SETTINGS, PLATFORM, OPEN = _start()
WORKERS, THREADS = cores.layout(SETTINGS.workers, SETTINGS.provider)
# Python's own is ten times that: so long each wake of the event loop waits while a thread decodes or writes /metrics.
SWITCH_SECONDS = 0.0005


class _Loaded:
    """What this worker serves; None until it has loaded. (The decorator below hides the class behind a Service.)"""

    repository: Repository | None = None


_METHODS: Any = bentoml_client.Declared if "bentoml_client" in OPEN else object


@bentoml.service(
    name="shortcut",
    # "plain" leaves out BentoML's apt step, which would add compilers and git, 0.6 GB (1.4.39); every wheel is binary.
    # The folders are what it would create in its home at each start, and cannot on a read-only root; the last one is
    # for a volume that keeps what was measured.
    image=bentoml.images.Image(base_image="python:3.11-slim", distro="plain").run(
        "mkdir -p /home/bentoml/bentos /home/bentoml/models /home/bentoml/envs /home/bentoml/tmp "
        "/home/bentoml/.cache/shortcut && chown -R bentoml:bentoml /home/bentoml/.cache"
    ),
    workers=WORKERS,
    http={} if PLATFORM.port is None else {"port": PLATFORM.port},
    # The edge answers in place of BentoML, with metrics of fixed labels; no tracing without an exporter.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class ImageClassifier(_METHODS):
    """Images in, class probabilities out; see /docs for the routes."""

    @bentoml.on_deployment
    @staticmethod
    def before_workers() -> None:
        """Once, in the parent, before any worker: a damaged artifact or a missing provider ends the start here."""
        logs.start(SETTINGS)
        address = seams.address()
        try:
            tracing.start()
            folder = shared.create(WORKERS * metrics.FOLDER_BYTES)
            if address is not None:
                address.check()
            if SETTINGS.unsure_pictures is not None:
                unsure.need_folder(SETTINGS.unsure_pictures)
                log.info("pictures whose answer is unsure are kept in %s", SETTINGS.unsure_pictures)
            for name, known in models.verify(SETTINGS, THREADS, Measurements(SETTINGS.cache, folder), folder):
                log.info("%s: %s, %s images/s", name, known.backend, f"{known.rate:,.0f}")
            for sentence in artifacts.misnamed(SETTINGS.models):
                log.warning("not served: %s", sentence)
        except StartError as err:
            raise SystemExit(f"error: {err}") from err
        if folder is not None:
            counts.create_counts(folder)
        give_memory_back()  # the models were only looked at
        seams.watch_workers(deaths.Deaths(WORKERS, memory, memory.megabytes).ended)
        seams.keep_stop_signals()
        log.info("%d workers, %d threads each; starting on %s", WORKERS, THREADS, address or "an address of its own")
        if not SETTINGS.api_keys and address is not None and address.reachable:
            log.warning("everybody who reaches %s may use it: SHORTCUT_API_KEYS is not set", address)

    def __init__(self) -> None:
        logs.start(SETTINGS)
        sys.setswitchinterval(SWITCH_SECONDS)
        folder = shared.folder()
        metrics.join(folder)
        try:
            tracing.start()
            quiet = EDGE.router.probes if SETTINGS.access_log == "without_probes" else ()
            metrics.start(EDGE.router.labels | front.LABELS, quiet)
            repository = models.Repository(
                SETTINGS,
                THREADS,
                Measurements(SETTINGS.cache, folder),
                None if SETTINGS.watch else models.started_with(folder),
                lost=_end_worker,
            )
        except StartError as err:
            log.error("%s", err)
            shared.stop_service()  # BentoML would start this worker again for ever
            sys.exit(1)
        repository.replace(None)
        if (needs := memory.needs(folder, WORKERS, os.getppid(), SETTINGS.resident_bytes)) is not None:
            log.log(logging.WARNING if needs.much else logging.INFO, "%s", needs)
        _Loaded.repository = repository
        loading = None if folder is None else folder / "loading"
        measuring = None if folder is None else folder / "measuring"  # another turn: what is published does not wait
        watching.take_faster(_repository, bool(SETTINGS.watch or SETTINGS.resident_bytes), measuring)
        if SETTINGS.watch:
            watching.start(repository, _switch, loading)
        gc.collect()
        gc.freeze()  # what is loaded stays; looking through it for garbage would stop the worker for 0.1 s now and then

    @bentoml.on_shutdown
    def end(self) -> None:
        tracing.stop()


LAST_SECONDS = 1.0  # in which a worker that must end writes what it has to say


def _end_worker(hangs: bool) -> None:
    """A model cannot be computed any more in this process: end it, so that BentoML starts another."""
    if hangs:  # a thread cannot be stopped, and would keep the process; its loop has yet to answer who waits
        asyncio.get_running_loop().call_later(LAST_SECONDS, os._exit, 1)
    else:
        os.kill(os.getpid(), signal.SIGINT)  # without the draining of SIGTERM, which would take new connections


def _switch(repository: Repository) -> None:
    _Loaded.repository = repository


def _repository() -> Repository:
    if _Loaded.repository is None:
        raise Unavailable("the models are not loaded yet")
    return _Loaded.repository


def _schema() -> Any:
    service: Any = ImageClassifier  # which the decorator has made a bentoml.Service
    return service.schema()


EDGE = assemble(SETTINGS, PLATFORM, OPEN, WORKERS, _repository, _schema)
seams.install(EDGE, SETTINGS.drain_seconds, shared.folder)
