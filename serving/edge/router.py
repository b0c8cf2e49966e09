"""Requests -> the routes that answer them, within their limits and keys; exceptions -> answers. Knows no model.

A handler is a function of the request. It returns the response, or a coroutine that will, or None: then it calls
`request.respond` later. What it raises becomes a failure in the shape of the route's protocol.
"""

import functools
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from serving.edge import keys
from serving.edge.bodies import too_large
from serving.edge.http1 import Request, Response, failure
from serving.errors import ClassifyError, MethodNotAllowed, NotFound
from serving.operations import metrics

log = logging.getLogger("shortcut")

Handler = Callable[[Request], "Response | Coroutine[Any, Any, Response] | None"]
Operation = Callable[[list[str]], dict[str, Any]]  # the names of the models -> OpenAPI's description of a route

CACHED_PATH_BYTES = 200  # longer paths are matched each time: a client must not fill the memory with them


@dataclass(frozen=True)
class Protocol:
    """A front door. `name` is its label in metrics, `failure` writes what went wrong in its own shape.

    A path below one of `prefixes` that is no route fails in that shape too. `schemas` are what the descriptions of its
    routes refer to, by name (OpenAPI's components).
    """

    name: str
    failure: Callable[[ClassifyError], Response] = failure
    prefixes: tuple[str, ...] = ()
    schemas: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Protocol(metrics.NATIVE)  # of every path that no other protocol has


@dataclass(frozen=True)
class Route:
    """`path` may hold parameters, each `{name}`, which match within one segment, percent-decoded, and are found in
    `request.parameters`: `/v2/models/{name}/versions/{version}/infer`, `/v1/models/{name}:predict`. With `any_case`
    its other letters match in either case.

    `open` routes need no API key: health, and the page's static files. `max_bytes` of a body are read, 0 for a route
    that takes none. `admit` is called as soon as the head is there, and may refuse before the body is read. `page` is
    for who wants HTML first, as browsers do; another route of the same path for all others. `operation` describes the
    route for OpenAPI, None where it is left out. Of two routes with the same method and path the later one counts.
    `probe` routes are asked by who runs the service: they are answered when all connections are taken.
    """

    method: str
    path: str
    handle: Handler
    open: bool = False
    max_bytes: int = 0
    admit: Callable[[Request], None] | None = None
    page: bool = False
    protocol: Protocol = PLAIN
    operation: Operation | None = None
    any_case: bool = False
    probe: bool = False


class Methods(NamedTuple):
    """The routes of one path, by method."""

    routes: dict[bytes, Route]
    open: bool  # needs no key
    protocol: Protocol
    label: str  # in metrics
    pages: "Methods | None" = None  # in its place for who wants HTML


class Pattern(NamedTuple):
    """A path with parameters."""

    expression: re.Pattern[str]
    methods: Methods


class Router:
    """All routes of the service. `key_hashes`, if there are any, are asked for on every path but those of open routes,
    known or not. `protocols` may have prefixes without a route; those of the routes need not be named."""

    def __init__(
        self, routes: Iterable[Route], key_hashes: tuple[str, ...] = (), protocols: Iterable[Protocol] = (PLAIN,)
    ):
        self.routes = list(routes)
        self.protocols = list({id(one): one for one in [*protocols, *(r.protocol for r in self.routes)]}.values())
        self._key_hashes = key_hashes
        self._exact: dict[bytes, Methods] = {}
        self._patterns: dict[str, list[Pattern]] = {}  # by the first segment, in lower case
        for path in dict.fromkeys(route.path for route in self.routes):
            methods = _methods([route for route in self.routes if route.path == path])
            if "{" in path or any(route.any_case for route in self.routes if route.path == path):
                first = path.split("/")[1].lower()
                self._patterns.setdefault(first, []).append(Pattern(_expression(path, self.routes), methods))
            else:
                self._exact[path.encode()] = methods
        self._unknown = [
            (prefix.encode(), Methods({}, False, protocol, f"{prefix}*"))
            for protocol in self.protocols
            for prefix in protocol.prefixes
        ]
        self._find_again_and_again = functools.lru_cache(1024)(self._find)  # clients ask for the same few paths

    @property
    def labels(self) -> dict[str, str]:
        """Every label of a path in metrics, and its protocol's."""
        known = [*self._exact.values(), *(p.methods for group in self._patterns.values() for p in group)]
        protocols = {methods.label: methods.protocol.name for methods in (*known, *(m for _, m in self._unknown))}
        return protocols | {metrics.UNKNOWN: PLAIN.name}

    @property
    def probes(self) -> tuple[str, ...]:
        """The labels of the probes' routes."""
        return tuple(route.path for route in self.routes if route.probe)

    def accept(self, request: Request) -> Route:
        """The route of a request whose head has arrived. Raises what refuses it before its body is read."""
        methods = self._exact.get(request.path)
        if methods is None:
            methods = self._look_for(request)
        if methods.pages is not None and request.header(b"accept").lower().startswith("text/html"):
            methods = methods.pages
        request.failure = methods.protocol.failure
        request.label = methods.label
        if self._key_hashes and not methods.open:
            keys.require(self._key_hashes, request)
        route = methods.routes.get(request.method)
        if route is None:
            raise self._refusal(request, methods)
        if route.max_bytes and request.length is not None and request.length > route.max_bytes:
            raise too_large(route.max_bytes, f"{request.length:,}")
        if route.admit is not None:
            route.admit(request)
        return route

    def _look_for(self, request: Request) -> Methods:
        """The routes of a path that is not written as one of them; fills `request.parameters`."""
        path = request.path
        find = self._find_again_and_again if len(path) <= CACHED_PATH_BYTES else self._find
        methods, parameters = find(path)
        request.parameters = dict(parameters)
        return methods

    def _find(self, path: bytes) -> tuple[Methods, tuple[tuple[str, str], ...]]:
        # A slash that a client has encoded is part of a name: it must not end a segment. What stands for it here comes
        # in no path, since a name with a NUL would be taken for one with a slash, and neither is a model's.
        text = path.decode("latin-1")
        segments = [unquote(segment, errors="replace").replace("/", "\0") for segment in text.split("/")]
        text = "/".join(segments)
        if (methods := self._exact.get(text.encode("utf-8", "replace"))) is not None:
            return methods, ()
        for pattern in self._patterns.get(segments[1].lower() if len(segments) > 1 else "", ()):
            if (match := pattern.expression.fullmatch(text)) is not None:
                parameters = match.groupdict()
                return pattern.methods, tuple((name, value.replace("\0", "/")) for name, value in parameters.items())
        for prefix, methods in self._unknown:
            if path.startswith(prefix):
                return methods, ()
        return _NOTHING, ()

    def _refusal(self, request: Request, methods: Methods) -> ClassifyError:
        if methods.routes:
            allowed = ", ".join(sorted(method.decode() for method in methods.routes))
            return MethodNotAllowed(f"this route takes {allowed}", allowed)
        meant = b"/" + b"/".join(part for part in request.path.split(b"/") if part)
        if meant != request.path and meant in self._exact:
            return NotFound(f"no such route; did you mean {meant.decode()} (one slash before it, none behind)?")
        return NotFound("no such route; GET /docs.json lists what there is")


_NOTHING = Methods({}, False, PLAIN, metrics.UNKNOWN)


def _methods(routes: list[Route]) -> Methods:
    """The routes of one path."""
    plain, pages = (_table([route for route in routes if route.page is page]) for page in (False, True))
    if plain is None or pages is None:
        return plain or pages or _NOTHING
    return plain._replace(pages=pages)


def _table(routes: list[Route]) -> Methods | None:
    if not routes:
        return None
    by_method = {route.method.encode(): route for route in routes}
    if b"GET" in by_method:
        by_method.setdefault(b"HEAD", by_method[b"GET"])
    return Methods(by_method, any(route.open for route in routes), routes[-1].protocol, routes[-1].path)


def _expression(path: str, routes: list[Route]) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", path)
    text = "".join(f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    any_case = any(route.any_case for route in routes if route.path == path)
    return re.compile(text, re.IGNORECASE if any_case else 0)


def guarded(call: Callable[[], Any], request: Request) -> Any:
    """What `call` returns; what it raises as the answer that says so. The outermost edge for what handlers do."""
    try:
        return call()
    except Exception as err:
        return failed(request, err)


async def awaited(work: Coroutine[Any, Any, Response], request: Request) -> Response:
    """The same for a handler that is a coroutine."""
    try:
        return await work
    except Exception as err:
        return failed(request, err)


def failed(request: Request, err: Exception) -> Response:
    """What went wrong, in the shape of the request's protocol. What nobody thought of is logged, and nothing of the
    inside is shown."""
    if not isinstance(err, ClassifyError):
        figures = {"figures": {"request_id": request.request_id}}
        log.error("internal error on %s", request.label, extra=figures, exc_info=err)
        err = ClassifyError("internal error; the service's log has the details")
    return request.failure(err)
