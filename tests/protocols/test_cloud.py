"""The contracts of Amazon SageMaker and Google Vertex AI, and what their environments change."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from serving.errors import StartError
from serving.platforms import Platform, detect, models_in
from tests.fixtures import toy
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Client, assert_failure

SEVEN = encode(digit("7"))
B64 = {"b64": base64.b64encode(SEVEN).decode()}
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def instances(service: Client, path: str, content: Any) -> Any:
    return service.post(path, json.dumps(content).encode(), "application/json")


def test_ping_and_execution_parameters(service: Client) -> None:
    assert (service.get("/ping").status, service.get("/ping").body) == (200, b"")
    assert service.get("/execution-parameters").json()["BatchStrategy"] == "SINGLE_RECORD"
    assert service.get("/health").status == 200


@pytest.mark.parametrize("path", ["/invocations", "/predict"])
@pytest.mark.parametrize("kind", ["image/png", "application/x-image", "application/octet-stream", None])
def test_picture_as_it_is(service: Client, path: str, kind: str | None) -> None:
    answer = service.post(path, SEVEN, kind).json()
    assert (answer["model"], answer["predictions"][0]["label"]) == ("digits_cnn-mnist", "7")


@pytest.mark.parametrize("path", ["/invocations", "/predict"])
def test_instances_are_answered_in_order(service: Client, path: str) -> None:
    one = {"b64": base64.b64encode(encode(digit("1"))).decode()}
    content = {"instances": [one, B64, {"image": B64}, B64["b64"]], "parameters": {"top_k": 1}}
    answer = instances(service, path, content).json()
    assert list(answer) == ["predictions"]
    assert [row["predictions"][0]["label"] for row in answer["predictions"]] == ["1", "7", "7", "7"]
    assert all(len(row["predictions"]) == 1 for row in answer["predictions"])


def test_custom_attributes_choose(service: Client) -> None:
    headers = {ATTRIBUTES: "trace=a b,model=toy-colours,version=1,top_k=2", "Accept": "application/json"}
    answer = service.request("POST", "/invocations", SEVEN, headers).json()
    assert (answer["model"], answer["version"], len(answer["predictions"])) == ("toy-colours", 1, 2)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({ATTRIBUTES: "model=nobody"}, 404, "unknown_model"),
        ({ATTRIBUTES: "top_k=x"}, 422, "invalid_parameter"),
        ({ATTRIBUTES: "min_probability=2"}, 422, "invalid_parameter"),
        ({"Accept": "text/csv"}, 415, "unsupported_format"),
        ({"Content-Type": "text/csv"}, 415, "unsupported_format"),
    ],
)
def test_bad_headers_are_refused(service: Client, headers: dict[str, str], status: int, code: str) -> None:
    assert_failure(service.request("POST", "/invocations", SEVEN, headers), status, code)


@pytest.mark.parametrize(
    "content",
    [{}, {"instances": []}, {"instances": [{}]}, {"instances": [7]}, {"instances": [B64, {"b64": "aGVsbG8="}]}],
)
def test_bad_instances_fail_all(service: Client, content: Any) -> None:
    answer = instances(service, "/predict", content)
    assert answer.status == 400
    if len(content.get("instances", ())) == 2:
        assert "instances[1]" in answer.json()["error"]


# The environment


def test_environment_of_neither(tmp_path: Path) -> None:
    assert detect({"PORT": "3000"}, tmp_path / "none") == Platform()


def test_environment_of_vertex(tmp_path: Path) -> None:
    wanted = {"AIP_HTTP_PORT": "9000", "AIP_HEALTH_ROUTE": "/alive", "AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict"}
    found = detect(wanted, tmp_path / "none")
    assert (found.port, found.vertex_health, found.vertex_predict) == (9000, "/alive", "/v1/endpoints/7:predict")
    assert not found.sagemaker
    with pytest.raises(StartError, match="AIP_PREDICT_ROUTE=x"):
        detect({"AIP_PREDICT_ROUTE": "x"}, tmp_path / "none")
    with pytest.raises(StartError, match="port"):
        detect({"AIP_HTTP_PORT": "70000"}, tmp_path / "none")


def test_environment_of_sagemaker(tmp_path: Path) -> None:
    assert detect({"SAGEMAKER_BIND_TO_PORT": "8081"}, tmp_path / "none").port == 8081
    (tmp_path / "ml").mkdir()
    assert detect({}, tmp_path / "ml") == Platform(sagemaker=True, port=8080)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_mounted_model_is_found_at_every_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    """A folder of models, one model, or one version: what people pack into model.tar.gz."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    version = toy.write_artifact(tmp_path / "models")
    folder = [tmp_path / "models", version.parent, version][level]
    found = models_in(folder)
    assert found is not None
    assert (found / "toy-colours" / "1" / "model.onnx").samefile(version / "model.onnx")
    assert models_in(tmp_path / "tmp") is None or level > 0
