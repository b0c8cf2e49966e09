"""The same pictures through every door: the same labels, and the same probabilities."""

import base64
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.http

from tests.fixtures.hostile import pictures as hostile_pictures
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Client, form

MODEL = "digits_cnn-mnist"
JSON = "application/json"
PICTURES = [
    encode(
        digit(str(i % 10), (28 + 9 * i, 28 + 7 * i), mode="RGB" if i % 3 else "L"),
        ("PNG", "JPEG", "WEBP", "BMP")[i % 4],
    )
    for i in range(20)
]
Probabilities = dict[str, float]


def b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def post_json(service: Client, path: str, content: object) -> dict:
    answer = service.post(path, json.dumps(content).encode(), JSON)
    assert answer.status == 200, answer
    return answer.json()


def of(predictions: list[dict]) -> Probabilities:
    return {one["label"]: one["probability"] for one in predictions}


def by_classify(service: Client) -> Iterator[Probabilities]:
    for picture in PICTURES:
        yield of(service.post("/classify?top_k=10", picture).json()["predictions"])


def by_batch(service: Client) -> Iterator[Probabilities]:
    parts = [("image", f"{i}", picture) for i, picture in enumerate(PICTURES)]
    for result in service.post_form("/classify/batch?top_k=10", *parts).json()["results"]:
        yield of(result["predictions"])


def by_bytes_tensor(service: Client) -> Iterator[Probabilities]:
    tensor = tritonclient.http.InferInput("image", [len(PICTURES)], "BYTES")
    tensor.set_data_from_numpy(np.array(PICTURES, dtype=object))
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        for row in client.infer(MODEL, [tensor]).as_numpy("probabilities"):
            yield {str(i): float(p) for i, p in enumerate(row)}


def by_classification(service: Client) -> Iterator[Probabilities]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(PICTURES)], "data": [b64(p) for p in PICTURES]}
    output = {"name": "probabilities", "parameters": {"classification": 10}}
    (answer,) = post_json(service, f"/v2/models/{MODEL}/infer", {"inputs": [tensor], "outputs": [output]})["outputs"]
    assert answer["shape"] == [len(PICTURES), 10]
    for row in np.reshape(answer["data"], (-1, 10)):
        yield {label: float(value) for value, _, label in (text.split(":") for text in row)}


def by_rows(service: Client) -> Iterator[Probabilities]:
    answer = post_json(service, f"/v1/models/{MODEL}:predict", {"instances": [{"b64": b64(p)} for p in PICTURES]})
    for row in answer["predictions"]:
        yield {str(i): p for i, p in enumerate(row)}


def by_hugging_face(service: Client) -> Iterator[Probabilities]:
    for picture in PICTURES:
        content = {"inputs": b64(picture), "parameters": {"top_k": 10}}
        yield {one["label"]: one["score"] for one in post_json(service, f"/hf/{MODEL}", content)}


def by_sagemaker(service: Client) -> Iterator[Probabilities]:
    for picture in PICTURES:
        headers = {"Content-Type": "image/png", "X-Amzn-SageMaker-Custom-Attributes": f"model={MODEL},top_k=10"}
        yield of(service.request("POST", "/invocations", picture, headers).json()["predictions"])


def by_vertex(service: Client) -> Iterator[Probabilities]:
    content = {"instances": [{"b64": b64(p)} for p in PICTURES], "parameters": {"top_k": 10}}
    for result in post_json(service, "/predict", content)["predictions"]:
        yield of(result["predictions"])


OTHERS = [by_batch, by_bytes_tensor, by_classification, by_rows, by_hugging_face, by_sagemaker, by_vertex]


@pytest.fixture(scope="module")
def expected(service: Client) -> list[Probabilities]:
    return list(by_classify(service))


@pytest.mark.parametrize("door", OTHERS, ids=lambda door: door.__name__)
def test_every_door_gives_the_same_answers(
    service: Client, expected: list[Probabilities], door: Callable[[Client], Iterator[Probabilities]]
) -> None:
    answers = list(door(service))
    assert len(answers) == len(PICTURES)
    for answer, reference in zip(answers, expected, strict=True):
        assert answer.keys() == reference.keys()
        assert max(answer, key=answer.__getitem__) == max(reference, key=reference.__getitem__)
        assert all(abs(answer[label] - reference[label]) <= 1e-6 for label in reference)


# The hostile corpus, each picture through one door that takes encoded pictures, or through each of them


def _bodies(picture: bytes) -> Iterator[tuple[str, bytes, str]]:
    text = b64(picture)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    yield f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode(), JSON
    yield f"/v1/models/{MODEL}:predict", json.dumps({"instances": [{"b64": text}]}).encode(), JSON
    yield f"/hf/{MODEL}", picture, "application/octet-stream"
    yield "/invocations", picture, "application/octet-stream"
    yield "/predict", json.dumps({"instances": [text]}).encode(), JSON


@pytest.mark.parametrize("doors", [1, pytest.param(5, marks=pytest.mark.thorough)])
def test_no_hostile_picture_is_an_internal_error(service: Client, doors: int) -> None:
    for number, case in enumerate(hostile_pictures()):
        bodies = [body for place, body in enumerate(_bodies(case.data)) if (place - number) % 5 < doors]
        assert len(bodies) == doors
        for path, body, kind in bodies:
            answer = service.post(path, body, kind)
            assert answer.status < 500, (case.name, path, answer.body[:200])
            if answer.status != 200:
                assert answer.json()["error"], (case.name, path)
    body, kind = form(("image", "seven.png", PICTURES[7]))
    assert service.post("/classify", body, kind).json()["predictions"][0]["label"] == "7"


# Every place of a request's JSON, with every kind of value in it

VALUES = (None, True, False, 0, -1, 0.5, 10**30, "", "x", "\0", [], [[]], [None], {}, {"b64": 5}, {"a": {"a": []}})


def _requests(text: str) -> Iterator[tuple[str, dict]]:
    """A body for each door that takes JSON, with each of its optional keys."""
    output = {"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}}
    for tensor in (
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]},
        {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "parameters": {"binary_data_size": 784}},
    ):
        parameters = {"min_probability": 0.5, "binary_data_output": False}
        content = {"id": "a", "parameters": parameters, "inputs": [tensor], "outputs": [output]}
        yield f"/v2/models/{MODEL}/infer", content
    for rows in ({"instances": [{"image": {"b64": text}}]}, {"inputs": {"image": [{"b64": text}]}}):
        yield f"/v1/models/{MODEL}:predict", {"signature_name": "serving_default", **rows}
    yield f"/hf/{MODEL}", {"inputs": text, "parameters": {"top_k": 1, "function_to_apply": "softmax"}}
    for path in ("/invocations", "/predict"):
        yield path, {"instances": [{"b64": text}, text], "parameters": {"top_k": 1, "min_probability": "card"}}


def _variants(content: object) -> Iterator[object]:
    """`content` with each of its values, itself among them, replaced by each of VALUES."""
    yield from VALUES
    if isinstance(content, list | dict):
        for key in range(len(content)) if isinstance(content, list) else list(content):
            for value in _variants(content[key]):
                changed = content.copy()
                changed[key] = value
                yield changed


def test_no_value_in_any_place_of_the_json_is_an_internal_error(service: Client) -> None:
    for path, content in _requests(b64(PICTURES[7])):
        for variant in _variants(content):
            answer = service.post(path, json.dumps(variant).encode(), JSON)
            assert answer.status < 500, (path, variant, answer.body[:200])
            if answer.status != 200:
                assert answer.json()["error"], (path, variant)
