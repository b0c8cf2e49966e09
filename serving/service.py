"""The BentoML service: its routes, and how it starts.

Each route reads its parameters, asks the repository and shapes the answer; images, models, queues and failures have
modules of their own.
"""

import os

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # before BentoML is imported, in every process

import logging
import signal
import sys
from pathlib import Path
from typing import Any

import bentoml
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from serving import connections, openapi, telemetry, uploads
from serving.errors import (
    ClassifyError,
    InvalidImage,
    InvalidParameter,
    InvalidRequest,
    NotFound,
    StartError,
    Unavailable,
    UnsupportedFormat,
)
from serving.http import Front, Route, json_response
from serving.repository import Repository, ServedModel
from serving.runtime import available_cores
from serving.settings import Settings

log = logging.getLogger("shortcut")

DEFAULT_TOP_K = 3
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
        return Settings.from_environment()
    except StartError as err:
        raise SystemExit(f"error: {err}") from err


SETTINGS = _settings()
WORKERS = SETTINGS.workers or available_cores()  # one process a core: each runs its sessions on one thread
THREADS = max(1, available_cores() // WORKERS)


class _Loaded:
    """What this worker serves; None until it has loaded. (The decorator below hides the class behind a Service.)"""

    repository: Repository | None = None


@bentoml.service(
    name="shortcut",
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
    def verify() -> None:
        """Once, in the parent, before any worker: a damaged artifact or a missing provider ends the start here."""
        _log_to_stderr()
        try:
            for served in Repository(SETTINGS, THREADS):
                log.info("%s", served.model)
        except StartError as err:
            raise SystemExit(f"error: {err}") from err
        telemetry.create_folder()
        log.info("%d workers, %d threads each; starting", WORKERS, THREADS)

    def __init__(self) -> None:
        _log_to_stderr()
        telemetry.join_folder()
        try:
            _Loaded.repository = Repository(SETTINGS, THREADS)
        except StartError as err:
            log.error("%s", err)
            os.kill(os.getppid(), signal.SIGTERM)  # BentoML would start this worker again for ever
            sys.exit(1)


def _repository() -> Repository:
    if _Loaded.repository is None:
        raise Unavailable("the models are not loaded yet")
    return _Loaded.repository


# Routes


async def classify(request: Request) -> Response:
    """POST /classify: one image, as multipart field `image` or as the body itself."""
    served, top_k = _parameters(request)
    body = await uploads.read_body(request.receive, request.headers, SETTINGS.max_body_bytes)
    content_type = request.headers.get("content-type", "")
    if uploads.is_multipart(content_type):
        parts = _images(body, content_type)
        if len(parts) > 1:
            raise InvalidRequest(f"one field `image` a request, got {len(parts)}; POST /classify/batch takes several")
        body = parts[0].data
    try:
        image = await served.decode(body)
    except InvalidImage as err:
        if body and not _may_be_image(content_type):
            raise UnsupportedFormat(
                f"send the image's bytes or multipart/form-data, not {content_type[:80]!a}"
            ) from err
        raise
    (predictions,) = await served.classify([image], top_k)
    return json_response({**_named(served), "predictions": predictions})


async def classify_batch(request: Request) -> Response:
    """POST /classify/batch: several multipart fields `image`; an image that cannot be decoded fails alone."""
    served, top_k = _parameters(request)
    body = await uploads.read_body(request.receive, request.headers, SETTINGS.max_batch_body_bytes)
    content_type = request.headers.get("content-type", "")
    if not uploads.is_multipart(content_type):
        raise UnsupportedFormat(f"send multipart/form-data with fields `image`, not {content_type[:80]!a}")
    parts = _images(body, content_type)
    limit = SETTINGS.max_batch_images
    if len(parts) > limit:
        raise InvalidRequest(f"{len(parts)} images in one request; the limit is {limit}")
    results: list[dict[str, Any]] = []
    images, decoded = [], []
    for part in parts:
        result: dict[str, Any] = {"filename": part.filename}
        results.append(result)
        try:
            images.append(await served.decode(part.data))
            decoded.append(result)
        except ClassifyError as err:
            result.update(err.body())
    for result, predictions in zip(decoded, await served.classify(images, top_k), strict=True):
        result["predictions"] = predictions
    return json_response({**_named(served), "results": results})


async def list_models(request: Request) -> Response:
    return json_response(_repository().describe())


async def describe_model(request: Request) -> Response:
    return json_response(_repository().describe_model(request.path_params["name"]))


async def livez(request: Request) -> Response:
    return Response("\n", media_type="text/plain")


async def readyz(request: Request) -> Response:
    _repository()
    return Response("\n", media_type="text/plain")


async def metrics(request: Request) -> Response:
    return Response(telemetry.exposition(), headers={"content-type": telemetry.CONTENT_TYPE})


async def docs_json(request: Request) -> Response:
    names = [model["name"] for model in _repository().describe()["models"]]
    return json_response(openapi.document(SETTINGS, names))


async def index_page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


async def docs_page(request: Request) -> Response:
    return FileResponse(PAGE / "docs.html", headers=PAGE_HEADERS)


async def static_file(request: Request) -> Response:
    folder = STATIC.get(request.path_params["name"])
    if folder is None:
        raise NotFound("no such file")
    return FileResponse(folder / request.path_params["name"], headers=PAGE_HEADERS)


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


connections.install(
    connections.Limits(
        header_bytes=SETTINGS.max_header_bytes,
        head_seconds=SETTINGS.head_seconds,
        body_seconds=SETTINGS.body_seconds,
        idle_seconds=SETTINGS.idle_seconds,
        connections=SETTINGS.max_connections,
    ),
    front=lambda app: Front(app, routes(), passed=frozenset({"/schema.json"}), key_hashes=SETTINGS.api_keys),
)


# What the routes share


def _parameters(request: Request) -> tuple[ServedModel, int]:
    """The model a request means and its top_k, checked before the body is read."""
    query = request.query_params
    served = _repository().find(query.get("model"), _integer(query.get("version"), "version", 0))
    top_k = _integer(query.get("top_k"), "top_k", 1)
    return served, DEFAULT_TOP_K if top_k is None else top_k


def _integer(text: str | None, name: str, low: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= low):
        raise InvalidParameter(f"{name} must be a whole number of at least {low}, got {text[:40]!a}")
    return int(text)


def _images(body: bytes, content_type: str) -> list[uploads.Part]:
    limit = SETTINGS.max_batch_images + SETTINGS.max_extra_fields
    parts = uploads.parse_multipart(body, content_type, limit)
    images = [part for part in parts if part.name == "image"]
    if not images:
        there = ", ".join(ascii(part.name[:40]) for part in parts[:5]) or "no field at all"
        raise InvalidRequest(f"the form lacks the field `image`; it has {there}")
    return images


def _may_be_image(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("", "application/octet-stream", "multipart/form-data") or kind.startswith("image/")


def _named(served: ServedModel) -> dict[str, Any]:
    return {"model": served.artifact.name, "version": served.artifact.version}


def _log_to_stderr() -> None:
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
