"""The BentoML service: its routes, and how it starts.

Each route reads its parameters, asks the repository and shapes the answer; images, models, queues and failures have
modules of their own.
"""

import os

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # before BentoML is imported, in every process
# For the workers, glibc's: the pixels of large pictures go back to the system at once. By default their size is learnt,
# later ones are taken from the heap, and that stays as large as it once was (100 MB of two workers' 580 in the soak).
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * 1024 * 1024))
os.environ.pop("BENTOML_CONTAINERIZED", None)  # with it BentoML 1.4.39 would not replace a worker that died

import asyncio
import functools
import gc
import logging
import mimetypes
import signal
import sys
import time
from pathlib import Path
from typing import Any

import bentoml
from starlette.requests import Request
from starlette.responses import Response

from serving.edge import connections, listening, uploads
from serving.edge.router import Front, Route, json_bytes, json_response
from serving.engine import cores
from serving.engine.batching import Job
from serving.engine.measurements import Choices
from serving.errors import (
    ClassifyError,
    InvalidImage,
    InvalidRequest,
    NotFound,
    StartError,
    Unavailable,
    UnsupportedFormat,
)
from serving.operations import logs, tracing
from serving.operations import metrics as telemetry
from serving.operations import shared as scratch
from serving.protocols import openapi, parameters
from serving.protocols.direct import DirectClassify
from serving.repository import watching
from serving.repository.models import Repository, verify
from serving.repository.served import ServedModel, stages
from serving.settings import Settings

log = logging.getLogger("shortcut")

PAGE = Path(__file__).parent / "page"
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"  # its swagger-ui, nothing remote
STATIC = {
    "page.css": PAGE,
    "page.js": PAGE,
    "docs.js": PAGE,
    "swagger-ui.css": SWAGGER,
    "swagger-ui-bundle.js": SWAGGER,
}
PAGE_HEADERS = {
    # Nothing from elsewhere; Swagger sets inline styles and draws with data: images.
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def _settings() -> Settings:
    try:
        scratch.need_temporary_files()
        return Settings.from_environment()
    except StartError as err:
        raise SystemExit(f"error: {err}") from err


SETTINGS = _settings()
WORKERS, THREADS = cores.layout(SETTINGS)
TURN_SECONDS = 0.005  # of the event loop, that a batch upload takes at once
MAX_PARTS = SETTINGS.max_batch_images + SETTINGS.max_extra_fields  # of a form


class _Loaded:
    """What this worker serves; None until it has loaded. (The decorator below hides the class behind a Service.)"""

    repository: Repository | None = None


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
    # Front answers before BentoML does, with metrics of fixed labels; no tracing without an exporter.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class ImageClassifier:
    """Images in, class probabilities out; see /docs for the routes."""

    @bentoml.on_deployment
    @staticmethod
    def before_workers() -> None:
        """Once, in the parent, before any worker: a damaged artifact or a missing provider ends the start here."""
        logs.start(SETTINGS)
        try:
            tracing.start()
            choices = Choices(SETTINGS.cache)
            for line in verify(SETTINGS, THREADS, choices):
                log.info("%s", line)
        except StartError as err:
            raise SystemExit(f"error: {err}") from err
        choices.share()
        folder = scratch.create(WORKERS * telemetry.FOLDER_BYTES)
        if folder is not None:
            listening.create_place(folder)
        log.info("%d workers, %d threads each; starting", WORKERS, THREADS)

    def __init__(self) -> None:
        logs.start(SETTINGS)
        folder = scratch.folder()
        telemetry.join(folder)
        try:
            tracing.start()
            telemetry.start([route.path for route in routes()])
            repository = Repository(SETTINGS, THREADS, Choices(SETTINGS.cache, folder))
        except StartError as err:
            log.error("%s", err)
            os.kill(os.getppid(), signal.SIGTERM)  # BentoML would start this worker again for ever
            sys.exit(1)
        repository.succeed(None)
        _Loaded.repository = repository
        if SETTINGS.watch:
            watching.start(repository, _switch, None if folder is None else folder / "loading")
        gc.collect()
        gc.freeze()  # what is loaded stays; looking through it for garbage would stop the worker for 0.1 s now and then

    @bentoml.on_shutdown
    def end(self) -> None:
        tracing.stop()


def _switch(repository: Repository) -> None:
    _Loaded.repository = repository


def _repository() -> Repository:
    if _Loaded.repository is None:
        raise Unavailable("the models are not loaded yet")
    return _Loaded.repository


# Routes


async def classify(request: Request) -> Response:
    """POST /classify: one image, as multipart field `image` or as the body itself. Most never come here: `direct`."""
    served, top_k = _asked(request)
    body = await uploads.read_body(request.receive, request.headers, SETTINGS.max_body_bytes)
    content_type = request.headers.get("content-type", "")
    started = time.perf_counter()
    served.admit()
    data = uploads.one_image(body, content_type, MAX_PARTS)
    try:
        job = await uploads.unless_gone(request.receive, _classified(served, data, started))
    except InvalidImage as err:
        if uploads.claims_an_image(body, content_type):
            raise
        raise uploads.not_an_image(content_type) from err
    request.state.stages += stages(started, job)
    return json_bytes(served.body(job.probabilities(), top_k))


async def _classified(served: ServedModel, data: bytes, started: float) -> Job:
    (job,) = await served.classify([await served.decode(data)], started)
    return job


async def classify_batch(request: Request) -> Response:
    """POST /classify/batch: several multipart fields `image`; an image that cannot be decoded fails alone."""
    served, top_k = _asked(request)
    body = await uploads.read_body(request.receive, request.headers, SETTINGS.max_batch_body_bytes)
    content_type = request.headers.get("content-type", "")
    if not uploads.is_multipart(content_type):
        raise UnsupportedFormat(f"send multipart/form-data with fields `image`, not {content_type[:80]!a}")
    parts = uploads.form_images(body, content_type, MAX_PARTS)
    limit = SETTINGS.max_batch_images
    if len(parts) > limit:
        raise InvalidRequest(f"{len(parts)} images in one request; the limit is {limit}")
    served.admit(len(parts))
    results = await uploads.unless_gone(request.receive, _results(served, parts, top_k))
    return json_response({"model": served.artifact.name, "version": served.artifact.version, "results": results})


async def _results(served: ServedModel, parts: list[uploads.Part], top_k: int) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    images, decoded = [], []
    turn = time.perf_counter()
    for part in parts:
        if time.perf_counter() - turn > TURN_SECONDS:
            await asyncio.sleep(0)  # small ones are decoded at once: others must have their turn between them
            turn = time.perf_counter()
        result: dict[str, Any] = {"filename": part.filename}
        results.append(result)
        try:
            images.append(await served.decode(part.data))
            decoded.append(result)
        except ClassifyError as err:
            result.update(err.body())
    for result, job in zip(decoded, await served.classify(images), strict=True):
        result["predictions"] = served.rank(job.probabilities(), top_k)
    return results


async def list_models(request: Request) -> Response:
    return json_response(_repository().describe())


async def describe_model(request: Request) -> Response:
    return json_response(_repository().describe_model(request.path_params["name"]))


async def livez(request: Request) -> Response:
    return Response("\n", media_type="text/plain")


async def readyz(request: Request) -> Response:
    if not _repository().computes:
        raise Unavailable("an execution provider has failed; another is being prepared")
    if connections.draining():
        raise Unavailable("the service is stopping")
    return Response("\n", media_type="text/plain")


async def metrics(request: Request) -> Response:
    return Response(telemetry.exposition(), headers={"content-type": telemetry.CONTENT_TYPE})


async def docs_json(request: Request) -> Response:
    names = [model["name"] for model in _repository().describe()["models"]]
    return json_response(openapi.document(SETTINGS, names))


async def index_page(request: Request) -> Response:
    return _file(PAGE / "index.html")


async def docs_page(request: Request) -> Response:
    return _file(PAGE / "docs.html")


async def static_file(request: Request) -> Response:
    folder = STATIC.get(request.path_params["name"])
    if folder is None:
        raise NotFound("no such file")
    return _file(folder / request.path_params["name"])


def _file(path: Path) -> Response:
    """One of the few files above, whole: no ranges, which would have failures of their own shape."""
    return Response(_content(path), media_type=mimetypes.guess_type(path.name)[0], headers=PAGE_HEADERS)


@functools.cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def routes() -> list[Route]:
    return [
        Route("POST", "/classify", classify),
        Route("POST", "/classify/batch", classify_batch),
        Route("GET", "/models", list_models),
        Route("GET", "/models/{name}", describe_model),
        Route("GET", "/livez", livez, open=True),
        Route("GET", "/healthz", livez, open=True),
        Route("GET", "/readyz", readyz, open=True),
        Route("GET", "/metrics", metrics),
        Route("GET", "/docs.json", docs_json),
        Route("GET", "/docs", docs_page, open=True),
        Route("GET", "/static/{name}", static_file, open=True),
        Route("GET", "/", index_page, open=True),
    ]


listening.install(SETTINGS.drain_seconds, SETTINGS.head_seconds)
connections.install(
    connections.Limits(
        header_bytes=SETTINGS.max_header_bytes,
        head_seconds=SETTINGS.head_seconds,
        body_seconds=SETTINGS.body_seconds,
        idle_seconds=SETTINGS.idle_seconds,
        connections=SETTINGS.max_connections,
    ),
    front=lambda app: Front(app, routes(), passed=frozenset({"/schema.json"}), key_hashes=SETTINGS.api_keys),
    direct=DirectClassify(_repository, SETTINGS.max_body_bytes, MAX_PARTS, SETTINGS.api_keys),
)


def _asked(request: Request) -> tuple[ServedModel, int]:
    """The model a request means and its top_k, checked before the body is read."""
    asked = parameters.parse(request.scope["query_string"])
    return _repository().find(asked.model, asked.version), asked.top_k
