"""Amazon SageMaker's contract for inference containers: GET /ping and POST /invocations. Translation only.

Follows "Custom Inference Code with Hosting Services" and "… with Batch Transform" of the SageMaker developer guide.
SageMaker passes few headers through: what a client asks for stands in X-Amzn-SageMaker-Custom-Attributes.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from serving.edge.http1 import Request, Response, failure, json_response
from serving.edge.router import Protocol, Route
from serving.errors import InvalidParameter, UnsupportedFormat
from serving.protocols import cloud_openapi, codings, instances
from serving.repository.models import Repository
from serving.repository.served import ServedModel

SAGEMAKER = Protocol("sagemaker", failure, (), cloud_openapi.SCHEMAS)
ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
MIB = 1024 * 1024


class Limits(NamedTuple):
    body_bytes: int
    images: int  # in one request
    workers: int  # of this service


class Sagemaker:
    """The handlers. `repository` gives the models that are served now; `ready` raises Unavailable while one is not."""

    def __init__(self, repository: Callable[[], Repository], ready: Callable[[], None], limits: Limits):
        self._repository = repository
        self._ready = ready
        self._limits = limits

    def routes(self) -> list[Route]:
        describe = cloud_openapi
        return [
            Route(
                "GET",
                "/ping",
                self.ping,
                open=True,
                probe=True,
                protocol=SAGEMAKER,
                operation=describe.probe("sagemakerPing"),
            ),
            Route(
                "GET",
                "/execution-parameters",
                self.execution_parameters,
                protocol=SAGEMAKER,
                operation=describe.execution_parameters,
            ),
            Route(
                "POST",
                "/invocations",
                self.invoke,
                max_bytes=self._limits.body_bytes,
                admit=self._admit,
                protocol=SAGEMAKER,
                operation=describe.predict("sagemakerInvocations"),
            ),
        ]

    def ping(self, request: Request) -> Response:
        self._ready()
        return Response(200, b"")

    def execution_parameters(self, request: Request) -> Response:
        """Batch transform asks for it."""
        return json_response(
            {
                "MaxConcurrentTransforms": 4 * self._limits.workers,
                "BatchStrategy": "SINGLE_RECORD",
                "MaxPayloadInMB": max(1, self._limits.body_bytes // MIB),
            }
        )

    def _admit(self, request: Request) -> None:
        codings.refuse_unknown(request)
        if b"accept" in request.fields:
            _check_accept(request.header(b"accept"))
        served, asked = self._asked(request.header(ATTRIBUTES)) if ATTRIBUTES in request.fields else self._plain()
        served.check()
        request.context = served, asked

    def _plain(self) -> tuple[ServedModel, instances.Parameters]:
        return self._repository().find(None), instances.Parameters()

    def _asked(self, attributes: str) -> tuple[ServedModel, instances.Parameters]:
        """`model=…,version=…,top_k=…,min_probability=…`; others are the client's own. Raises InvalidParameter."""
        given = dict(part.strip().partition("=")[::2] for part in attributes.split(","))
        version, top_k, least = given.get("version"), given.get("top_k", "3"), given.get("min_probability")
        for name, text in (("version", version), ("top_k", top_k)):
            if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= 9):
                raise InvalidParameter(f"{name} must be a whole number, got {text[:40]!a}")
        served = self._repository().find(given.get("model"), None if version is None else int(version))
        try:
            number = least if least in (None, "card") else float(least)
        except ValueError:
            number = -1.0
        return served, instances.checked(int(top_k), number)

    def invoke(self, request: Request) -> Coroutine[Any, Any, Response] | None:
        served, asked = request.context
        return instances.answer(request, served, asked, (self._limits.body_bytes, self._limits.images))


def _check_accept(accept: str) -> None:
    """Raises UnsupportedFormat where the client takes no JSON."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    if not {"*/*", "application/*", "application/json"}.intersection(kinds):
        raise UnsupportedFormat(f"the answer is application/json, and Accept names only {accept[:80]!a}")
