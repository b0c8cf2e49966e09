"""Hugging Face's image-classification task, as its inference API and `InferenceClient` speak it. Translation only.

The body is the picture, or JSON with the picture in base64: {"inputs": …, "parameters": {"top_k": …}}. Follows the
task's specification in @huggingface/tasks.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from serving.edge.http1 import JSON, Headers, Request, Response, failure_headers, json_response
from serving.edge.router import Protocol, Route
from serving.errors import ClassifyError, InvalidParameter
from serving.protocols import codings
from serving.protocols.answers import answer_one, scores_text
from serving.protocols.openapi import BINARY, STRING, array, failures, json_answer, reference, required
from serving.protocols.parsing import from_base64, load_object
from serving.protocols.tensors import shown
from serving.repository.answers import Answer
from serving.repository.models import Repository
from serving.repository.served import ServedModel

DEFAULT_TOP_K = 5  # as the task's own
FUNCTIONS = (None, "softmax")  # the answers are probabilities already: no other can be applied to them


def failure(err: ClassifyError) -> Response:
    """Clients of this protocol read the key `error`."""
    return json_response({"error": str(err)}, err.status, failure_headers(err))


def _operation(models: list[str]) -> dict[str, Any]:
    return {
        "operationId": "huggingFaceClassify",
        "summary": "Classify one image",
        "tags": ["Hugging Face"],
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": models}}],
        "requestBody": {
            "required": True,
            "content": {
                **{kind: {"schema": BINARY} for kind in ("image/jpeg", "image/png", "application/octet-stream")},
                "application/json": {"schema": reference("HuggingFaceRequest")},
            },
        },
        "responses": {
            "200": json_answer("The most probable classes, best first", "HuggingFaceAnswer"),
            **failures("HuggingFaceFailure", "400", "401", "404", "408", "413", "415", "422", "500", "503", "504"),
        },
    }


SCHEMAS: dict[str, Any] = {
    "HuggingFaceRequest": required(inputs=STRING)
    | {"properties": {"inputs": STRING, "parameters": {"type": "object"}}},
    "HuggingFaceAnswer": array(required(label=STRING, score={"type": "number"})),
    "HuggingFaceFailure": required(error=STRING),
}
HUGGING_FACE = Protocol("hugging_face", failure, ("/hf",), SCHEMAS)


class Asked(NamedTuple):
    picture: bytes
    top_k: int = DEFAULT_TOP_K


class HuggingFace:
    """The handler. `repository` gives the models that are served now."""

    def __init__(self, repository: Callable[[], Repository], body_bytes: int):
        self._repository = repository
        self._body_bytes = body_bytes

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/hf/{name}",
                self.classify,
                max_bytes=self._body_bytes,
                admit=self._admit,
                protocol=HUGGING_FACE,
                operation=_operation,
            )
        ]

    def _admit(self, request: Request) -> None:
        codings.refuse_unknown(request)
        request.context = served = self._repository().find(request.parameters["name"])
        served.check()

    def classify(self, request: Request) -> Coroutine[Any, Any, Response] | None:
        kind = request.header(b"content-type").partition(";")[0].strip().lower()
        if not codings.is_quick(request, len(request.body) if _is_json(request.body, kind) else 0):
            return self._classify_later(request, kind)
        body, request.body = request.body, b""
        asked = read(body, kind)
        served = request.context
        answer_one(request, served, asked.picture, None, lambda answer: _response(served, answer, asked.top_k))
        return None

    async def _classify_later(self, request: Request, kind: str) -> Response:
        asked = await codings.parsed(request, self._body_bytes, lambda body: read(body, kind))
        return _response(request.context, await request.context.answer(asked.picture), asked.top_k)


def _response(served: ServedModel, answer: Answer, top_k: int) -> Response:
    ranking = served.rank(answer, top_k)
    # The answer is a bare list: only a header has room for the reason of a doubt.
    headers: Headers = JSON if ranking.unsure is None else (*JSON, ("x-unsure", ranking.unsure))
    return Response(200, scores_text(served, ranking), headers)


def _is_json(body: bytes, kind: str) -> bool:
    """Clients send JSON without saying so; no picture begins with a brace."""
    return kind == "application/json" or body[:16].lstrip().startswith(b"{")


def read(body: bytes, kind: str) -> Asked:
    """`kind` is the media type that the client declares. Raises InvalidRequest or InvalidParameter."""
    if not _is_json(body, kind):
        return Asked(body)
    content = load_object(body)
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidParameter("`parameters` must be an object")
    top_k = parameters.get("top_k")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise InvalidParameter(f"top_k must be a whole number of at least 1, got {shown(top_k)}")
    if (function := parameters.get("function_to_apply")) not in FUNCTIONS:
        raise InvalidParameter(
            f"function_to_apply can only be softmax: the answers are probabilities; got {shown(function)}"
        )
    return Asked(from_base64(content.get("inputs"), "inputs"), DEFAULT_TOP_K if top_k is None else top_k)
