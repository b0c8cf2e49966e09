"""What a browser, a probe or Prometheus asks for: pages and their files, the API's document, health, metrics."""

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from serving.edge.http1 import VARY, Headers, Request, Response, json_response
from serving.edge.router import Route
from serving.edge.seams import SWAGGER
from serving.errors import NotFound, Unavailable
from serving.operations import metrics, tallies
from serving.protocols.native_openapi import probe

PAGE = Path(__file__).parents[1] / "page"
HTML = ("index.html", "model.html", "docs.html")
STATIC = {
    **{file.name: PAGE for file in PAGE.iterdir() if file.name not in HTML},
    "swagger-ui.css": SWAGGER,
    "swagger-ui-bundle.js": SWAGGER,
}
METRICS_REST = 3.0  # times as long as they took to make, the metrics are not made again
HEADERS: Headers = (
    # Nothing from elsewhere and nothing inline; pictures are shown from blob: and data:.
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-cache"),  # a browser asks again, and gets 304 while the file is the same
)
TEXT: Headers = (("content-type", "text/plain; charset=utf-8"),)


_IS_ALIVE = probe("isAlive", "The process answers")
_IS_READY = probe("isReady", "Every model is warm and matched its golden outputs", "503")
_METRICS = probe("metrics", "Prometheus metrics", "401")


class _File(NamedTuple):
    content: bytes
    headers: Headers
    tag: str


class Pages:
    """`ready` raises Unavailable while the service is not; `document` is the API's; `schema` is BentoML's; `prefix` is
    the path below which the client of a request sees the service."""

    def __init__(
        self,
        ready: Callable[[], None],
        document: Callable[[], Any],
        schema: Callable[[], Any],
        prefix: Callable[[Request], str] = lambda request: "",
    ):
        self._ready = ready
        self._document = document
        self._prefix = prefix
        self._schema = schema
        self._files = {name: _read(folder / name) for name, folder in STATIC.items()}
        self._index, self._model, self._docs = (_read(PAGE / name) for name in HTML)
        self._metrics: asyncio.Task[bytes] | None = None  # one at a time, for all that ask meanwhile
        self._metrics_from = 0.0  # before that moment of the loop's clock none is begun

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/livez", self.livez, open=True, probe=True, operation=_IS_ALIVE),
            Route("GET", "/healthz", self.livez, open=True, probe=True),
            Route("GET", "/readyz", self.readyz, open=True, probe=True, operation=_IS_READY),
            Route("GET", "/metrics", self.metrics, probe=True, operation=_METRICS),
            Route("GET", "/docs.json", self.document),
            Route("GET", "/schema.json", lambda request: json_response(self._schema())),
            Route("GET", "/docs", lambda request: _whole(self._docs, request), open=True),
            Route("GET", "/static/{name}", self.static_file, open=True),
            Route("GET", "/favicon.ico", lambda request: _whole(self._files["favicon.svg"], request), open=True),
            Route("GET", "/models/{name}", self.model_page, open=True, page=True),
            Route("GET", "/", lambda request: _whole(self._index, request), open=True),
        ]

    def document(self, request: Request) -> Response:
        """Its addresses are where the client sees them: below the path at which a proxy shows the service."""
        document, prefix = self._document(), self._prefix(request)
        return json_response(document | {"servers": [{"url": prefix}]} if prefix else document)

    def livez(self, request: Request) -> Response:
        return Response(200, b"# alive\n", TEXT)  # a comment to Prometheus, which scrapes it to see whether we live

    def readyz(self, request: Request) -> Response:
        self._ready()
        return Response(200, b"ready\n", TEXT)

    async def metrics(self, request: Request) -> Response:
        if self._metrics is None:
            self._metrics = asyncio.create_task(self._made())
            self._metrics.add_done_callback(self._taken)
        text = await asyncio.shield(self._metrics)
        return Response(200, text, (("content-type", metrics.CONTENT_TYPE),))

    async def _made(self) -> bytes:
        """On a thread: with many workers it takes a tenth of a second, and no request shall wait for that. Whoever asks
        again and again waits, so that it takes a part of a core only."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._metrics_from - loop.time()))
        tallies.flush()
        began = loop.time()
        try:
            return await asyncio.to_thread(metrics.collected)
        finally:
            ended = loop.time()
            self._metrics_from = ended + METRICS_REST * (ended - began)

    def _taken(self, task: "asyncio.Task[bytes]") -> None:
        self._metrics = None

    def model_page(self, request: Request) -> Response:
        """For every name, and without a key: the page asks for the card, and for the key if need be."""
        response = _whole(self._model, request)
        return response._replace(headers=response.headers + VARY)

    def static_file(self, request: Request) -> Response:
        file = self._files.get(request.parameters["name"])
        if file is None:
            raise NotFound("no such file")
        return _whole(file, request)


def _read(path: Path) -> _File:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    return _File(content, (("content-type", kind), ("etag", tag), *HEADERS), tag)


def _whole(file: _File, request: Request) -> Response:
    """The whole file, or 304 if the client has it (RFC 9110, section 13.1.2). No ranges, which would have failures of
    their own shape."""
    if file.tag in request.header(b"if-none-match"):
        return Response(304, b"", file.headers)
    return Response(200, file.content, file.headers)


def not_ready(computes: bool, draining: bool) -> None:
    """Raises Unavailable with the reason."""
    if not computes:
        raise Unavailable("an execution provider has failed; another is being prepared")
    if draining:
        raise Unavailable("the service is stopping")
