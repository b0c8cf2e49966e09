"""The Open Inference Protocol, asked by Triton's own client and by hand."""

import asyncio
import base64
import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tritonclient.http import aio

from serving.errors import InvalidRequest
from serving.protocols import inference_tensors
from serving.protocols.inference_tensors import Model
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Answer, Client

NAME = "digits_cnn-mnist"
SEVEN = encode(digit("7"))
PIXELS = np.asarray(digit("7"))[None, :, :, None]
COLOURS = np.random.default_rng(3).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def client(service: Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        yield client


def tensor(values: np.ndarray, binary: bool = True) -> triton.InferInput:
    kind = "UINT8" if values.dtype == np.uint8 else "BYTES"
    made = triton.InferInput("image", list(values.shape), kind)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def ask(service: Client, content: Any, path: str = f"/v2/models/{NAME}/infer", **headers: str) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return service.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})


def pixels(data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": shape or [1, 28, 28, 1], "data": data, **more}]}


def test_client_finds_what_is_served(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready("toy-colours", "2")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    model = client.get_model_metadata("toy-colours")
    assert model["versions"] == ["1", "2"]
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert model["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    assert client.get_model_config("toy-colours", "1")["input"][0]["dims"] == [8, 8, 3]
    rows = {(row["name"], row["version"]): row["state"] for row in client.get_model_repository_index()}
    assert rows == {(NAME, "1"): "READY", ("toy-colours", "1"): "READY", ("toy-colours", "2"): "READY"}


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_client_gets_the_same_answers_in_every_form(
    client: triton.InferenceServerClient, binary: bool, coding: str | None
) -> None:
    reference = client.infer("toy-colours", [tensor(COLOURS)], "2").as_numpy("probabilities")
    assert reference.shape == (3, 3)
    answer = client.infer(
        "toy-colours",
        [tensor(COLOURS, binary)],
        "2",
        outputs=[triton.InferRequestedOutput("probabilities", binary_data=binary)],
        request_id="a 7",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert answer.get_response()["id"] == "a 7"
    assert answer.get_response()["model_version"] == "2"
    np.testing.assert_array_equal(answer.as_numpy("probabilities"), reference)


def test_encoded_pictures_and_pixels_are_answered_alike(client: triton.InferenceServerClient) -> None:
    by_pixels = client.infer("toy-colours", [tensor(COLOURS)]).as_numpy("probabilities")
    files = [encode(Image.fromarray(image)) for image in COLOURS]
    texts = [base64.b64encode(file) for file in files]
    for values, binary in ((files, True), (texts, False)):
        answer = client.infer("toy-colours", [tensor(np.array(values, object), binary)])
        np.testing.assert_array_equal(answer.as_numpy("probabilities"), by_pixels)


def test_classification_names_the_best(client: triton.InferenceServerClient) -> None:
    output = triton.InferRequestedOutput("probabilities", class_count=2)
    (row,) = client.infer(NAME, [tensor(PIXELS)], outputs=[output]).as_numpy("probabilities")
    value, index, label = row[0].decode().split(":")
    assert (index, label) == ("7", "7")
    assert float(value) > float(row[1].decode().split(":")[0])


def test_doubt_is_told(client: triton.InferenceServerClient) -> None:
    blank = encode(digit("", (60, 60)))
    outputs = [triton.InferRequestedOutput("unsure")]
    answer = client.infer(NAME, [tensor(np.array([blank, SEVEN], object))], outputs=outputs)
    assert answer.as_numpy("unsure").tolist() == [b"no_figure", b""]
    assert answer.get_response()["parameters"] == {"unsure": "no_figure,"}


def test_asynchronous_client(service: Client) -> None:
    async def infer() -> np.ndarray:
        async with aio.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
            assert await client.is_model_ready(NAME)
            answer = await client.infer(NAME, [tensor(PIXELS)])
            found: np.ndarray = answer.as_numpy("probabilities")
            return found

    assert asyncio.run(infer()).argmax() == 7


def test_json_data_may_be_nested_or_flat(service: Client) -> None:
    nested, flat = (ask(service, pixels(data)).json() for data in (PIXELS.tolist(), PIXELS.ravel().tolist()))
    assert nested == flat
    assert np.argmax(nested["outputs"][0]["data"]) == 7


def test_null_is_as_good_as_nothing(service: Client) -> None:
    """As MLServer's own types are written to JSON."""
    plain, nulls = pixels(FLAT), pixels(FLAT, parameters=None) | {"id": None, "parameters": None, "outputs": None}
    assert ask(service, nulls).json() == ask(service, plain).json()


@pytest.mark.parametrize("body", [PIXELS.tobytes(), SEVEN, len(SEVEN).to_bytes(4, "little") + SEVEN])
def test_raw_request_is_one_picture(service: Client, body: bytes) -> None:
    answer = ask(service, body, Inference_Header_Content_Length="0")
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.body[:length])["outputs"][0]["parameters"]["binary_data_size"] == 40
    assert np.frombuffer(answer.body[length:], "<f4").argmax() == 7


FLAT = PIXELS.ravel().tolist()
BAD: dict[str, tuple[Any, int]] = {
    "no JSON": (b"{", 400),
    "a list": ([], 400),
    "no inputs": ({}, 400),
    "two inputs": ({"inputs": [{}, {}]}, 400),
    "another input": ({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "data": [1]}]}, 400),
    "another type": ({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": FLAT}]}, 400),
    "another shape": (pixels(FLAT, [1, 1, 28, 28]), 400),
    "a negative size": (pixels(FLAT, [-1, 28, 28, 1]), 400),
    "a huge size": (pixels([1], [2**62, 28, 28, 1]), 400),
    "too many": (pixels([1], [65, 28, 28, 1]), 400),
    "none": (pixels([], [0, 28, 28, 1]), 400),
    "too few numbers": (pixels(FLAT[1:]), 400),
    "a number too large": (pixels([256, *FLAT[1:]]), 400),
    "a fraction": (pixels([0.5, *FLAT[1:]]), 400),
    "ragged rows": (pixels([[FLAT[1:], [0]]]), 400),
    "size without data": (pixels(None, binary_data_size=784), 400),
    "an unknown output": ({**pixels(FLAT), "outputs": [{"name": "y"}]}, 400),
    "an id that is no text": ({**pixels(FLAT), "id": 7}, 400),
    "an id with half a character": ({**pixels(FLAT), "id": "\ud800"}, 400),
    "thousands of lists": (b"[" * 100_000, 400),
    "an encoded picture that is none": (
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}]},
        400,
    ),
    "a picture as it is": (
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["\x89PNG"]}]},
        400,
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_request_fails_in_the_protocols_shape(service: Client, case: str) -> None:
    content, status = BAD[case]
    answer = ask(service, content)
    assert answer.status == status, answer
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nobody", 404),
        ("GET", f"/v2/models/{NAME}/versions/9", 404),
        ("GET", f"/v2/models/{NAME}/versions/x", 404),
        ("POST", "/v2/models/nobody/infer", 404),
        ("GET", "/v2/nothing", 404),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_refusals_have_the_protocols_shape(service: Client, method: str, path: str, status: int) -> None:
    answer = service.request(method, path)
    assert (answer.status, list(answer.json())) == (status, ["error"])


def test_bodies_are_bounded_also_when_decompressed(service: Client) -> None:
    bomb = gzip.compress(bytes(80 * 1024 * 1024), 9)
    answer = ask(service, bomb, Content_Encoding="gzip")
    assert (answer.status, list(answer.json())) == (413, ["error"])
    assert ask(service, b"no gzip", Content_Encoding="gzip").status == 400
    assert ask(service, gzip.compress(b"{}")[:-4], Content_Encoding="gzip").status == 400
    assert ask(service, b"{}", Content_Encoding="br").status == 415
    bare = zlib.compressobj(wbits=-15)
    raw = bare.compress(json.dumps(pixels(FLAT)).encode()) + bare.flush()
    assert ask(service, raw, Content_Encoding="deflate").status == 200
    assert ask(service, b"{}", Inference_Header_Content_Length="3").status == 400
    assert ask(service, b"{}", Inference_Header_Content_Length="-1").status == 400


# Properties of the reader

MODEL = Model((2, 2, 1), ("probabilities", "unsure"), 4)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "datatype", "shape", "data", "parameters", "binary_data_size"]), inner
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.binary(max_size=20))
def test_any_json_is_read_or_refused(content: Any, tail: bytes) -> None:
    head = json.dumps({"inputs": [content], "outputs": content}).encode()
    for length in (None, len(head), 0):
        with contextlib.suppress(InvalidRequest):
            inference_tensors.read(head + (b"" if length is None else tail), length, MODEL)


@given(st.integers(1, 4), st.data())
def test_binary_and_json_tensors_are_read_alike(count: int, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=4 * count, max_size=4 * count))
    shape = [count, 2, 2, 1]
    one: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": shape}
    head = json.dumps({"inputs": [one | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    binary = inference_tensors.read(head + raw, len(head), MODEL).pictures
    text = json.dumps({"inputs": [one | {"data": list(raw)}]}).encode()
    written = inference_tensors.read(text, None, MODEL).pictures
    np.testing.assert_array_equal(binary, written)
    assert np.asarray(binary).tobytes() == raw
