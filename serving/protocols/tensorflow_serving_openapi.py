"""What OpenAPI says of TensorFlow Serving's routes and bodies. Plain data."""

from typing import Any

from serving.edge.router import Operation
from serving.protocols.openapi import STRING, array, failures, json_answer, reference, required

_FAILURE = "TensorflowFailure"
_TAGS = ["TensorFlow Serving"]


def _get(operation: str, summary: str, schema: str) -> Operation:
    whole = {
        "operationId": operation,
        "summary": summary,
        "tags": _TAGS,
        "responses": {"200": json_answer(summary, schema), **failures(_FAILURE, "401", "404", "503")},
    }
    return lambda models: whole


def status(of: str) -> Operation:
    return _get(f"tensorflowStatus{of}", "Which versions are served", "TensorflowStatus")


def metadata(of: str) -> Operation:
    return _get(f"tensorflowMetadata{of}", "The model's signature", "TensorflowMetadata")


def predict(of: str) -> Operation:
    whole = {
        "operationId": f"tensorflowPredict{of}",
        "summary": "Classify pictures, given as pixels or as base64",
        "tags": _TAGS,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference("TensorflowRequest")}},
        },
        "responses": {
            "200": json_answer("A row of probabilities for each picture", "TensorflowPredictions"),
            **failures(_FAILURE, "400", "401", "404", "408", "413", "500", "503", "504"),
        },
    }
    return lambda models: whole


SCHEMAS: dict[str, Any] = {
    "TensorflowStatus": required(
        model_version_status=array(required(version=STRING, state=STRING, status={"type": "object"}))
    ),
    "TensorflowMetadata": required(model_spec={"type": "object"}, metadata={"type": "object"}),
    "TensorflowRequest": {
        "type": "object",
        "properties": {"signature_name": STRING, "instances": {"type": "array", "items": {}}, "inputs": {}},
    },
    "TensorflowPredictions": {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": {}},
            "outputs": {},
            "unsure": array({"type": ["string", "null"]}, description="why an answer should not be relied on"),
        },
    },
    "TensorflowFailure": required(error=STRING),
}
