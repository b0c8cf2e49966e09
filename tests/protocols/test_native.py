"""However a request is framed, cut or abandoned, the answer is the same; what it means is read from all its parts."""

import base64
import gzip
import io
import json
import select
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from PIL import Image

from serving.protocols import native
from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, digit, encode, with_chunks
from tests.fixtures.server import Client, assert_failure, form, wait_until

SEVEN = encode(digit("7"))
JSON = "application/json"


def raw(client: Client, sent: bytes, answers: int) -> list[tuple[bytes, bytes]]:
    """(status line, body) of each answer to bytes sent in one go over one connection."""
    with closing(socket.create_connection(("127.0.0.1", client.port), timeout=60)) as connection:
        connection.sendall(sent)
        stream = connection.makefile("rb")
        found = []
        for _ in range(answers):
            status = stream.readline()
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            found.append((status, stream.read(length)))
        return found


def post(body: bytes, *headers: str, path: str = "/classify") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: t", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(body: bytes, *headers: str, path: str = "/classify") -> bytes:
    """The same request with a body of unknown length."""
    lines = [f"POST {path} HTTP/1.1", "Host: t", "Transfer-Encoding: chunked", *headers, "", ""]
    parts = [b"%x\r\n%s\r\n" % (len(body), body)] if body else []
    return "\r\n".join(lines).encode() + b"".join([*parts, b"0\r\n\r\n"])


FORM, FORM_TYPE = form(("image", "seven.png", SEVEN))
TWO, _ = form(("image", "a.png", SEVEN), ("image", "b.png", SEVEN))
OTHER, _ = form(("picture", "a.png", SEVEN))
CASES = [
    (SEVEN, "image/png", ""),
    (SEVEN, JSON, ""),
    (SEVEN, "", "?top_k=2"),
    (FORM, FORM_TYPE, "?model=digits_cnn-mnist&version=1"),
    (TWO, FORM_TYPE, ""),
    (OTHER, FORM_TYPE, ""),
    (FORM[:-10], FORM_TYPE, ""),
    (FORM, "multipart/form-data", ""),
    (encode(colours()), "image/png", "?model=toy-colours&top_k=3"),
    (encode(colours((300, 200)), "JPEG"), "image/jpeg", "?model=toy-colours"),  # small file, large picture
    (b"", "", ""),
    (b"hello", "text/plain", ""),
    (b"hello", "image/png", ""),
    (b"{}", JSON, ""),
    (b"http://example.com/a.png", "", ""),
    (b"%PDF-1.7", "", ""),
    (SEVEN[:-20], "image/png", ""),
    (SEVEN, "", "?top_k=0"),
    (SEVEN, "", "?model=nobody"),
    (SEVEN, "", "?version=9"),
    (SEVEN, "", "?version=x"),
    (SEVEN, "", "?"),
]


@pytest.mark.parametrize(("body", "content_type", "query"), CASES)
def test_both_ways_say_the_same(service: Client, body: bytes, content_type: str, query: str) -> None:
    headers = [f"Content-Type: {content_type}"] if content_type else []
    whole, in_chunks = (way(body, *headers, path=f"/classify{query}") for way in (post, chunked))
    ((status, answer),) = raw(service, whole, 1)
    assert [(status, answer)] == raw(service, in_chunks, 1)
    assert json.loads(answer)


def test_the_answer_has_the_same_headers(service: Client) -> None:
    kept = service.post("/classify", SEVEN, "image/png").headers
    last = service.request("POST", "/classify", SEVEN, {"Connection": "close"}).headers
    assert kept.keys() == last.keys() - {"connection"}
    assert kept["content-type"] == last["content-type"] == JSON


def test_pipelined_requests_are_answered_in_turn_whichever_way_each_goes(service: Client) -> None:
    ways = [post(SEVEN), chunked(SEVEN), post(b"junk"), post(SEVEN, path="/classify?top_k=1"), chunked(b"junk")]
    answers = raw(service, b"".join(ways), len(ways))
    assert [status.split()[1] for status, _ in answers] == [b"200", b"200", b"400", b"200", b"400"]
    assert len(json.loads(answers[3][1])["predictions"]) == 1


def test_a_body_in_pieces_is_put_together(service: Client) -> None:
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=60)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(SEVEN):
            connection.sendall(bytes([byte]))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_form_fields_count_like_the_query(service: Client, path: str) -> None:
    picture = ("image", "a.png", encode(colours()))
    answer = service.post_form(path, picture, ("model", None, b"toy-colours"), ("top_k", None, b"1"))
    body = answer.json()
    assert (answer.status, body["model"]) == (200, "toy-colours")
    (result,) = body.get("results", [body])
    assert len(result["predictions"]) == 1
    same = service.post_form(f"{path}?model=toy-colours&version=1", ("version", None, b"1"), picture)
    assert same.json()["version"] == 1


@pytest.mark.parametrize(
    ("query", "field", "told"),
    [
        ("?model=digits_cnn-mnist", ("model", None, b"toy-colours"), "in the query and in the form"),
        ("?top_k=2", ("top_k", None, b"1"), "in the query and in the form"),
        ("?top_k=3", ("top_k", None, b"5"), "in the query and in the form"),  # 3 is the default
        ("?explain=0", ("explain", None, b"1"), "in the query and in the form"),
        ("?top_k=", ("model", None, b"toy-colours"), "top_k is empty"),
        ("", ("top_k", None, b""), "top_k is empty"),
        ("", ("model_name", None, b"toy-colours"), "the form field 'model_name' is not known; there is model"),
        ("?model_name=x", ("top_k", None, b"1"), "the query parameter 'model_name' is not known"),
        ("?top_k=1&top_k=2", ("model", None, b"toy-colours"), "twice"),
        ("?min_probability=2", ("top_k", None, b"1"), "from 0 to 1"),
        ("?min_probability=nan", ("top_k", None, b"1"), "from 0 to 1"),
    ],
)
def test_what_is_unknown_or_contradicts_is_refused_by_name(
    service: Client, query: str, field: tuple[str, None, bytes], told: str
) -> None:
    answer = service.post_form(f"/classify{query}", ("image", "a.png", SEVEN), field)
    assert told in assert_failure(answer, 422, "invalid_parameter")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "told"),
    [
        (gzip.compress(SEVEN), "image/png", 415, "gzip"),
        (SEVEN.replace(b"\r\n", b"").replace(b"\n", b""), "application/x-www-form-urlencoded", 400, "--data-binary"),
        (b"data:image/png;base64," + base64.b64encode(SEVEN), "text/plain", 400, "data: URL"),
        (base64.b64encode(SEVEN), "", 400, "base64"),
        (b'{"image": "iVBORw0KGgo="}', JSON, 415, "not JSON"),
    ],
)
def test_a_hint_where_people_go_wrong(service: Client, body: bytes, content_type: str, status: int, told: str) -> None:
    answer = service.post("/classify", body, content_type or None)
    assert answer.status == status
    assert told in answer.json()["error"]


def test_a_coded_body_a_misnamed_field_and_a_stray_slash_are_named(service: Client) -> None:
    coded = service.request("POST", "/classify", SEVEN, {"Content-Encoding": "gzip"})
    assert "Content-Encoding" in assert_failure(coded, 415, "unsupported_format")
    misnamed = service.post_form("/classify", ("file", "a.png", SEVEN))
    assert "rename the field 'file' to `image`" in assert_failure(misnamed, 400, "invalid_request")
    for path in ("/classify/", "//classify"):
        assert "did you mean /classify" in assert_failure(service.post(path, SEVEN), 404, "not_found")


def test_a_longer_path_is_another_route(service: Client) -> None:
    assert service.post("/classify2", SEVEN).status == 404
    assert service.post("/classify/batch", SEVEN).status == 415
    assert service.request("GET", "/classify").status == 405


def test_clients_that_go_away_leave_nothing_behind(service: Client) -> None:
    for sent in (post(SEVEN), post(SEVEN)[:-5], post(SEVEN) + post(SEVEN)[:30], chunked(SEVEN)):
        for _ in range(20):
            with closing(socket.create_connection(("127.0.0.1", service.port), timeout=60)) as connection:
                connection.sendall(sent)
    assert service.post("/classify", SEVEN).status == 200


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service of these tests that explains nothing."""
    folder = tmp_path_factory.mktemp("alone")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "explain_grid": "0"}
    with running_inside(folder / "log", **settings) as client:
        yield client


def counted(client: Client, status: int) -> float:
    """Requests to /classify that were answered so."""
    text = client.get("/metrics").body.decode()
    line = f'shortcut_requests_total{{protocol="native",route="/classify",status="{status}"}} '
    return float(text.partition(line)[2].split()[0]) if line in text else 0


def test_a_large_picture_whose_client_has_gone_is_not_computed(alone: Client) -> None:
    large = encode(colours((3000, 2000)))
    before = counted(alone, 200), counted(alone, 499)

    def since() -> tuple[float, float]:
        return counted(alone, 200) - before[0], counted(alone, 499) - before[1]

    connections = [socket.create_connection(("127.0.0.1", alone.port), timeout=60) for _ in range(40)]
    for connection in connections:
        connection.sendall(post(large))
    assert select.select(connections, [], [], 60)[0]  # /metrics would know of the first answer too late
    for connection in connections:
        connection.close()
    assert alone.post("/classify", large).status == 200
    # A few of the closed connections count as half-closed, whose clients may still read: their pictures may be
    # answered after the last one, which another thread decodes beside them.
    wait_until(lambda: sum(since()) >= 41, 60, lambda: f"(answered, gone) is {since()}")
    answered, gone = since()
    assert answered + gone == 41
    assert gone >= 15  # they go after the first answer, and two are decoded at a time


def test_a_batch_of_many_leaves_the_event_loop_to_others_between_them(alone: Client) -> None:
    """Each is small and takes some ten milliseconds, for the texts in it."""
    slow = with_chunks(encode(colours((100, 100))), [(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))] * 4)
    body, content_type = form(*[("image", f"{i}.png", slow) for i in range(64)])
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        upload = pool.submit(alone.post, "/classify/batch", body, content_type)
        waits: list[float] = []
        while not upload.done():
            asked = time.monotonic()
            assert alone.get("/livez").status == 200
            waits.append(time.monotonic() - asked)
        took = time.monotonic() - began
    assert {"filename", "predictions"} == upload.result().json()["results"][-1].keys()
    assert len(waits) > 3
    assert max(waits) < took / 3


def test_clients_cannot_fill_the_memory_with_queries() -> None:
    native._parse_again_and_again.cache_clear()
    for number in range(50):
        native.parse_query(b"model=" + b"m" * 300 + str(number).encode())
        native.parse_query(f"model=m{number}".encode())
    assert native._parse_again_and_again.cache_info().currsize == 50


def test_an_explained_answer_is_the_plain_one_and_says_why(service: Client) -> None:
    plain = service.post("/classify", SEVEN).json()
    explained = service.post("/classify?explain=1", SEVEN).json()
    assert {name: explained[name] for name in plain} == plain
    assert explained.keys() - plain.keys() == {"seen", "occlusion", "milliseconds"}
    seen = Image.open(io.BytesIO(base64.b64decode(explained["seen"])))
    assert (seen.format, seen.mode, seen.size) == ("PNG", "L", (28, 28))
    assert service.post("/classify", encode(seen)).json() == plain  # it is what the network saw
    assert [len(row) for row in explained["occlusion"]] == [7] * 7
    assert set(explained["milliseconds"]) == {"decode", "queue", "compute", "explain"}
    assert all(value >= 0 for value in explained["milliseconds"].values())
    assert service.post("/classify?explain=0", SEVEN).json() == plain


def test_a_form_may_ask_for_an_explanation_and_a_colour_picture_has_one(service: Client) -> None:
    picture = ("image", "a.jpg", encode(colours((300, 200)), "JPEG"))
    body = service.post_form("/classify", picture, ("model", None, b"toy-colours"), ("explain", None, b"1")).json()
    assert Image.open(io.BytesIO(base64.b64decode(body["seen"]))).mode == "RGB"
    assert max(max(row) for row in body["occlusion"]) > 0


def test_an_explanation_fails_as_an_answer_does(service: Client) -> None:
    assert "base64" in assert_failure(
        service.post("/classify?explain=1", base64.b64encode(SEVEN)), 400, "invalid_image"
    )
    assert "must be 0 or 1" in assert_failure(service.post("/classify?explain=2", SEVEN), 422, "invalid_parameter")
    batch = service.post_form("/classify/batch?explain=1", ("image", "a.png", SEVEN))
    assert "is for one image" in assert_failure(batch, 422, "invalid_parameter")


def test_explanations_can_be_forbidden(alone: Client) -> None:
    told = assert_failure(alone.post("/classify?explain=1", encode(colours())), 422, "invalid_parameter")
    assert "SHORTCUT_EXPLAIN_GRID is 0" in told
    assert alone.post("/classify?explain=0", encode(colours())).status == 200
