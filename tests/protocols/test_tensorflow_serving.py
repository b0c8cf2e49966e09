"""TensorFlow Serving's REST API: the requests of its documentation get the documented shapes."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Answer, Client

NAME = "digits_cnn-mnist"
SEVEN = {"b64": base64.b64encode(encode(digit("7"))).decode()}
PIXELS = np.asarray(digit("7"))[:, :, None].tolist()


def predict(service: Client, content: Any, path: str = f"/v1/models/{NAME}:predict") -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return service.post(path, body, "application/json")


@pytest.mark.parametrize("path", ["", "/versions/1"])
@pytest.mark.parametrize("instance", [SEVEN, PIXELS, {"image": PIXELS}, {"image": SEVEN}], ids=range(4))
def test_rows(service: Client, path: str, instance: Any) -> None:
    answer = predict(service, {"instances": [instance, instance]}, f"/v1/models/{NAME}{path}:predict").json()
    assert list(answer) == ["predictions"]
    assert np.argmax(answer["predictions"], axis=1).tolist() == [7, 7]


@pytest.mark.parametrize("inputs", [[PIXELS], {"image": [PIXELS]}, [SEVEN], {"image": SEVEN}], ids=range(4))
def test_columns(service: Client, inputs: Any) -> None:
    answer = predict(service, {"signature_name": "serving_default", "inputs": inputs}).json()
    assert list(answer) == ["outputs"]
    assert np.argmax(answer["outputs"], axis=1).tolist() == [7]


@pytest.mark.parametrize("verb", ["%3Apredict", ":Predict"])
def test_paths_match_in_either_case(service: Client, verb: str) -> None:
    assert predict(service, {"instances": [SEVEN]}, f"/V1/Models/{NAME}{verb}").status == 200


def test_doubt_stands_beside_the_predictions(service: Client) -> None:
    blank = {"b64": base64.b64encode(encode(digit("", (60, 60)))).decode()}
    assert predict(service, {"instances": [blank, SEVEN]}).json()["unsure"] == ["no_figure", None]


def test_status_and_metadata(service: Client) -> None:
    both = service.get("/v1/models/toy-colours").json()["model_version_status"]
    assert [(row["version"], row["state"]) for row in both] == [("2", "AVAILABLE"), ("1", "AVAILABLE")]
    assert both[0]["status"] == {"error_code": "OK", "error_message": ""}
    assert len(service.get("/v1/models/toy-colours/versions/1").json()["model_version_status"]) == 1
    metadata = service.get("/v1/models/toy-colours/versions/1/metadata").json()
    assert metadata["model_spec"] == {"name": "toy-colours", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    sizes = [dim["size"] for dim in signature["inputs"]["image"]["tensor_shape"]["dim"]]
    assert (signature["inputs"]["image"]["dtype"], sizes) == ("DT_UINT8", ["-1", "8", "8", "3"])
    assert signature["method_name"] == "tensorflow/serving/predict"


BAD: dict[str, Any] = {
    "no JSON": b"{",
    "neither": {},
    "both": {"instances": [SEVEN], "inputs": [SEVEN]},
    "none": {"instances": []},
    "too many": {"instances": [SEVEN] * 65},
    "mixed": {"instances": [SEVEN, PIXELS]},
    "no base64": {"instances": [{"b64": "!"}]},
    "no picture": {"instances": [{"b64": "aGVsbG8="}]},
    "another input": {"instances": [{"x": PIXELS}]},
    "another shape": {"instances": [PIXELS[1:]]},
    "text": {"instances": "x"},
    "another signature": {"instances": [SEVEN], "signature_name": "other"},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_request_is_400(service: Client, case: str) -> None:
    answer = predict(service, BAD[case])
    assert (answer.status, list(answer.json())) == (400, ["error"]), answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nobody", 404),
        ("GET", f"/v1/models/{NAME}/versions/7/metadata", 404),
        ("POST", "/v1/models/nobody:predict", 404),
        ("POST", f"/v1/models/{NAME}:regress", 400),
        ("GET", f"/v1/models/{NAME}/no/such/thing", 400),
        ("PUT", f"/v1/models/{NAME}", 405),
    ],
)
def test_refusals_have_the_protocols_shape(service: Client, method: str, path: str, status: int) -> None:
    answer = service.request(method, path)
    assert (answer.status, list(answer.json())) == (status, ["error"]), answer
