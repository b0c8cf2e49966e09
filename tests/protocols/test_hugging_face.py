"""Hugging Face's image-classification task, asked by its own client and by hand."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Client

PATH = "/hf/digits_cnn-mnist"
SEVEN = encode(digit("7"))
TEXT = base64.b64encode(SEVEN).decode()


def test_its_client_classifies(service: Client, tmp_path: Path) -> None:
    (tmp_path / "seven.png").write_bytes(SEVEN)
    client = InferenceClient(model=f"http://127.0.0.1:{service.port}{PATH}")
    answers = client.image_classification(str(tmp_path / "seven.png"))
    assert (answers[0].label, len(answers)) == ("7", 5)
    assert [one.label for one in client.image_classification(SEVEN, top_k=1)] == ["7"]


@pytest.mark.parametrize("kind", ["application/json", "image/png", None])
def test_json_is_known_by_its_brace(service: Client, kind: str | None) -> None:
    body = json.dumps({"inputs": TEXT, "parameters": {"top_k": 2, "function_to_apply": "softmax"}}).encode()
    answer = service.post(PATH, body, kind).json()
    assert [set(one) for one in answer] == [{"label", "score"}] * 2
    assert answer[0]["label"] == "7"


def test_doubt_stands_in_a_header(service: Client) -> None:
    answer = service.post(PATH, encode(digit("", (60, 60))), "image/png")
    assert (answer.status, answer.headers["x-unsure"]) == (200, "no_figure")
    assert "x-unsure" not in service.post(PATH, SEVEN, "image/png").headers


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"hello", 400),
        ({"inputs": "!"}, 400),
        ({}, 400),
        ({"inputs": TEXT, "parameters": {"top_k": 0}}, 422),
        ({"inputs": TEXT, "parameters": {"function_to_apply": "sigmoid"}}, 422),
        ({"inputs": TEXT, "parameters": []}, 200),
        ({"inputs": TEXT, "parameters": [1]}, 422),
    ],
)
def test_bad_request_fails_in_the_protocols_shape(service: Client, content: Any, status: int) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = service.post(PATH, body)
    assert answer.status == status, answer
    if status != 200:
        assert list(answer.json()) == ["error"]


def test_unknown_model_and_path(service: Client) -> None:
    for path in ("/hf/nobody", "/hf/a/b"):
        answer = service.post(path, SEVEN)
        assert (answer.status, list(answer.json())) == (404, ["error"])
