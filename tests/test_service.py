import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from serving.images.picture import decode_image
from tests.fixtures import toy
from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.server import ROOT, Client, assert_failure, form

SEVEN = encode(digit("7"))


def toy_answer(seed: int) -> list[float]:
    matrix = toy.weights((8, 8, 3), 3, seed)
    return [float(p) for p in toy.expected(np.asarray(colours())[None], matrix)[0]]


# /classify


def test_a_digit_is_recognised_from_a_form_and_from_the_raw_body(service: Client) -> None:
    for answer in (service.post_form("/classify", ("image", "seven.png", SEVEN)), service.post("/classify", SEVEN)):
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert (body["model"], body["version"]) == ("digits_cnn-mnist", 1)
        assert body["predictions"][0]["label"] == "7"
        assert body["predictions"][0]["index"] == 7
        assert len(body["predictions"]) == 3


def test_dark_ink_on_a_big_sheet_is_the_same_digit(service: Client) -> None:
    sheet = digit("7", (600, 400), (0.4, 0.45), 0.5, "RGB", (20, 20, 90), (255, 255, 250))
    assert service.post("/classify", encode(sheet, "JPEG")).json()["predictions"][0]["label"] == "7"


def test_the_answer_is_what_onnx_runtime_gives_on_the_same_array(service: Client) -> None:
    session = ort.InferenceSession(ROOT / "models/digits_cnn-mnist/1/model.onnx", providers=["CPUExecutionProvider"])
    pixels = decode_image(encode(digit("3", (280, 280))), (28, 28, 1), "light_on_dark_centred")
    (expected,) = session.run(["probabilities"], {"image": pixels[None]})[0]
    stands = encode(Image.fromarray(pixels[..., 0]))  # as MNIST's figures do: it passes byte for byte
    predictions = service.post("/classify?top_k=10", stands).json()["predictions"]
    assert [p["index"] for p in predictions] == np.argsort(-expected, kind="stable").tolist()
    assert [p["probability"] for p in predictions] == pytest.approx(np.sort(expected)[::-1].tolist(), abs=1e-4)


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "text/plain", None])
def test_the_content_type_of_a_picture_is_advisory(service: Client, content_type: str | None) -> None:
    assert service.post("/classify", SEVEN, content_type).json()["predictions"][0]["label"] == "7"


@pytest.mark.parametrize(("query", "version", "seed"), [("", 2, 2), ("&version=1", 1, 0), ("&version=2", 2, 2)])
def test_model_and_version_are_chosen_by_the_query(service: Client, query: str, version: int, seed: int) -> None:
    body = service.post(f"/classify?model=toy-colours{query}&top_k=99", encode(colours())).json()
    assert (body["model"], body["version"]) == ("toy-colours", version)
    by_label = {p["label"]: p["probability"] for p in body["predictions"]}
    assert by_label == pytest.approx(dict(zip(toy.LABELS, toy_answer(seed), strict=True)), abs=1e-5)


@pytest.mark.parametrize(
    ("query", "status", "code", "told"),
    [
        ("top_k=0", 422, "invalid_parameter", "at least 1, got '0'"),
        ("top_k=x", 422, "invalid_parameter", "got 'x'"),
        ("top_k=", 422, "invalid_parameter", "top_k"),
        ("version=latest", 422, "invalid_parameter", "version"),
        ("version=-1", 422, "invalid_parameter", "version"),
        ("version=9", 404, "unknown_model", "there is 1"),
        ("model=nope", 404, "unknown_model", "digits_cnn-mnist, toy-colours"),
        ("model=..%2F..%2Fetc", 404, "unknown_model", "no model"),
    ],
)
def test_a_wrong_query_is_refused(service: Client, query: str, status: int, code: str, told: str) -> None:
    for path in ("/classify", "/classify/batch"):
        message = assert_failure(service.post_form(f"{path}?{query}", ("image", "a.png", SEVEN)), status, code)
        assert told in message


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "image/png", 400, "invalid_image"),
        (b"garbage", "image/png", 400, "invalid_image"),
        (SEVEN[:80], "image/png", 400, "invalid_image"),
        (b"GIF89a", "image/gif", 400, "invalid_image"),
        (b"http://127.0.0.1/x.png", "text/plain", 400, "invalid_request"),
        (b'{"image": "abc"}', "application/json", 415, "unsupported_format"),
        (b"<svg/>", "image/svg+xml", 415, "unsupported_format"),
        (b"\0" * 2_000_001, "image/png", 413, "body_too_large"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "invalid_request"),
        (b"anything", "multipart/form-data", 400, "invalid_request"),
        (*form(("picture", "a.png", SEVEN)), 400, "invalid_request"),
        (*form(("image", "a.png", SEVEN), ("image", "b.png", SEVEN)), 400, "invalid_request"),
        (*form(("image", "a.png", b"")), 400, "invalid_image"),
        (*form(("image", None, b"https://example.com/cat.png")), 400, "invalid_request"),
    ],
)
def test_a_bad_body_is_refused(service: Client, body: bytes, content_type: str, status: int, code: str) -> None:
    assert_failure(service.post("/classify", body, content_type), status, code)


def test_a_chunked_body_over_the_limit_is_refused_too(service: Client) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("POST", "/classify", iter([b"\0" * 100_000] * 21), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["code"] == "body_too_large"
    connection.close()


# /classify/batch


def test_a_batch_answers_in_order_and_a_bad_image_fails_alone(service: Client) -> None:
    answer = service.post_form(
        "/classify/batch?top_k=1",
        ("image", "7.png", SEVEN),
        ("image", "bad.png", b"junk"),
        ("image", None, encode(digit("1"))),
    )
    assert answer.status == 200
    first, second, third = answer.json()["results"]
    assert (first["filename"], first["predictions"][0]["label"]) == ("7.png", "7")
    assert (second["filename"], second["code"]) == ("bad.png", "invalid_image")
    assert set(second) == {"filename", "error", "code"}
    assert (third["filename"], third["predictions"][0]["label"]) == (None, "1")


def test_a_batch_of_only_bad_images_is_still_answered(service: Client) -> None:
    answer = service.post_form("/classify/batch", ("image", "a", b""), ("image", "b", b"http://x/"))
    assert answer.status == 200
    assert [result["code"] for result in answer.json()["results"]] == ["invalid_image", "invalid_request"]


def test_a_batch_gives_what_single_requests_give(service: Client) -> None:
    images = [encode(digit(str(i % 10), at=(0.5, 0.4 + i / 300))) for i in range(64)]
    parts = [("image", f"{i}.png", image) for i, image in enumerate(images)]
    results = service.post_form("/classify/batch", *parts).json()["results"]
    for image, result in list(zip(images, results, strict=True))[::7]:
        alone = service.post("/classify", image).json()["predictions"]
        for one, other in zip(alone, result["predictions"], strict=True):
            assert one["label"] == other["label"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_a_batch_over_the_limit_or_without_a_form_is_refused(service: Client) -> None:
    too_many = service.post_form("/classify/batch", *[("image", "a", SEVEN)] * 65)
    assert "65 images in one request; the limit is 64" in assert_failure(too_many, 400, "invalid_request")
    assert_failure(service.post("/classify/batch", SEVEN, "image/png"), 415, "unsupported_format")
    assert_failure(service.post_form("/classify/batch", ("other", "a", SEVEN)), 400, "invalid_request")


def test_many_clients_at_once_each_get_their_own_answer(service: Client) -> None:
    def ask(number: int) -> bool:
        answer = service.post("/classify", encode(digit(str(number % 10))))
        return answer.status == 200 and answer.json() == expected[number % 10]

    expected = [service.post("/classify", encode(digit(str(d)))).json() for d in range(10)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(300)))


# /models


def test_models_lists_what_is_served_and_how(service: Client) -> None:
    body = service.get("/models").json()
    assert body["default"] == "digits_cnn-mnist"
    by_name = {model["name"]: model["versions"] for model in body["models"]}
    assert [v["version"] for v in by_name["toy-colours"]] == [1, 2]
    (digits,) = by_name["digits_cnn-mnist"]
    assert digits["labels"] == list("0123456789")
    assert digits["input_shape"] == [28, 28, 1]
    assert digits["input_convention"] == "light_on_dark_centred"
    assert digits["provider"].endswith("ExecutionProvider")
    assert digits["provider_reason"]
    assert digits["metrics"]["accuracy"] > 0.96


def test_one_model_comes_with_its_card(service: Client) -> None:
    card = json.loads((ROOT / "models/digits_cnn-mnist/1/card.json").read_text())
    assert service.get("/models/digits_cnn-mnist").json()["card"] == card
    assert_failure(service.get("/models/nope"), 404, "unknown_model")


# Health, documents, everything else


def test_health_and_metrics(service: Client) -> None:
    for path in ("/livez", "/readyz", "/healthz"):
        assert service.get(path).status == 200
        assert service.request("HEAD", path).body == b""
    time.sleep(0.1)  # until every worker has told of the tests before
    before = requests_counted(service)
    for _ in range(5):
        service.post("/classify", SEVEN)
    time.sleep(0.1)
    assert requests_counted(service) == before + 5  # summed over the workers


def requests_counted(service: Client) -> float:
    text = service.get("/metrics").body.decode()
    (value,) = re.findall(
        r'^shortcut_requests_total{protocol="native",route="/classify",status="200"} (\S+)$', text, re.M
    )
    return float(value)


def test_a_scan_of_unknown_paths_adds_no_metrics(service: Client) -> None:
    service.get("/first-unknown")
    service.get("/metrics")
    lines = len(service.get("/metrics").body.splitlines())
    for i in range(30):
        assert_failure(service.get(f"/wp-admin/{i}"), 404, "not_found")
        service.get(f"/models/{i}")
    assert len(service.get("/metrics").body.splitlines()) <= lines + 17  # /models/{name} may be new, once


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/classify", "POST"),
        ("DELETE", "/models", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("OPTIONS", "/classify", "POST"),
        ("PUT", "/models/digits_cnn-mnist", "GET, HEAD"),
        ("POST", "/schema.json", None),
    ],
)
def test_a_wrong_method_is_405_with_what_is_allowed(
    service: Client, method: str, path: str, allowed: str | None
) -> None:
    answer = service.request(method, path)
    if allowed is None:
        assert answer.status in (404, 405)
        return
    assert_failure(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/nope", "/classify/", "//classify", "/models/a/b", "/static/../service.py", "/.env"])
def test_an_unknown_route_is_404_in_the_one_shape(service: Client, path: str) -> None:
    assert_failure(service.get(path), 404, "not_found")


def test_the_openapi_document_lists_the_documented_routes(service: Client) -> None:
    document = service.get("/docs.json").json()
    assert document["openapi"].startswith("3.")
    assert {"/classify", "/classify/batch", "/models", "/models/{name}", "/livez", "/readyz", "/metrics"} <= set(
        document["paths"]
    )
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


def test_pages_load_nothing_from_elsewhere(service: Client) -> None:
    for path in ("/", "/docs", "/models/digits_cnn-mnist"):
        page = service.request("GET", path, headers={"Accept": "text/html"})
        assert page.status == 200
        assert page.headers["content-type"].startswith("text/html")
        assert b"//" not in re.sub(rb"^\s*//.*$", b"", page.body)
        for used in re.findall(rb'(?:src|href)="([^"]+)"', page.body):
            assert service.get(urljoin(path, used.decode())).status == 200


def test_bentomls_own_schema_route_stays(service: Client) -> None:
    assert service.get("/schema.json").json()["name"] == "shortcut"
