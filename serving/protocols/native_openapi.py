"""What OpenAPI says of this project's own protocol: its operations and the schemas of its answers. Plain data."""

from typing import Any

from serving.edge.router import Operation
from serving.protocols.openapi import (
    BINARY,
    INTEGER,
    STRING,
    array,
    failures,
    json_answer,
    reference,
    required,
    with_optional,
)

FAILURE = "Failure"
_Row = tuple[str, str, dict[str, Any]]  # name, description, schema
_ALL = ("400", "401", "404", "408", "413", "415", "422", "500", "503", "504")  # a request with a body may get


def classify(models: list[str], body_bytes: int, pixels: int, grid: int) -> dict[str, Any]:
    return {
        "operationId": "classify",
        "summary": "Classify one image",
        "parameters": _parameters(models, _explain(grid)),
        "requestBody": {
            "required": True,
            "description": f"PNG, JPEG, WebP, GIF, BMP or TIFF; at most {body_bytes:,} bytes and {pixels:,} pixels",
            "content": {
                "multipart/form-data": {"schema": _form(BINARY)},
                **{kind: {"schema": BINARY} for kind in ("image/png", "image/jpeg", "application/octet-stream")},
            },
        },
        "responses": {
            "200": json_answer("The most probable classes, best first", "Answer"),
            **failures(FAILURE, *_ALL),
        },
    }


def classify_batch(models: list[str], images: int) -> dict[str, Any]:
    return {
        "operationId": "classifyBatch",
        "summary": f"Classify up to {images} images",
        "parameters": _parameters(models),
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": _form(array(BINARY, minItems=1, maxItems=images))}},
        },
        "responses": {
            "200": json_answer("One result per image, in order; a bad image fails alone", "BatchAnswer"),
            **failures(FAILURE, *_ALL),
        },
    }


def list_models(models: list[str]) -> dict[str, Any]:
    return _get("listModels", "What is served", "Models", "401")


def describe_model(models: list[str]) -> dict[str, Any]:
    return {
        **_get("describeModel", "One model: its versions and its card", "Model", "401", "404"),
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": _names(models)}],
    }


def probe(operation: str, summary: str, *statuses: str) -> Operation:
    """Of a route that answers text."""
    text = {"description": summary, "content": {"text/plain": {"schema": STRING}}}
    whole = {"operationId": operation, "summary": summary, "responses": {"200": text, **failures(FAILURE, *statuses)}}
    return lambda models: whole


def _parameters(models: list[str], *more: _Row) -> list[dict[str, Any]]:
    number = {"type": "integer", "maximum": 10**19 - 1}
    rows: tuple[_Row, ...] = (
        ("model", "which model; left out, the default", _names(models)),
        ("version", "which version; left out, the latest that is loaded", number | {"minimum": 0}),
        ("top_k", "how many classes", number | {"minimum": 1, "default": 3}),
        (
            "min_probability",
            "below it the answer says `unsure`; `card` for the model's own threshold",
            {"oneOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "card"}]},
        ),
        *more,
    )
    return [{"name": name, "in": "query", "description": text, "schema": schema} for name, text, schema in rows]


def _explain(grid: int) -> _Row:
    cost = f"; costs as much as {grid * grid + 1} images" if grid else "; not answered here"
    text = "1: say also what the network saw, where it looked (an occlusion map) and where the time went" + cost
    return "explain", text, {"type": "integer", "enum": [0, 1] if grid else [0], "default": 0}


def _names(models: list[str]) -> dict[str, Any]:
    return {"type": "string", "enum": models}


def _form(image: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["image"], "properties": {"image": image}}


def _get(operation: str, summary: str, schema: str, *statuses: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": json_answer(summary, schema), **failures(FAILURE, *statuses)},
    }


_PREDICTIONS = array(reference("Prediction"))
_UNSURE = {
    "type": "string",
    "enum": ["low_probability", "no_figure", "several_figures", "unfamiliar"],
    "description": "why the answer should not be relied on; absent otherwise",
}
_VERSIONS = array({"type": "object"})
_FILENAME = {"type": ["string", "null"]}
_EXAMPLE = {
    "model": "digits_cnn-mnist",
    "version": 1,
    "predictions": [{"label": "7", "index": 7, "probability": 0.998}, {"label": "2", "index": 2, "probability": 0.002}],
}
SCHEMAS: dict[str, Any] = {
    "Prediction": required(label=STRING, index=INTEGER, probability={"type": "number", "minimum": 0, "maximum": 1}),
    "Answer": with_optional(
        required(model=STRING, version=INTEGER, predictions=_PREDICTIONS),
        unsure=_UNSURE,
        seen=STRING | {"description": "explain=1: the picture as the network saw it, a PNG in base64"},
        occlusion=array(
            array({"type": "number"}),
            description="explain=1: for each part of that picture, by rows from the top, how far the probability "
            "of the best class falls when the part and its neighbours are covered with the picture's mean colour",
        ),
        milliseconds={
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "explain=1: `decode`, `queue` and `compute` of the answer; `explain` of the map",
        },
    )
    | {"examples": [_EXAMPLE]},
    "BatchAnswer": required(
        model=STRING,
        version=INTEGER,
        results=array(
            {
                "oneOf": [
                    with_optional(required(filename=_FILENAME, predictions=_PREDICTIONS), unsure=_UNSURE),
                    required(filename=_FILENAME, error=STRING, code=STRING),
                ]
            }
        ),
    ),
    "Models": required(
        default=STRING,
        models=array(required(name=STRING, versions=_VERSIONS)),
        refused=array(required(name=STRING, version=INTEGER, error=STRING)),
    ),
    "Model": required(name=STRING, default={"type": "boolean"}, versions=_VERSIONS, card={"type": "object"}),
    FAILURE: required(error=STRING, code=STRING),
}
