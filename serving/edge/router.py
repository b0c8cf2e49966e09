"""Requests -> the routes that answer them, within their limits and keys; exceptions -> answers. Knows no model.

A handler is a function of the request. It returns the response, or a coroutine that will, or None: then it calls
`request.respond` later. What it raises becomes the one shape that every failure has.
"""

import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from serving.edge import keys
from serving.edge.http1 import Request, Response, failure, too_large
from serving.errors import ClassifyError, MethodNotAllowed, NotFound
from serving.operations import metrics

log = logging.getLogger("shortcut")

Handler = Callable[[Request], "Response | Coroutine[Any, Any, Response] | None"]


@dataclass(frozen=True)
class Route:
    """`path` may end in `/{name}`, which matches one more segment and is found in `request.parameters`.

    `open` routes need no API key: health, and the page's static files. `max_bytes` of a body are read, 0 for a route
    that takes none. `admit` is called as soon as the head is there, and may refuse before the body is read. `page` is
    for who wants HTML first, as browsers do; another route of the same path, which ends in `/{name}`, for all others.
    """

    method: str
    path: str
    handle: Handler
    open: bool = False
    max_bytes: int = 0
    admit: Callable[[Request], None] | None = None
    page: bool = False


class Router:
    """All routes of the service. `key_hashes`, if there are any, are asked for on every path but those of open routes,
    known or not."""

    def __init__(self, routes: Iterable[Route], key_hashes: tuple[str, ...] = ()):
        self.routes = list(routes)
        self._key_hashes = key_hashes
        self._exact: dict[bytes, dict[bytes, Route]] = {}
        self._below: dict[bytes, dict[bytes, Route]] = {}
        self._pages: dict[bytes, dict[bytes, Route]] = {}  # as _below
        for route in self.routes:
            table, path = self._exact, route.path
            if path.endswith("/{name}"):
                table, path = self._pages if route.page else self._below, path.removesuffix("{name}")
            methods = table.setdefault(path.encode(), {})
            methods[route.method.encode()] = route
            if route.method == "GET":
                methods.setdefault(b"HEAD", route)

    def accept(self, request: Request) -> Route:
        """The route of a request whose head has arrived. Raises what refuses it before its body is read."""
        methods = self._exact.get(request.path)
        if methods is None:
            methods = self._find(request)
        route = methods.get(request.method)
        request.label = (
            next((route.path for route in methods.values()), metrics.UNKNOWN) if route is None else route.path
        )
        if self._key_hashes and not any(route.open for route in methods.values()):
            keys.require(self._key_hashes, request)
        if route is None:
            raise self._refusal(request, methods)
        if route.max_bytes and request.length is not None and request.length > route.max_bytes:
            raise too_large(route.max_bytes, f"{request.length:,}")
        if route.admit is not None:
            route.admit(request)
        return route

    def _find(self, request: Request) -> dict[bytes, Route]:
        """The routes of a path by method, none for an unknown one; fills `request.parameters`."""
        path = request.path
        if b"%" in path:
            text = unquote(path.decode("latin-1"), errors="replace")
            path = text.encode("utf-8", "replace")
            if path in self._exact:
                return self._exact[path]
        head, _, name = path.rpartition(b"/")
        if name and (methods := self._below.get(head + b"/")):
            request.parameters["name"] = name.decode("utf-8", "replace")
            wants_page = request.header(b"accept").lower().startswith("text/html")
            return self._pages.get(head + b"/", methods) if wants_page else methods
        return {}

    def _refusal(self, request: Request, methods: dict[bytes, Route]) -> ClassifyError:
        if methods:
            allowed = ", ".join(sorted(method.decode() for method in methods))
            return MethodNotAllowed(f"this route takes {allowed}", allowed)
        meant = b"/" + b"/".join(part for part in request.path.split(b"/") if part)
        if meant != request.path and meant in self._exact:
            return NotFound(f"no such route; did you mean {meant.decode()} (one slash before it, none behind)?")
        return NotFound("no such route; GET /docs.json lists what there is")


def guarded(call: Callable[[], Any], request: Request) -> Any:
    """What `call` returns; what it raises as the answer that says so. The outermost edge for what handlers do."""
    try:
        return call()
    except ClassifyError as err:
        return failure(err)
    except Exception:  # nothing of the inside is shown
        return failure(internal_error(request))


async def awaited(work: Coroutine[Any, Any, Response], request: Request) -> Response:
    """The same for a handler that is a coroutine."""
    try:
        return await work
    except ClassifyError as err:
        return failure(err)
    except Exception:
        return failure(internal_error(request))


def internal_error(request: Request) -> ClassifyError:
    """For the exception at hand, which is logged; nothing of it is shown."""
    log.exception("internal error on %s", request.label, extra={"figures": {"request_id": request.request_id}})
    return ClassifyError("internal error; the service's log has the details")
