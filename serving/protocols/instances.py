"""The JSON of the cloud platforms: {"instances": […], "parameters": {…}} -> pictures; answers -> {"predictions": […]}.

Amazon SageMaker and Google Vertex AI both take it; a body that is no JSON is one picture. Knows no route.
"""

from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.edge.http1 import JSON, Request, Response, json_response
from serving.errors import ClassifyError, InvalidParameter, InvalidRequest, UnsupportedFormat
from serving.protocols import codings, tensors
from serving.protocols.answers import answer_one, answer_text, predictions
from serving.protocols.parsing import from_base64, load_object
from serving.protocols.tensors import shown
from serving.repository.answers import Answer
from serving.repository.many import predict_many
from serving.repository.served import ServedModel

DEFAULT_TOP_K = 3
PICTURE_KEYS = (
    "b64",
    "content",
    "image",
    "image_bytes",
    "data",
)  # under which clients put a picture, in base64 or again an object


class Parameters(NamedTuple):
    top_k: int = DEFAULT_TOP_K
    min_probability: float | str | None = None


class Instances(NamedTuple):
    pictures: np.ndarray | list[bytes]
    parameters: Parameters


def answer(
    request: Request, served: ServedModel, asked: Parameters, limits: tuple[int, int]
) -> Coroutine[Any, Any, Response] | None:
    """Answer a picture, or instances. `asked` is what is asked for beside the body, `limits` are the bytes of the body
    and the pictures in it."""
    kind = request.header(b"content-type").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _answer_instances(request, served, asked, limits)
    if kind and not kind.startswith("image/") and kind not in ("application/octet-stream", "application/x-image"):
        raise UnsupportedFormat(f"send an image, application/octet-stream or application/json, not {kind[:80]!a}")
    if not codings.is_quick(request, 0):
        return _answer_later(request, served, asked, limits[0])
    picture, request.body = request.body, b""
    answer_one(request, served, picture, asked.min_probability, lambda result: _response(served, result, asked))
    return None


async def _answer_later(request: Request, served: ServedModel, asked: Parameters, body_bytes: int) -> Response:
    picture = await codings.parsed(request, body_bytes, bytes)
    return _response(served, await served.answer(picture, min_probability=asked.min_probability), asked)


def _response(served: ServedModel, result: Answer, asked: Parameters) -> Response:
    ranking = served.rank(result, asked.top_k, asked.min_probability)
    return Response(200, answer_text(served, ranking), JSON)


async def _answer_instances(
    request: Request, served: ServedModel, asked: Parameters, limits: tuple[int, int]
) -> Response:
    body_bytes, most = limits
    shape = served.artifact.input_shape
    instances = await codings.parsed(request, body_bytes, lambda body: read(load_object(body), shape, most, asked))
    least = instances.parameters.min_probability
    outcomes = await predict_many(served, instances.pictures, min_probability=least)
    return json_response({"predictions": _rows(served, outcomes, instances.parameters)})


def read(content: dict[str, Any], shape: tuple[int, int, int], most: int, asked: Parameters) -> Instances:
    """`shape` is the model's (H, W, C). Raises InvalidRequest or InvalidParameter."""
    rows = content.get("instances", content.get("inputs"))
    if isinstance(rows, str):
        rows = [rows]
    if not isinstance(rows, list) or not 1 <= len(rows) <= most:
        count = f"{len(rows):,}" if isinstance(rows, list) else shown(rows)
        raise InvalidRequest(f"`instances` must be a list of 1 to {most} pictures, got {count}")
    parameters = _parameters(content.get("parameters") or {}, asked)
    if isinstance(rows[0], list):
        return Instances(tensors.uint8_from_json(rows, (len(rows), *shape)), parameters)
    return Instances([_picture(row, i) for i, row in enumerate(rows)], parameters)


def _picture(row: Any, index: int) -> bytes:
    """{"b64": text}, the text alone, or either under the name of an input."""
    for _ in range(2):
        if isinstance(row, dict) and (key := next((key for key in PICTURE_KEYS if key in row), None)) is not None:
            row = row[key]
    if not isinstance(row, str):
        raise InvalidRequest(f'instances[{index}] must be {{"b64": "<base64 text>"}}')
    try:
        return from_base64(row)
    except InvalidRequest as err:
        raise InvalidRequest(f"instances[{index}]: {err}") from err


def _parameters(given: Any, asked: Parameters) -> Parameters:
    if not isinstance(given, dict):
        raise InvalidParameter("`parameters` must be an object")
    top_k = given.get("top_k", asked.top_k)
    least = given.get("min_probability", asked.min_probability)
    return checked(top_k, least)


def checked(top_k: Any, least: Any) -> Parameters:
    """Raises InvalidParameter."""
    if type(top_k) is not int or top_k < 1:
        raise InvalidParameter(f"top_k must be a whole number of at least 1, got {shown(top_k)}")
    number = isinstance(least, int | float) and not isinstance(least, bool) and 0 <= least <= 1
    if least is not None and least != "card" and not number:
        raise InvalidParameter(f"min_probability must be a number from 0 to 1, or `card`, got {shown(least)}")
    return Parameters(top_k, least)


def _rows(served: ServedModel, outcomes: Sequence[Answer | ClassifyError], asked: Parameters) -> list[dict[str, Any]]:
    """As many as there were instances, in order: so one that fails, fails all."""
    rows = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ClassifyError):
            raise type(outcome)(f"instances[{index}]: {outcome}") from outcome
        rows.append(predictions(outcome, served.rank(outcome, asked.top_k, asked.min_probability)))
    return rows
