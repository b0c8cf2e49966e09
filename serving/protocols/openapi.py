"""The OpenAPI 3.1 document of the service, at /docs.json and drawn by Swagger at /docs. Plain data, no framework."""

from typing import Any

from serving import __version__
from serving.settings import Settings


def document(settings: Settings, models: list[str]) -> dict[str, Any]:
    """The document with this process's limits and model names filled in."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shortcut",
            "version": __version__,
            "description": "Small image classifiers, served. Failures are always `{error, code}`.",
        },
        "paths": {
            "/classify": {
                "post": {
                    "operationId": "classify",
                    "summary": "Classify one image",
                    "parameters": _parameters(models, _explain(settings.explain_grid)),
                    "requestBody": {
                        "required": True,
                        "description": f"PNG, JPEG, WebP, GIF, BMP or TIFF; at most {settings.max_body_bytes:,} bytes "
                        f"and {settings.max_pixels:,} pixels",
                        "content": {
                            "multipart/form-data": {"schema": _form({"type": "string", "format": "binary"})},
                            **{
                                kind: {"schema": {"type": "string", "format": "binary"}}
                                for kind in ("image/png", "image/jpeg", "application/octet-stream")
                            },
                        },
                    },
                    "responses": {
                        "200": _json("The most probable classes, best first", "Answer"),
                        **_failures("400", "401", "404", "408", "413", "415", "422", "500", "503", "504"),
                    },
                }
            },
            "/classify/batch": {
                "post": {
                    "operationId": "classifyBatch",
                    "summary": f"Classify up to {settings.max_batch_images} images",
                    "parameters": _parameters(models),
                    "requestBody": {
                        "required": True,
                        "content": {"multipart/form-data": {"schema": _form(_images(settings))}},
                    },
                    "responses": {
                        "200": _json("One result per image, in order; a bad image fails alone", "BatchAnswer"),
                        **_failures("400", "401", "404", "408", "413", "415", "422", "500", "503", "504"),
                    },
                }
            },
            "/models": {"get": _get("listModels", "What is served", "Models", "401")},
            "/models/{name}": {
                "get": {
                    **_get("describeModel", "One model: its versions and its card", "Model", "401", "404"),
                    "parameters": [{"name": "name", "in": "path", "required": True, "schema": _names(models)}],
                }
            },
            "/livez": {"get": _probe("isAlive", "The process answers")},
            "/readyz": {"get": _probe("isReady", "Every model is warm and matched its golden outputs", "503")},
            "/metrics": {"get": _probe("metrics", "Prometheus metrics", "401")},
        },
        "components": {"schemas": _SCHEMAS} | ({"securitySchemes": _KEY} if settings.api_keys else {}),
    } | ({"security": [{"key": []}]} if settings.api_keys else {})


_Row = tuple[str, str, dict[str, Any]]  # name, description, schema


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


def _images(settings: Settings) -> dict[str, Any]:
    bytes_ = {"type": "string", "format": "binary"}
    return {"type": "array", "items": bytes_, "minItems": 1, "maxItems": settings.max_batch_images}


def _json(description: str, schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


def _failures(*statuses: str) -> dict[str, Any]:
    return {status: _json(_FAILURES[status], "Failure") for status in statuses}


def _get(operation: str, summary: str, schema: str, *statuses: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": _json(summary, schema), **_failures(*statuses)},
    }


def _probe(operation: str, summary: str, *statuses: str) -> dict[str, Any]:
    text = {"description": summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"operationId": operation, "summary": summary, "responses": {"200": text, **_failures(*statuses)}}


_KEY = {"key": {"type": "http", "scheme": "bearer"}}
_FAILURES = {
    "400": "invalid_image or invalid_request",
    "401": "unauthorized",
    "404": "unknown_model",
    "408": "request_timeout",
    "413": "body_too_large or image_too_large",
    "415": "unsupported_format",
    "422": "invalid_parameter",
    "500": "internal_error",
    "503": "overloaded or unavailable",
    "504": "deadline_exceeded",
}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _with(schema: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return schema | {"properties": schema["properties"] | optional}


_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}
_PREDICTIONS = {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
_UNSURE = {
    "type": "string",
    "enum": ["low_probability", "no_figure", "several_figures"],
    "description": "why the answer should not be relied on; absent otherwise",
}
_VERSIONS = {"type": "array", "items": {"type": "object"}}
_EXAMPLE = {
    "model": "digits_cnn-mnist",
    "version": 1,
    "predictions": [{"label": "7", "index": 7, "probability": 0.998}, {"label": "2", "index": 2, "probability": 0.002}],
}
_SCHEMAS = {
    "Prediction": _object(label=_STRING, index=_INTEGER, probability={"type": "number", "minimum": 0, "maximum": 1}),
    "Answer": _with(
        _object(model=_STRING, version=_INTEGER, predictions=_PREDICTIONS),
        unsure=_UNSURE,
        seen=_STRING | {"description": "explain=1: the picture as the network saw it, a PNG in base64"},
        occlusion={
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "explain=1: for each part of that picture, by rows from the top, how far the probability "
            "of the best class falls when the part and its neighbours are covered with the picture's mean colour",
        },
        milliseconds={
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "explain=1: `decode`, `queue` and `compute` of the answer; `explain` of the map",
        },
    )
    | {"examples": [_EXAMPLE]},
    "BatchAnswer": _object(
        model=_STRING,
        version=_INTEGER,
        results={
            "type": "array",
            "items": {
                "oneOf": [
                    _with(_object(filename={"type": ["string", "null"]}, predictions=_PREDICTIONS), unsure=_UNSURE),
                    _object(filename={"type": ["string", "null"]}, error=_STRING, code=_STRING),
                ]
            },
        },
    ),
    "Models": _object(
        default=_STRING,
        models={"type": "array", "items": _object(name=_STRING, versions=_VERSIONS)},
        refused={"type": "array", "items": _object(name=_STRING, version=_INTEGER, error=_STRING)},
    ),
    "Model": _object(name=_STRING, default={"type": "boolean"}, versions=_VERSIONS, card={"type": "object"}),
    "Failure": _object(error=_STRING, code=_STRING),
}
