"""Google Vertex AI's contract for prediction containers: the routes that AIP_* variables name. Translation only.

Follows "Custom container requirements for prediction" of the Vertex AI documentation. The body is
{"instances": [{"b64": …}], "parameters": {…}}, or with rawPredict one picture as it is.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from serving.edge.http1 import Request, Response, failure
from serving.edge.router import Protocol, Route
from serving.protocols import cloud_openapi, codings, instances
from serving.repository.models import Repository

VERTEX = Protocol("vertex", failure, (), cloud_openapi.SCHEMAS)


class Limits(NamedTuple):
    body_bytes: int
    images: int  # in one request


class Vertex:
    """The handlers. `repository` gives the models that are served now, `ready` raises Unavailable while some are not;
    `health` and `predict` are the paths that the platform wants."""

    def __init__(
        self,
        repository: Callable[[], Repository],
        ready: Callable[[], None],
        limits: Limits,
        health: str,
        predict: str,
    ):
        self._repository = repository
        self._ready = ready
        self._limits = limits
        self._health_path, self._predict_path = health, predict

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                self._health_path,
                self.health,
                open=True,
                probe=True,
                protocol=VERTEX,
                operation=cloud_openapi.probe("vertexHealth"),
            ),
            Route(
                "POST",
                self._predict_path,
                self.predict,
                max_bytes=self._limits.body_bytes,
                admit=self._admit,
                protocol=VERTEX,
                operation=cloud_openapi.predict("vertexPredict"),
            ),
        ]

    def health(self, request: Request) -> Response:
        self._ready()
        return Response(200, b"")

    def _admit(self, request: Request) -> None:
        codings.refuse_unknown(request)
        request.context = served = self._repository().find()
        served.check()

    def predict(self, request: Request) -> Coroutine[Any, Any, Response] | None:
        limits = (self._limits.body_bytes, self._limits.images)
        return instances.answer(request, request.context, instances.Parameters(), limits)
