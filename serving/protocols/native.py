"""This project's own protocol: POST /classify, POST /classify/batch, GET /models. Translation only.

Both ways of sending a picture, as the body or in a form, and every size of it go through the same function.
"""

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from serving.edge import multipart
from serving.edge.http1 import JSON, Cancellable, Request, Response, json_response
from serving.edge.router import Route, guarded
from serving.errors import ClassifyError, InvalidImage, InvalidParameter, InvalidRequest, UnsupportedFormat
from serving.operations import metrics
from serving.protocols import hints
from serving.repository.models import Repository
from serving.repository.served import Decoding, Outcome, ServedModel, stages

DEFAULT_TOP_K = 3
TURN_SECONDS = 0.005  # of the event loop that the pictures of a batch upload may take before others have their turn
MAX_LARGE = 2  # pictures of one batch upload that may be with the decoders
CACHED_QUERY_BYTES = 200  # longer queries are parsed each time: a client must not fill the memory with them
MAX_VALUE = 40  # characters of a client's value that a message repeats


@dataclass(frozen=True)
class Parameters:
    """`model`, `version` and `min_probability` are None for the default, the latest, and none; `min_probability` is a
    number from 0 to 1, or "card" for the threshold that the model's card names."""

    model: str | None = None
    version: int | None = None
    top_k: int = DEFAULT_TOP_K
    min_probability: float | str | None = None


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    batch_body_bytes: int
    batch_images: int
    extra_fields: int  # of a form, beside its images


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
        value = _READERS[name](name, text)
        if given.setdefault(name, value) != value:
            raise InvalidParameter(f"{name} is given twice, and differently")
    return Parameters(**given)


def _integer(low: int, name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) >= low):
        raise InvalidParameter(f"{name} must be a whole number of at least {low}, got {text[:MAX_VALUE]!a}")
    return int(text)


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
}


class Native:
    """The handlers. `repository` gives the models that are served at that moment."""

    def __init__(self, repository: Callable[[], Repository], limits: Limits):
        self._repository = repository
        self._limits = limits

    def routes(self) -> list[Route]:
        limits = self._limits
        return [
            Route("POST", "/classify", self.classify, max_bytes=limits.body_bytes, admit=self._admit),
            Route("POST", "/classify/batch", self.classify_batch, max_bytes=limits.batch_body_bytes, admit=self._admit),
            Route("GET", "/models", self.list_models),
            Route("GET", "/models/{name}", self.describe_model),
        ]

    def _admit(self, request: Request) -> None:
        """Before the body is read: refuse what the head tells already."""
        if b"content-encoding" in request.fields:
            hints.refuse_coding(request)
        asked = parse_query(request.query)
        served = self._repository().find(asked.model, asked.version)
        is_form = multipart.is_multipart(request.header(b"content-type"))
        if asked.model is not None or not is_form:
            served.admit()  # a form may name another model
        request.context = asked, served, is_form

    def classify(self, request: Request) -> None:
        asked, served, is_form = request.context
        data = request.body
        if is_form:
            images, asked, served = self._form(request, asked, served)
            if len(images) > 1:
                raise InvalidRequest(
                    f"one field `image` a request, got {len(images)}; POST /classify/batch takes several"
                )
            data = images[0].data
            served.admit()
        request.body = data[: hints.START]  # a large picture is kept no longer than it takes to decode it
        done = functools.partial(self._answer, request, served, asked)
        try:
            request.pending = served.classify(data, done)
        except InvalidImage as err:
            hints.explain(err, request.body, request.header(b"content-type"))

    def _answer(self, request: Request, served: ServedModel, asked: Parameters, outcome: Outcome) -> None:
        request.respond(guarded(lambda: self._response(request, served, asked, outcome), request))

    def _response(self, request: Request, served: ServedModel, asked: Parameters, outcome: Outcome) -> Response:
        try:
            content = served.body(outcome, asked.top_k, asked.min_probability)
        except InvalidImage as err:
            hints.explain(err, request.body, request.header(b"content-type"))
        if metrics.detailed:
            request.stages = stages(outcome)
        return Response(200, content, JSON)

    async def classify_batch(self, request: Request) -> Response:
        """Several fields `image`; a picture that cannot be decoded fails alone."""
        asked, served, is_form = request.context
        if not is_form:
            kind = request.header(b"content-type")
            raise UnsupportedFormat(f"send multipart/form-data with fields `image`, not {kind[:80]!a}")
        images, asked, served = self._form(request, asked, served)
        limit = self._limits.batch_images
        if len(images) > limit:
            raise InvalidRequest(f"{len(images)} images in one request; the limit is {limit}")
        served.admit(len(images))
        request.body = b""
        results: list[dict[str, Any]] = [{"filename": part.filename} for part in images]
        upload = _Upload(served, asked, results)
        await upload.classify([part.data for part in images])
        return json_response({"model": served.artifact.name, "version": served.artifact.version, "results": results})

    def _form(
        self, request: Request, asked: Parameters, served: ServedModel
    ) -> tuple[list[multipart.Part], Parameters, ServedModel]:
        """The images of a form, at least one, and what its other fields say beside the query."""
        limits = self._limits
        kind = request.header(b"content-type")
        parts = multipart.parse(request.body, kind, limits.batch_images + limits.extra_fields)
        images = [part for part in parts if part.name == "image"]
        if not images:
            raise hints.no_image(parts)
        texts = [part for part in parts if part.name not in ("image", "_charset_")]  # the latter is RFC 7578, 4.6
        if not texts:
            return images, asked, served
        fields = [(part.name, part.data[: 16 * 1024].decode("utf-8", "replace").strip()) for part in texts]
        given = _parameters(fields, "form field")
        changes = {}
        for name, _ in fields:
            value, query = getattr(given, name), getattr(asked, name)
            if query != getattr(Parameters, name) and query != value:
                raise InvalidParameter(f"{name} is given in the query and in the form, and differently")
            changes[name] = value
        asked = replace(asked, **changes)
        return images, asked, self._repository().find(asked.model, asked.version)

    def list_models(self, request: Request) -> Response:
        return json_response(self._repository().describe())

    def describe_model(self, request: Request) -> Response:
        return json_response(self._repository().describe_model(request.parameters["name"]))


class _Upload:
    """The pictures of one batch upload on their way."""

    def __init__(self, served: ServedModel, asked: Parameters, results: list[dict[str, Any]]):
        self._served, self._asked, self._results = served, asked, results
        self._left = len(results)
        self._pending: list[Cancellable] = []
        self._large: set[int] = set()  # those that wait for a decoder or were decoded on one, and have no answer yet
        self._progress = asyncio.Event()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def classify(self, pictures: list[bytes]) -> None:
        """Fills the results. Raises what is no picture's fault: Overloaded, Unavailable, DeadlineExceeded."""
        try:
            await self._start(pictures)
            await self._finished
        finally:
            for pending in self._pending:
                pending.cancelled = True
            self._pending.clear()
            if self._finished.done() and not self._finished.cancelled():
                self._finished.exception()  # it was raised above, or an earlier one was

    async def _start(self, pictures: list[bytes]) -> None:
        """Send each picture on its way. Small ones are decoded at once: others have their turn between them. Of the
        large ones a few at a time, so that one upload does not take all the room there is for them."""
        turn = time.perf_counter()
        for index, data in enumerate(pictures):
            if time.perf_counter() - turn > TURN_SECONDS:
                await asyncio.sleep(0)
                turn = time.perf_counter()
            try:
                pending = self._served.classify(data, functools.partial(self._done, index), admitted=True)
            except ClassifyError as err:
                self._failed(index, err)
                continue
            self._pending.append(pending)
            if isinstance(pending, Decoding):
                self._large.add(index)
                while len(self._large) > MAX_LARGE and not self._finished.done():
                    self._progress.clear()
                    await self._progress.wait()

    def _done(self, index: int, outcome: Outcome) -> None:
        self._large.discard(index)
        self._progress.set()
        try:
            self._results[index] |= self._served.answer(outcome, self._asked.top_k, self._asked.min_probability)
        except ClassifyError as err:
            self._failed(index, err)
        except Exception as err:
            self._end(err)
        else:
            self._one_less()

    def _failed(self, index: int, err: ClassifyError) -> None:
        if err.status >= 500:
            self._end(err)
        else:
            self._results[index] |= err.body()
            self._one_less()

    def _one_less(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._end(None)

    def _end(self, err: Exception | None) -> None:
        if self._finished.done():
            return
        if err is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(err)
