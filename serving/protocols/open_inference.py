"""The Open Inference Protocol (V2) over REST: what tritonclient, KServe and MLServer's clients speak. Translation only.

Routes and bodies follow inference_rest.md of kserve/open-inference-protocol; tensors are read and written by
`inference_tensors`. The input is the artifact's `image`, or a BYTES tensor of encoded pictures.
"""

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving import __version__
from serving.edge.http1 import JSON, Headers, Request, Response, failure_headers, json_response
from serving.edge.router import Protocol, Route
from serving.errors import ClassifyError, InvalidRequest
from serving.operations import metrics
from serving.protocols import codings, inference_tensors, open_inference_openapi
from serving.protocols.answers import answer_one, model_of_path
from serving.protocols.inference_tensors import (
    INPUT,
    PROBABILITIES,
    UNFAMILIARITY,
    UNSURE,
    Answered,
    Column,
    Infer,
    Model,
    Wanted,
)
from serving.protocols.parsing import load_object
from serving.repository.answers import Answer
from serving.repository.many import predict_many
from serving.repository.models import Repository
from serving.repository.served import ServedModel

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters")
HEADER_LENGTH = b"inference-header-content-length"


def failure(err: ClassifyError) -> Response:
    """Clients of this protocol read the key `error`."""
    return json_response({"error": str(err)}, err.status, failure_headers(err))


OPEN_INFERENCE = Protocol("open_inference", failure, ("/v2",), open_inference_openapi.SCHEMAS)


class Limits(NamedTuple):
    body_bytes: int  # of a request, also when decompressed
    images: int  # in one request


class OpenInference:
    """The handlers. `repository` gives the models that are served now; `ready` raises Unavailable while one is not."""

    def __init__(self, repository: Callable[[], Repository], ready: Callable[[], None], limits: Limits):
        self._repository = repository
        self._ready = ready
        self._limits = limits

    def routes(self) -> list[Route]:
        describe = open_inference_openapi
        model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        get = [
            ("/v2", self.server, describe.server),
            ("/v2/health/live", self.live, describe.live),
            ("/v2/health/ready", self.ready, describe.ready),
            (model, self.model, describe.model),
            (version, self.model, describe.model_version),
            (f"{model}/ready", self.model_ready, describe.model_ready),
            (f"{version}/ready", self.model_ready, describe.model_version_ready),
            (f"{model}/config", self.config, describe.config),
            (f"{version}/config", self.config, describe.version_config),
        ]
        post = [
            (f"{model}/infer", self.infer, self._admit, self._limits.body_bytes, describe.infer),
            (f"{version}/infer", self.infer, self._admit, self._limits.body_bytes, describe.version_infer),
            ("/v2/repository/index", self.index, None, 64 * 1024, describe.index),
        ]
        return [
            *(
                Route(
                    "GET",
                    path,
                    handle,
                    protocol=OPEN_INFERENCE,
                    operation=operation,
                    open="/health/" in path,
                    probe="/health/" in path,
                )
                for path, handle, operation in get
            ),
            *(
                Route("POST", path, handle, max_bytes=size, admit=admit, protocol=OPEN_INFERENCE, operation=operation)
                for path, handle, admit, size, operation in post
            ),
        ]

    # What is served

    def server(self, request: Request) -> Response:
        return json_response({"name": "shortcut", "version": __version__, "extensions": EXTENSIONS})

    def live(self, request: Request) -> Response:
        return json_response({"live": True})

    def ready(self, request: Request) -> Response:
        self._ready()
        return json_response({"ready": True})

    def model(self, request: Request) -> Response:
        served = model_of_path(request, self._repository())
        versions = self._repository().models[served.artifact.name]
        outputs = {name: _shape(name, served) for name in _outputs(served)}
        return json_response(
            {
                "name": served.artifact.name,
                "versions": [str(version) for version in sorted(versions)],
                "platform": "onnx_onnxv1",
                "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *served.artifact.input_shape]}],
                "outputs": [
                    {"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in outputs.items()
                ],
            }
        )

    def model_ready(self, request: Request) -> Response:
        served = model_of_path(request, self._repository())
        served.check()
        return json_response({"name": served.artifact.name, "ready": True})

    def config(self, request: Request) -> Response:
        """Triton's extension: what perf_analyzer asks for."""
        served = model_of_path(request, self._repository())
        outputs = {name: _shape(name, served) for name in _outputs(served)}
        return json_response(
            {
                "name": served.artifact.name,
                "platform": "onnxruntime_onnx",
                "backend": "onnxruntime",
                "max_batch_size": self._limits.images,
                "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": list(served.artifact.input_shape)}],
                "output": [
                    {
                        "name": name,
                        "data_type": "TYPE_STRING" if kind == "BYTES" else f"TYPE_{kind}",
                        "dims": shape[1:] or [1],
                    }
                    for name, (kind, shape) in outputs.items()
                ],
            }
        )

    async def index(self, request: Request) -> Response:
        """Every version, and those that cannot be served with the reason."""
        asked = await codings.parsed(request, 64 * 1024, lambda body: load_object(body) if body.strip() else {})
        repository = self._repository()
        rows = [
            {
                "name": name,
                "version": str(version),
                "state": "READY",
                "reason": "" if versions[version].resident else "not in memory: loaded when somebody asks",
            }
            for name, versions in repository.models.items()
            for version in sorted(versions)
        ]
        if asked.get("ready") is not True:
            rows += [
                {"name": path.parent.name, "version": path.name, "state": "UNAVAILABLE", "reason": refusal.reason}
                for path, refusal in repository.refused.items()
            ]
        return json_response(rows)

    # Inference

    def _admit(self, request: Request) -> None:
        """Before the body is read: refuse what the head tells already."""
        codings.refuse_unknown(request)
        length = request.fields.get(HEADER_LENGTH)
        if length is not None and not (length.isdigit() and len(length) <= 19):
            raise InvalidRequest("Inference-Header-Content-Length must be a number of bytes")
        served = model_of_path(request, self._repository())
        served.check()
        request.context = served, None if length is None else int(length)

    def infer(self, request: Request) -> Coroutine[Any, Any, Response] | None:
        served, json_bytes = request.context
        artifact = served.artifact
        model = _model(artifact.input_shape, artifact.golden_unfamiliarity is not None, self._limits.images)
        # Only JSON takes long to parse: what follows it is looked at, not read.
        if not codings.is_quick(request, len(request.body) if json_bytes is None else json_bytes):
            return self._infer_later(request, lambda body: inference_tensors.read(body, json_bytes, model))
        body, request.body = request.body, b""
        asked = inference_tensors.read(body, json_bytes, model)
        if len(asked.pictures) > 1:
            return _infer_many(request, served, asked)
        answer_one(
            request, served, asked.pictures[0], asked.least, functools.partial(_response, request, served, asked)
        )
        return None

    async def _infer_later(self, request: Request, read: Callable[[bytes], Infer]) -> Response:
        asked = await codings.parsed(request, self._limits.body_bytes, read)
        return await _infer_many(request, request.context[0], asked)


async def _infer_many(request: Request, served: ServedModel, asked: Infer) -> Response:
    answers = await predict_many(served, asked.pictures, partial=False, min_probability=asked.least)
    if metrics.detailed:
        request.stages = answers[0].stages
    return _response(request, served, asked, *answers)


@functools.lru_cache(256)  # a request's own would cost as much as reading its picture's length
def _model(shape: tuple[int, int, int], with_unfamiliarity: bool, most: int) -> Model:
    known = (UNFAMILIARITY,) if with_unfamiliarity else ()
    return Model(shape, (PROBABILITIES, *known, UNSURE), most)


def _outputs(served: ServedModel) -> tuple[str, ...]:
    artifact = served.artifact
    return _model(artifact.input_shape, artifact.golden_unfamiliarity is not None, 1).outputs


def _shape(name: str, served: ServedModel) -> tuple[str, list[int]]:
    if name == PROBABILITIES:
        return "FP32", [-1, len(served.artifact.labels)]
    return ("BYTES" if name == UNSURE else "FP32"), [-1]


def _response(request: Request, served: ServedModel, asked: Infer, *answers: Answer) -> Response:
    reasons = [served.rank(answer, 1, asked.least).unsure or "" for answer in answers]
    artifact = served.artifact
    answered = Answered(artifact.name, artifact.version, asked.id, ",".join(reasons) if any(reasons) else "")
    columns = [_column(wanted, answers, reasons) for wanted in asked.outputs]
    body, json_bytes = inference_tensors.write(answered, asked.outputs, columns)
    headers = JSON if json_bytes is None else _binary(json_bytes)
    body, coding = codings.compressed(body, request)
    return Response(200, body, headers + coding)


@functools.lru_cache(256)  # of a model nearly always the same
def _binary(json_bytes: int) -> Headers:
    return (("content-type", "application/octet-stream"), (HEADER_LENGTH.decode(), str(json_bytes)))


def _column(wanted: Wanted, answers: Sequence[Answer], reasons: list[str]) -> Column:
    if wanted.name == UNSURE:
        return Column("BYTES", (len(answers),), reasons)
    if wanted.name == UNFAMILIARITY:
        return Column("FP32", (len(answers),), np.array([answer.unfamiliarity for answer in answers], np.float32))
    if len(answers) == 1 and not wanted.classes:
        row = answers[0].probabilities
        return Column("FP32", (1, len(row)), row)
    rows = np.stack([answer.probabilities for answer in answers])
    if wanted.classes:
        return inference_tensors.classification(rows, answers[0].labels, wanted.classes)
    return Column("FP32", rows.shape, rows)
