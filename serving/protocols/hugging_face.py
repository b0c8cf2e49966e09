"""Hugging Face's image-classification task, as its inference API and `InferenceClient` speak it. Translation only.

The body is the picture, or JSON with the picture in base64: {"inputs": …, "parameters": {"top_k": …}}. Follows the
task's specification in @huggingface/tasks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from serving.edge.http1 import Headers, Request, Response, json_response
from serving.edge.router import Protocol, Route
from serving.errors import ClassifyError, InvalidParameter
from serving.protocols import codings
from serving.protocols.openapi import BINARY, STRING, array, failures, json_answer, reference, required
from serving.protocols.parsing import from_base64, load_object
from serving.protocols.tensors import shown
from serving.repository.many import predict_many
from serving.repository.models import Repository

DEFAULT_TOP_K = 5  # as the task's own
FUNCTIONS = (None, "softmax")  # the answers are probabilities already: no other can be applied to them


def failure(err: ClassifyError) -> Response:
    """Clients of this protocol read the key `error`."""
    return json_response({"error": str(err)}, err.status, err.headers)


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

    async def classify(self, request: Request) -> Response:
        served = request.context
        kind = request.header(b"content-type").partition(";")[0].strip().lower()
        asked = await codings.parsed(request, self._body_bytes, lambda body: read(body, kind))
        (answer,) = await predict_many(served, [asked.picture], partial=False)
        request.stages = answer.stages
        best, unsure = served.rank(answer, asked.top_k)
        # The answer is a bare list: only a header has room for the reason of a doubt.
        headers: Headers = () if unsure is None else (("x-unsure", unsure),)
        return json_response([{"label": answer.labels[i], "score": p} for i, p in best], headers=headers)


def read(body: bytes, kind: str) -> Asked:
    """`kind` is the media type that the client declares. Raises InvalidRequest or InvalidParameter."""
    # Clients send JSON without saying so; no picture begins with a brace.
    if kind != "application/json" and not body[:16].lstrip().startswith(b"{"):
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
