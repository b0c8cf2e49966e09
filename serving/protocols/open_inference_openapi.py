"""What OpenAPI says of the Open Inference Protocol's routes and bodies. Plain data."""

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

_FAILURE = "InferenceFailure"
_BODY = ("400", "401", "404", "408", "413", "415", "422", "500", "503", "504")


def _get(operation: str, summary: str, schema: str, *statuses: str) -> Operation:
    whole = {
        "operationId": operation,
        "summary": summary,
        "tags": ["Open Inference Protocol"],
        "responses": {"200": json_answer(summary, schema), **failures(_FAILURE, *statuses)},
    }
    return lambda models: whole


def _infer(operation: str) -> Operation:
    answer = {
        "description": "The outputs; those that were asked for as binary follow the JSON",
        "content": {
            "application/json": {"schema": reference("InferenceResponse")},
            "application/octet-stream": {"schema": BINARY},
        },
    }
    whole = {
        "operationId": operation,
        "summary": "Classify pictures, given as pixels or as encoded files",
        "description": "The input `image` is UINT8 (N, H, W, C), or BYTES (N) with a picture's file in each element: "
        "binary, or base64 in JSON. The body may be compressed with gzip or deflate. With "
        "`Inference-Header-Content-Length: 0` the body is one picture without any JSON.",
        "tags": ["Open Inference Protocol"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": reference("InferenceRequest")},
                "application/octet-stream": {"schema": BINARY},
            },
        },
        "responses": {"200": answer, **failures(_FAILURE, *_BODY)},
    }
    return lambda models: whole


server = _get("inferenceServer", "The server and its extensions", "InferenceServer", "401")
live = _get("inferenceLive", "The process answers", "InferenceLive")
ready = _get("inferenceReady", "Every model is ready", "InferenceReady", "503")
model = _get("inferenceModel", "A model's inputs and outputs", "InferenceModel", "401", "404", "503")
model_version = _get("inferenceModelVersion", "A version's inputs and outputs", "InferenceModel", "401", "404", "503")
model_ready = _get("inferenceModelReady", "A model is ready", "InferenceModelReady", "401", "404", "503")
model_version_ready = _get("inferenceVersionReady", "A version is ready", "InferenceModelReady", "401", "404", "503")
config = _get("inferenceConfig", "A model's configuration, as Triton says it", "InferenceConfig", "401", "404", "503")
version_config = _get(
    "inferenceVersionConfig", "A version's, as Triton says it", "InferenceConfig", "401", "404", "503"
)
infer = _infer("infer")
version_infer = _infer("inferVersion")


def index(models: list[str]) -> dict[str, Any]:
    rows = array(required(name=STRING, version=STRING, state=STRING, reason=STRING))
    return {
        "operationId": "inferenceIndex",
        "summary": "Every model and version",
        "tags": ["Open Inference Protocol"],
        "requestBody": {
            "content": {
                "application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}
            }
        },
        "responses": {
            "200": {"description": "Every model and version", "content": {"application/json": {"schema": rows}}},
            **failures(_FAILURE, "400", "401", "408", "413", "415"),
        },
    }


_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_TENSOR = required(name=STRING, datatype=STRING, shape=array(INTEGER))
_WITH_DATA = with_optional(_TENSOR, parameters=_PARAMETERS, data=array({}))
SCHEMAS: dict[str, Any] = {
    "InferenceServer": required(name=STRING, version=STRING, extensions=array(STRING)),
    "InferenceLive": required(live={"type": "boolean"}),
    "InferenceReady": required(ready={"type": "boolean"}),
    "InferenceModelReady": required(name=STRING, ready={"type": "boolean"}),
    "InferenceModel": required(
        name=STRING, versions=array(STRING), platform=STRING, inputs=array(_TENSOR), outputs=array(_TENSOR)
    ),
    "InferenceConfig": required(
        name=STRING,
        platform=STRING,
        backend=STRING,
        max_batch_size=INTEGER,
        input=array({"type": "object"}),
        output=array({"type": "object"}),
    ),
    "InferenceRequest": with_optional(
        required(inputs=array(_WITH_DATA, maxItems=1)),
        id=STRING,
        parameters=_PARAMETERS,
        outputs=array(with_optional(required(name=STRING), parameters=_PARAMETERS)),
    ),
    "InferenceResponse": with_optional(
        required(
            model_name=STRING,
            model_version=STRING,
            outputs=array(_WITH_DATA),
        ),
        id=STRING,
        parameters=_PARAMETERS,
    ),
    "InferenceFailure": required(error=STRING),
}
