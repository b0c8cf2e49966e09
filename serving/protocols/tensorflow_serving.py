"""TensorFlow Serving's REST API, version 1: status, metadata and predict. Translation only.

Follows api_rest.md of tensorflow/serving. A picture is given as pixels, the input `image` of the SavedModel, or as an
encoded file in base64: {"b64": …}. What TensorFlow Serving would read as a string tensor is decoded here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from serving.edge.http1 import Request, Response, failure_headers, json_response
from serving.edge.router import Protocol, Route
from serving.errors import ClassifyError, InvalidRequest, NotFound
from serving.protocols import codings, tensors
from serving.protocols import tensorflow_serving_openapi as describe
from serving.protocols.answers import model_of_path
from serving.protocols.parsing import from_base64, load_object
from serving.protocols.tensors import shown
from serving.repository.answers import Answer
from serving.repository.many import predict_many
from serving.repository.models import Repository
from serving.repository.served import ServedModel

INPUT, PROBABILITIES, UNFAMILIARITY = "image", "probabilities", "unfamiliarity"
SIGNATURE = "serving_default"
OK = {"error_code": "OK", "error_message": ""}


def failure(err: ClassifyError) -> Response:
    """A request that is no route of the protocol is malformed there: 400."""
    if isinstance(err, NotFound):
        return json_response({"error": f"Malformed request: {err}"}, 400)
    return json_response({"error": str(err)}, 400 if err.status in (415, 422) else err.status, failure_headers(err))


TENSORFLOW_SERVING = Protocol("tensorflow_serving", failure, ("/v1/models",), describe.SCHEMAS)
_ANY: dict[str, Any] = {"protocol": TENSORFLOW_SERVING, "any_case": True}  # its paths match in either case


class Limits(NamedTuple):
    body_bytes: int
    images: int  # in one request


class Asked(NamedTuple):
    """`by_row` is the form of the request, and so of its answer: `instances`, or else `inputs`."""

    pictures: np.ndarray | list[bytes]
    by_row: bool


class TensorflowServing:
    """The handlers. `repository` gives the models that are served now."""

    def __init__(self, repository: Callable[[], Repository], limits: Limits):
        self._repository = repository
        self._limits = limits

    def routes(self) -> list[Route]:
        ask, look = [], []
        for path, number in (("/v1/models/{name}", ""), ("/v1/models/{name}/versions/{version}", "Version")):
            predict = Route(
                "POST",
                f"{path}:predict",
                self.predict,
                max_bytes=self._limits.body_bytes,
                admit=self._admit,
                operation=describe.predict(number),
                **_ANY,
            )
            # Before the path of a model, which would take `name:verb` of any other verb for a name.
            ask += [predict, Route("POST", f"{path}:{{verb}}", self.malformed, **_ANY)]
            look += [
                Route("GET", f"{path}/metadata", self.metadata, operation=describe.metadata(number), **_ANY),
                Route("GET", path, self.status, operation=describe.status(number), **_ANY),
            ]
        return [*ask, *look]

    def malformed(self, request: Request) -> Response:
        raise NotFound(f"{request.parameters['verb'][:40]!a} is no method of a model here; `predict` is")

    def status(self, request: Request) -> Response:
        served = model_of_path(request, self._repository())
        version, versions = request.parameters.get("version"), self._repository().models[served.artifact.name]
        numbers = sorted(versions, reverse=True) if version is None else [served.artifact.version]
        rows = [{"version": str(number), "state": "AVAILABLE", "status": OK} for number in numbers]
        return json_response({"model_version_status": rows})

    def metadata(self, request: Request) -> Response:
        """The signature, nested twice as TensorFlow Serving nests it."""
        served = model_of_path(request, self._repository())
        artifact = served.artifact
        outputs = {PROBABILITIES: _tensor(PROBABILITIES, "DT_FLOAT", (-1, len(artifact.labels)))}
        if artifact.golden_unfamiliarity is not None:
            outputs[UNFAMILIARITY] = _tensor(UNFAMILIARITY, "DT_FLOAT", (-1,))
        signature = {
            "inputs": {INPUT: _tensor(INPUT, "DT_UINT8", (-1, *artifact.input_shape))},
            "outputs": outputs,
            "method_name": "tensorflow/serving/predict",
        }
        return json_response(
            {
                "model_spec": {"name": artifact.name, "signature_name": "", "version": str(artifact.version)},
                "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
            }
        )

    def _admit(self, request: Request) -> None:
        codings.refuse_unknown(request)
        request.context = served = model_of_path(request, self._repository())
        served.check()

    async def predict(self, request: Request) -> Response:
        served = request.context
        shape, most = served.artifact.input_shape, self._limits.images
        asked = await codings.parsed(
            request, self._limits.body_bytes, lambda body: read(load_object(body, constants=True), shape, most)
        )
        answers = await predict_many(served, asked.pictures, partial=False)
        request.stages = answers[0].stages
        return json_response(_content(served, answers, asked.by_row))


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    sizes = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": sizes, "unknown_rank": False}, "name": name}


def read(content: dict[str, Any], shape: tuple[int, int, int], most: int) -> Asked:
    """A body of :predict for a model that takes `shape`, (H, W, C). Raises InvalidRequest."""
    signature = content.get("signature_name", SIGNATURE)
    if signature not in ("", SIGNATURE):
        raise InvalidRequest(f"Serving signature name: {shown(signature)} not found in signature def")
    if ("instances" in content) == ("inputs" in content):
        raise InvalidRequest("the body needs either `instances` (a row for each picture) or `inputs` (columns)")
    by_row = "instances" in content
    rows = content["instances"] if by_row else _named(content["inputs"])
    if isinstance(rows, dict) and "b64" in rows:
        rows = [rows]  # one picture in a column
    if not isinstance(rows, list) or not 1 <= len(rows) <= most:
        count = f"{len(rows):,}" if isinstance(rows, list) else shown(rows)
        raise InvalidRequest(f"a request holds a list of 1 to {most} pictures, got {count}")
    if by_row:
        rows = [_named(row) for row in rows]
    encoded = [isinstance(row, dict) for row in rows]
    if all(encoded):
        return Asked([_decoded(row) for row in rows], by_row)
    if any(encoded):
        raise InvalidRequest("some pictures are encoded and some are pixels: send one kind in a request")
    return Asked(tensors.uint8_from_json(rows, (len(rows), *shape)), by_row)


def _named(value: Any) -> Any:
    """What the input `image` is given, where the inputs are named."""
    if not isinstance(value, dict) or "b64" in value:
        return value
    if list(value) != [INPUT]:
        raise InvalidRequest(
            f"the model has one input, `{INPUT}`, got {', '.join(map(shown, list(value)[:5])) or 'none'}"
        )
    return value[INPUT]


def _decoded(value: dict[str, Any]) -> bytes:
    if list(value) != ["b64"]:
        raise InvalidRequest('an encoded picture is {"b64": "<base64 text>"}')
    return from_base64(value["b64"])


def _content(served: ServedModel, answers: list[Answer], by_row: bool) -> dict[str, Any]:
    """One named output loses its name; of several each row, or each column, is an object. `unsure` is this service's
    own, there only where an answer should not be relied on."""
    columns: dict[str, list[Any]] = {PROBABILITIES: [answer.probabilities.tolist() for answer in answers]}
    if answers[0].unfamiliarity is not None:
        columns[UNFAMILIARITY] = [answer.unfamiliarity for answer in answers]
    only = columns[PROBABILITIES] if len(columns) == 1 else None
    content: dict[str, Any]
    if by_row:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        content = {"predictions": rows if only is None else only}
    else:
        content = {"outputs": columns if only is None else only}
    reasons = [served.rank(answer, 1).unsure for answer in answers]
    return content | ({"unsure": reasons} if any(reasons) else {})
