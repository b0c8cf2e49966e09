"""The ASGI front: every request to a route and back, every failure to its one shape. Knows no model.

Stands before BentoML's own application, so that each answer, the 404 and 405 too, has the documented
form and costs no more than it must; only `/schema.json` is passed on to BentoML.
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.edge import keys
from serving.edge.exchange import request_id
from serving.edge.uploads import ClientGone
from serving.errors import ClassifyError, MethodNotAllowed, NotFound
from serving.operations import metrics as telemetry

log = logging.getLogger("shortcut")

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """`path` may end in `/{name}`, which matches one more segment and is found in `request.path_params`.

    `open` routes need no API key: health, and the page's static files.
    """

    method: str
    path: str
    endpoint: Endpoint
    open: bool = False


class Front:
    """An ASGI application that answers `routes` itself. `passed` are the paths that the inner application answers;
    `key_hashes`, if there are any, are asked for on every path but those of open routes, known or not."""

    def __init__(
        self,
        app: Any,
        routes: list[Route],
        passed: frozenset[str] = frozenset(),
        key_hashes: tuple[str, ...] = (),
    ):
        self._app = app
        self._passed = passed
        self._key_hashes = key_hashes
        self._exact: dict[str, dict[str, Route]] = {}
        self._below: dict[str, dict[str, Route]] = {}
        for route in routes:
            table, path = self._exact, route.path
            if path.endswith("/{name}"):
                table, path = self._below, path.removesuffix("{name}")
            table.setdefault(path, {})[route.method] = route

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: there are none here
            await send({"type": "websocket.close", "code": 1000})
            return
        started = time.perf_counter()
        label = telemetry.UNKNOWN
        path, method = scope["path"], scope["method"]
        name = request_id(dict(reversed(scope["headers"])))
        request = Request(scope, receive)
        request.state.stages = []
        try:
            methods, scope["path_params"] = self._find(path)
            route = next(iter(methods.values()), None)
            label = label if route is None else route.path
            if self._key_hashes and not any(route.open for route in methods.values()):
                keys.require(self._key_hashes, scope["headers"])
            if path in self._passed and method in ("GET", "HEAD"):
                await self._app(scope, receive, send)
                return
            if route is None:
                raise NotFound("no such route; GET /docs.json lists what there is")
            response = await _choose(methods, method).endpoint(request)
        except ClassifyError as err:
            response = failure(err)
        except ClientGone:
            telemetry.finished(label, 499, started, name)
            return
        except Exception:  # the outermost edge: nothing of the inside is shown
            response = failure(internal_error(label, name))
        response.headers["x-request-id"] = name
        await response(scope, receive, send)
        telemetry.finished(label, response.status_code, started, name, request.state.stages)

    def _find(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        """The routes of `path` by method (none for an unknown path), and its path parameters."""
        if methods := self._exact.get(path):
            return methods, {}
        head, _, name = path.rpartition("/")
        if name and (methods := self._below.get(f"{head}/")):
            return methods, {"name": name}
        return {}, {}


def _choose(methods: dict[str, Route], method: str) -> Route:
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
        raise MethodNotAllowed(f"this route takes {allowed}", allowed)
    return route


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return json_bytes(body, status, headers)


def json_bytes(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, {**(headers or {}), "x-content-type-options": "nosniff"}, "application/json")


def internal_error(route: str, name: str) -> ClassifyError:
    """For the exception at hand, which is logged; nothing of it is shown."""
    log.exception("internal error on %s", route, extra={"figures": {"request_id": name}})
    return ClassifyError("internal error; the service's log has the details")


def failure(err: ClassifyError) -> Response:
    return json_response(err.body(), err.status, dict(err.headers))
