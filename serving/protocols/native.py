"""This project's own protocol: POST /classify, POST /classify/batch, GET /models. Translation only.

Both ways of sending a picture, as the body or in a form, and every size of it go through the same function.
"""

import asyncio
import base64
import functools
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from serving.edge import multipart
from serving.edge.http1 import JSON, VARY, Request, Response, failure_content, json_response
from serving.edge.router import Protocol, Route, failed
from serving.errors import ClassifyError, InvalidParameter, InvalidRequest, UnsupportedFormat
from serving.images.png import to_png
from serving.operations import metrics
from serving.protocols import hints, native_openapi
from serving.protocols.answers import answer_text, predictions
from serving.protocols.hints import START
from serving.repository import occlusion
from serving.repository.answers import Answer, Outcome
from serving.repository.many import predict_many
from serving.repository.models import Repository
from serving.repository.served import ServedModel
from serving.settings import Settings

DEFAULT_TOP_K = 3
CACHED_QUERY_BYTES = 200  # longer queries are parsed each time: a client must not fill the memory with them
MAX_VALUE = 40  # characters of a client's value that a message repeats
EARLY_BYTES = 64 * 1024  # a longer body is refused before it is read, where the queue is full


@dataclass(frozen=True)
class Parameters:
    """`model`, `version` and `min_probability` are None for the default, the latest, and none; `min_probability` is a
    number from 0 to 1, or "card" for the threshold that the model's card names. `given` are the names of those that the
    client has sent."""

    model: str | None = None
    version: int | None = None
    top_k: int = DEFAULT_TOP_K
    min_probability: float | str | None = None
    explain: bool = False
    given: frozenset[str] = frozenset()


DEFAULTS = Parameters()


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    batch_body_bytes: int
    batch_images: int
    extra_fields: int  # of a form, beside its images
    explain_grid: int = 0  # parts of a side of an occlusion map; 0: none is computed
    pixels: int = 64_000_000  # of one image


def parse_query(query: bytes) -> Parameters:
    """Raises InvalidParameter naming what is unknown or outside its range."""
    return _parse_again_and_again(query) if len(query) <= CACHED_QUERY_BYTES else _parse(query)


def _parse(query: bytes) -> Parameters:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace")
    return _parameters(pairs, "query parameter")


_parse_again_and_again = lru_cache(1024)(_parse)  # clients send the same few; a refused one is not kept


def _parameters(pairs: list[tuple[str, str]], kind: str) -> Parameters:
    given: dict[str, Any] = {}
    for name, text in pairs:
        if not name and not text:
            continue
        if name not in _READERS:
            known = ", ".join(_READERS)
            raise InvalidParameter(f"the {kind} {name[:MAX_VALUE]!a} is not known; there is {known}")
        if not text:
            raise InvalidParameter(f"{name} is empty; leave it out for the default")
        value = _READERS[name](name, text)
        if given.setdefault(name, value) != value:
            raise InvalidParameter(f"{name} is given twice, and differently")
    return Parameters(**given, given=frozenset(given))


def _integer(low: int, name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) >= low):
        raise InvalidParameter(f"{name} must be a whole number of at least {low}, got {text[:MAX_VALUE]!a}")
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise InvalidParameter(f"{name} must be 0 or 1, got {text[:MAX_VALUE]!a}")
    return text == "1"


def _probability(name: str, text: str) -> float | str:
    if text == "card":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidParameter(f"{name} must be a number from 0 to 1, or `card`, got {text[:MAX_VALUE]!a}")
    return value


_READERS: dict[str, Callable[[str, str], Any]] = {
    "model": lambda name, text: text,
    "version": functools.partial(_integer, 0),
    "top_k": functools.partial(_integer, 1),
    "min_probability": _probability,
    "explain": _flag,
}


NATIVE = Protocol(metrics.NATIVE, schemas=native_openapi.SCHEMAS)


def routes(repository: Callable[[], Repository], settings: Settings) -> list[Route]:
    limits = Limits(
        body_bytes=settings.max_body_bytes,
        batch_body_bytes=settings.max_batch_body_bytes,
        batch_images=settings.max_batch_images,
        extra_fields=settings.max_extra_fields,
        explain_grid=settings.explain_grid,
        pixels=settings.max_pixels,
    )
    return Native(repository, limits).routes()


class Native:
    """The handlers. `repository` gives the models that are served at that moment."""

    def __init__(self, repository: Callable[[], Repository], limits: Limits):
        self._repository = repository
        self._limits = limits

    def routes(self) -> list[Route]:
        limits = self._limits
        return [
            Route(
                "POST",
                "/classify",
                self.classify,
                max_bytes=limits.body_bytes,
                admit=self._admit,
                protocol=NATIVE,
                operation=lambda models: native_openapi.classify(
                    models, limits.body_bytes, limits.pixels, limits.explain_grid
                ),
            ),
            Route(
                "POST",
                "/classify/batch",
                self.classify_batch,
                max_bytes=limits.batch_body_bytes,
                admit=self._admit,
                protocol=NATIVE,
                operation=lambda models: native_openapi.classify_batch(models, limits.batch_images),
            ),
            Route("GET", "/models", self.list_models, protocol=NATIVE, operation=native_openapi.list_models),
            Route(
                "GET", "/models/{name}", self.describe_model, protocol=NATIVE, operation=native_openapi.describe_model
            ),
        ]

    def _admit(self, request: Request) -> None:
        """Before the body is read: refuse what the head tells already."""
        fields = request.fields
        if b"content-encoding" in fields:
            hints.refuse_coding(request)
        asked = parse_query(request.query) if request.query else DEFAULTS
        served = self._repository().find(asked.model, asked.version)
        kind = fields.get(b"content-type")
        is_form = kind is not None and b"multipart/" in kind.lower() and multipart.is_multipart(kind.decode("latin-1"))
        # A form may name another model.
        if (request.length is None or request.length > EARLY_BYTES) and (asked.model is not None or not is_form):
            served.check()
        request.context = asked, served, is_form

    def classify(self, request: Request) -> Coroutine[Any, Any, Response] | None:
        asked, served, is_form = request.context
        data = request.body
        if is_form:
            images, asked, served = self._form(request, asked, served)
            if len(images) > 1:
                raise InvalidRequest(
                    f"one field `image` a request, got {len(images)}; POST /classify/batch takes several"
                )
            data = images[0].data
        if asked.explain:
            return self._explain(request, served, asked, data)
        request.body = data[:START]  # a large picture is kept no longer than it takes to decode it
        try:
            done = functools.partial(_respond, request, served, asked)
            request.pending = served.predict(data, done, None, asked.min_probability)
        except ClassifyError as err:
            request.respond(_failed(request, err))
        return None

    async def _explain(self, request: Request, served: ServedModel, asked: Parameters, data: bytes) -> Response:
        """The answer, what the network saw, where it looked, and where the time went."""
        if not self._limits.explain_grid:
            raise InvalidParameter("explain=1 is not answered here: SHORTCUT_EXPLAIN_GRID is 0")
        request.body = data[:START]
        try:
            answer, falls, seconds = await occlusion.explain(
                served, data, self._limits.explain_grid, asked.min_probability
            )
        except ClassifyError as err:
            return _failed(request, err)
        request.stages = answer.stages
        milliseconds = {stage.name: round(1000 * (stage.end - stage.start), 3) for stage in request.stages}
        return json_response(
            {
                "model": answer.model,
                "version": answer.version,
                **predictions(answer, served.rank(answer, asked.top_k, asked.min_probability)),
                "seen": base64.b64encode(await asyncio.to_thread(to_png, answer.image)).decode(),
                "occlusion": falls,
                "milliseconds": milliseconds | {"explain": round(1000 * seconds, 3)},
            }
        )

    async def classify_batch(self, request: Request) -> Response:
        """Several fields `image`; a picture that cannot be decoded fails alone."""
        asked, served, is_form = request.context
        if not is_form:
            kind = request.header(b"content-type")
            raise UnsupportedFormat(f"send multipart/form-data with fields `image`, not {kind[:80]!a}")
        # BentoML's clients name the field as their method's parameter.
        images, asked, served = self._form(request, asked, served, ("image", "images"))
        if asked.explain:
            raise InvalidParameter("explain is for one image: POST /classify takes it")
        limit = self._limits.batch_images
        if len(images) > limit:
            raise InvalidRequest(f"{len(images)} images in one request; the limit is {limit}")
        request.body = b""
        names, pictures = [part.filename for part in images], [part.data for part in images]
        del images
        outcomes = await predict_many(served, pictures, min_probability=asked.min_probability)
        results: list[dict[str, Any]] = []
        for name, outcome in zip(names, outcomes, strict=True):
            if isinstance(outcome, Answer):
                ranking = served.rank(outcome, asked.top_k, asked.min_probability)
                results.append({"filename": name, **predictions(outcome, ranking)})
            else:
                results.append({"filename": name, **failure_content(outcome)})
        return json_response({"model": served.artifact.name, "version": served.artifact.version, "results": results})

    def _form(
        self, request: Request, asked: Parameters, served: ServedModel, names: tuple[str, ...] = ("image",)
    ) -> tuple[list[multipart.Part], Parameters, ServedModel]:
        """The images of a form, at least one, and what its other fields say beside the query."""
        limits = self._limits
        kind = request.header(b"content-type")
        parts = multipart.parse(request.body, kind, limits.batch_images + limits.extra_fields)
        images = [part for part in parts if part.name in names]
        if not images:
            raise hints.no_image(parts)
        texts = [part for part in parts if part.name not in (*names, "_charset_")]  # the latter is RFC 7578, 4.6
        if not texts:
            return images, asked, served
        fields = []
        for part in texts:
            value = _plain(part.data[: 16 * 1024].decode("utf-8", "replace").strip())
            if value is not None:
                fields.append((part.name, value))
        given = _parameters(fields, "form field")
        for name in given.given & asked.given:
            if getattr(given, name) != getattr(asked, name):
                raise InvalidParameter(f"{name} is given in the query and in the form, and differently")
        both = {name: getattr(source, name) for source in (asked, given) for name in source.given}
        asked = Parameters(**both, given=asked.given | given.given)
        return images, asked, self._repository().find(asked.model, asked.version)

    def list_models(self, request: Request) -> Response:
        repository = self._repository()
        return json_response(
            {
                "default": repository.default,
                "models": [{"name": name, "versions": _versions(repository, name)} for name in repository.models],
                "refused": [
                    {"name": path.parent.name, "version": int(path.name), "error": refusal.reason}
                    for path, refusal in repository.refused.items()
                ],
                **_shadows(repository),
            }
        )

    def describe_model(self, request: Request) -> Response:
        """What GET /models says of it, and the latest version's card."""
        name, repository = request.parameters["name"], self._repository()
        latest = repository.find(name)
        content = {
            "name": name,
            "default": name == repository.default,
            "versions": _versions(repository, name),
            "card": latest.artifact.card,
        }
        return json_response(content, headers=VARY)  # browsers get a page at this address


def _plain(text: str) -> str | None:
    """The value of a form's field. BentoML's clients write it as JSON: text in quotes, and null for none; what others
    write stays as it is."""
    if text == "null":
        return None
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text
    return text


def _versions(repository: Repository, name: str) -> list[dict[str, Any]]:
    versions = repository.models[name]
    return [describe(versions[version]) for version in sorted(versions)]


def _shadows(repository: Repository) -> dict[str, Any]:
    """What is asked beside what answers, if anything."""
    rows = [
        {"name": name, "share": repository.shares[name], **describe(one)} for name, one in repository.shadows.items()
    ]
    return {"shadows": rows} if rows else {}


def describe(served: ServedModel) -> dict[str, Any]:
    """One version, as GET /models says it."""
    artifact, model = served.artifact, served.model
    return {
        "version": artifact.version,
        "labels": list(artifact.labels),
        "input_shape": list(artifact.input_shape),
        "input_convention": artifact.input_convention,
        "provider": model.provider,
        "precision": model.backend.precision,
        "provider_reason": model.reason,
        "measuring": model.measuring,
        "resident": served.resident,
        "images_per_second": round(1 / model.image_seconds, 1),
        "recomputed_share": round(model.recomputed_share, 4),
        "largest_deviation": model.deviation,
        "metrics": artifact.card.get("metrics"),
    }


def _respond(request: Request, served: ServedModel, asked: Parameters, outcome: Outcome) -> None:
    """The one picture of a request has its outcome."""
    try:
        if isinstance(outcome, Answer):
            if metrics.detailed:
                request.stages = outcome.stages
            ranking = served.rank(outcome, asked.top_k, asked.min_probability)
            response = Response(200, answer_text(served, ranking), JSON)
        else:
            response = _failed(request, outcome)
    except Exception as err:
        response = failed(request, err)
    request.respond(response)


def _failed(request: Request, err: Exception) -> Response:
    """`request.body` holds the beginning of what was sent in place of a picture."""
    return failed(request, hints.explained(err, request.body, request.header(b"content-type")))
