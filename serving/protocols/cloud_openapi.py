"""What OpenAPI says of the routes that SageMaker and Vertex AI ask for. Plain data."""

from typing import Any

from serving.edge.router import Operation
from serving.protocols.openapi import BINARY, INTEGER, STRING, array, failures, json_answer, reference, required

_FAILURE = "Failure"
_TAGS = ["Cloud platforms"]


def probe(operation: str) -> Operation:
    whole = {
        "operationId": operation,
        "summary": "Every model is ready",
        "tags": _TAGS,
        "responses": {"200": {"description": "ready"}, **failures(_FAILURE, "503")},
    }
    return lambda models: whole


def predict(operation: str) -> Operation:
    pictures = ("application/octet-stream", "image/jpeg", "image/png", "image/webp")
    whole = {
        "operationId": operation,
        "summary": "Classify one picture, or instances",
        "tags": _TAGS,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": reference("Instances")},
                **{kind: {"schema": BINARY} for kind in pictures},
            },
        },
        "responses": {
            "200": json_answer("An entry for each instance, in order; or the answer to one picture", "CloudAnswer"),
            **failures(_FAILURE, "400", "401", "404", "408", "413", "415", "422", "500", "503", "504"),
        },
    }
    return lambda models: whole


def execution_parameters(models: list[str]) -> dict[str, Any]:
    return {
        "operationId": "sagemakerExecutionParameters",
        "summary": "How batch transform should send",
        "tags": _TAGS,
        "responses": {
            "200": json_answer("How batch transform should send", "ExecutionParameters"),
            **failures(_FAILURE, "401"),
        },
    }


SCHEMAS: dict[str, Any] = {
    "Instances": required(instances=array({}, minItems=1))
    | {"properties": {"instances": array({}, minItems=1), "parameters": {"type": "object"}}},
    "CloudAnswer": {
        "type": "object",
        "properties": {"predictions": array({"type": "object"}), "model": STRING, "version": INTEGER, "unsure": STRING},
        "required": ["predictions"],
    },
    "ExecutionParameters": required(MaxConcurrentTransforms=INTEGER, BatchStrategy=STRING, MaxPayloadInMB=INTEGER),
}
