"""Routes -> the OpenAPI 3.1 document of the service, at /docs.json and drawn by Swagger at /docs.

Each route brings its own description, and each protocol the schemas that they refer to. Plain data, no framework.
"""

import re
from collections.abc import Iterable
from typing import Any

from serving import __version__
from serving.edge.router import Protocol, Route


def document(
    routes: Iterable[Route], protocols: Iterable[Protocol], models: list[str], with_keys: bool
) -> dict[str, Any]:
    """`models` are the names of those that are served now; `with_keys`, where the service asks for keys."""
    paths: dict[str, Any] = {}
    for route in routes:
        if route.operation is not None:
            operation = _parameters_of(route.path) | route.operation(models)
            if with_keys and route.open:
                operation["security"] = []
            paths.setdefault(route.path, {})[route.method.lower()] = operation
    schemas = {name: schema for protocol in protocols for name, schema in protocol.schemas.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shortcut",
            "version": __version__,
            "description": "Small image classifiers, served.",
        },
        "paths": paths,
        "components": {"schemas": schemas} | ({"securitySchemes": _KEY} if with_keys else {}),
    } | ({"security": [{"key": []}]} if with_keys else {})


_KEY = {"key": {"type": "http", "scheme": "bearer"}}


def _parameters_of(path: str) -> dict[str, Any]:
    """For a route that says nothing of the parameters in its path."""
    names = re.findall(r"\{(\w+)\}", path)
    rows = [{"name": name, "in": "path", "required": True, "schema": STRING} for name in names]
    return {"parameters": rows} if rows else {}


# What descriptions are written with

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def required(**properties: Any) -> dict[str, Any]:
    """An object that has all of them."""
    return {"type": "object", "required": list(properties), "properties": properties}


def with_optional(schema: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return schema | {"properties": schema["properties"] | properties}


def array(items: dict[str, Any], **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def reference(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def json_answer(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": reference(schema)}}}


def failures(schema: str, *statuses: str) -> dict[str, Any]:
    """Responses for `statuses`, in the shape of `schema`."""
    return {status: json_answer(_MEANINGS[status], schema) for status in statuses}


_MEANINGS = {
    "400": "what was sent is no picture, or no request as it must be",
    "401": "a key is asked for, and none or a wrong one was sent",
    "404": "there is no such model or version",
    "405": "the route takes another method",
    "408": "the client was too slow",
    "413": "the body or the picture is too large",
    "415": "the format, or the type of the body, is not taken",
    "422": "a parameter is unknown or outside its range",
    "500": "internal error",
    "503": "the service is busy or cannot answer",
    "504": "not computed within the deadline",
}
