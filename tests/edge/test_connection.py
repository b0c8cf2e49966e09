"""Byte-level clients: slow, huge, broken and smuggling ones, against the edge with short limits."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from serving.edge import connection as edge_connection
from serving.edge import places
from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client

HEAD = b"POST /classify HTTP/1.1\r\nHost: test\r\n"
PERIODS = {"head_seconds": "1", "body_seconds": "2", "idle_seconds": "2"}
HASTE = 4  # they pass so many times faster


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of both services here."""
    folder = tmp_path_factory.mktemp("served")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "max_body_bytes": "100000"}
    return settings | {"max_header_bytes": "4096", "max_connections": "20"}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, served: dict[str, str]) -> Iterator[Client]:
    """It waits for no client."""
    log = tmp_path_factory.mktemp("hasty") / "log"
    with running_inside(log, haste=HASTE, **served, **PERIODS) as client:
        yield client
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, served: dict[str, str]) -> Iterator[Client]:
    """It waits for a client as long as a busy machine may need."""
    log = tmp_path_factory.mktemp("guarded") / "log"
    with running_inside(log, **served) as client:
        yield client
    assert "Traceback" not in log.read_text()


def connect(client: Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=40)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def trickle(connection: socket.socket, until: float) -> None:
    while time.monotonic() < until:
        connection.sendall(b"x" * 1000)
        time.sleep(0.05)


def refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    assert json.loads(body).keys() == {"error", "code"}
    assert json.loads(body)["code"] == code


def still_answers(client: Client) -> None:
    assert client.post("/classify", encode(colours())).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /class",
        HEAD,
        HEAD + b"X-Slow: ",
        b"\r\n",
    ],
)
def test_half_a_request_head_does_not_stay_open(hasty: Client, sent: bytes) -> None:
    started = time.monotonic()
    with closing(connect(hasty)) as connection:
        connection.sendall(sent)
        answer = read_all(connection)  # which gives up if the service does not
    assert time.monotonic() - started > 0.9 / HASTE  # and not before its time
    refused(answer, 408, "request_timeout")


def test_a_body_at_a_byte_a_moment_is_cut(hasty: Client) -> None:
    started = time.monotonic()
    with closing(connect(hasty)) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        connection.settimeout(0.1)
        answer = b""
        while time.monotonic() - started < 40 and not answer:
            try:
                connection.sendall(b"x")
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert time.monotonic() - started > 1.5 / HASTE
    refused(answer, 408, "request_timeout")


def test_an_idle_connection_is_closed_silently(hasty: Client) -> None:
    started = time.monotonic()
    with closing(connect(hasty)) as connection:
        assert read_all(connection) == b""
    assert time.monotonic() - started > 1.5 / HASTE


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: t\r\nX-Big: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: t\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(1000)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nX-Endless: " + b"a" * 200_000,
    ],
)
def test_headers_over_the_limit_are_refused(guarded: Client, sent: bytes) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(sent)
        refused(read_all(connection), 431, "headers_too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS on a plain port
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1e3\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: identity, chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        HEAD + b"Bad Header: x\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: t\r\n\r\n",
    ],
)
def test_what_is_no_valid_http_is_refused_in_the_one_shape(guarded: Client, sent: bytes) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(sent)
        refused(read_all(connection), 400, "invalid_request")
    still_answers(guarded)


def test_what_was_refused_on_the_wire_is_counted(guarded: Client) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(b"\0")
        refused(read_all(connection), 400, "invalid_request")
    time.sleep(0.1)
    assert b'shortcut_refused_connections_total{status="400"}' in guarded.get("/metrics").body


def test_a_pipelined_request_gets_its_answer_in_turn(guarded: Client) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(
            b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\nGET /nope HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        )
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 404 " in answer


def test_a_refused_upload_sees_its_answer_and_is_then_cut(hasty: Client) -> None:
    started = time.monotonic()
    with closing(connect(hasty)) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            trickle(connection, started + 40)


def test_an_upgrade_is_not_taken(guarded: Client) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = guarded.request("GET", "/livez", headers=upgrade | {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert answer.status == 200


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_the_body_of_a_request_that_offers_an_upgrade_is_no_request(guarded: Client, protocol: bytes) -> None:
    inner = b"GET /models HTTP/1.1\r\nHost: t\r\n\r\n"
    offer = b"Connection: Upgrade, close\r\nUpgrade: %b\r\nContent-Length: %d\r\n\r\n" % (protocol, len(inner))
    with closing(connect(guarded)) as connection:
        connection.sendall(HEAD + offer + inner)
        refused(read_all(connection), 400, "invalid_image")


def test_connections_over_the_limit_are_turned_away(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "GRACE_SECONDS", 60.0)  # none of those below makes room
    monkeypatch.setattr(edge_connection, "PROBE_SECONDS", 0.2)
    time.sleep(0.2)  # those of the tests before are gone
    held = [connect(guarded) for _ in range(20)]
    try:
        for connection in held:
            connection.sendall(b"GET /livez")  # a request has begun: it is not idle
        time.sleep(0.2)
        with closing(connect(guarded)) as connection:
            refused(read_all(connection), 503, "overloaded")
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.2)
    still_answers(guarded)


def test_idle_connections_make_room_for_new_ones_the_longest_idle_first(
    guarded: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "GRACE_SECONDS", 0.3)
    time.sleep(0.2)
    held = [connect(guarded) for _ in range(20)]
    try:
        time.sleep(0.4)
        still_answers(guarded)
        held[0].settimeout(5)
        assert held[0].recv(1) == b""
    finally:
        for connection in held:
            connection.close()


# Pipelining and refusals (each of these hurt before it was mended)

PICTURE = encode(colours())
GOOD = b"POST /classify HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE


@pytest.mark.parametrize(
    "bad",
    [
        b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n\0garbage\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /livez HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 5000 + b"\r\n\r\n",
        b"\0",
    ],
)
def test_what_is_refused_behind_a_good_request_hurts_nobody_else(guarded: Client, bad: bytes) -> None:
    for _ in range(3):
        with closing(connect(guarded)) as connection:
            connection.sendall(GOOD + bad)
            answer = read_all(connection)
        assert not answer.startswith(b"HTTP/1.1 4"), answer  # that would pass for the good one's answer
    still_answers(guarded)


def test_an_answer_before_the_body_leaves_no_connection_open(hasty: Client) -> None:
    with closing(connect(hasty)) as connection:
        connection.sendall(b"POST /nope HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n")
        answer = b""
        while not answer.endswith(b'"code":"not_found"}'):  # head and body may come one after the other
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"0123456789")
        assert read_all(connection) == b""


@pytest.mark.parametrize("unit", [b"X-A: " + b"a" * 3000 + b"\r\n", b"a: b\r\n" * 500, b"X-Endless: " + b"a" * 3000])
def test_trailers_are_not_taken(guarded: Client, unit: bytes) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection.sendall(unit)
                time.sleep(0.01)
        with contextlib.suppress(OSError):
            refused(read_all(connection), 400, "invalid_request")
    still_answers(guarded)


def test_many_pipelined_requests_are_all_answered(guarded: Client) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n" * 500)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert read_all(connection).count(b"HTTP/1.1 200") == 501


@pytest.mark.parametrize("path", [b"/classify", b"/models", b"/metrics"])
def test_a_half_closed_client_is_answered(guarded: Client, path: bytes) -> None:
    method, body = (b"POST", PICTURE) if path == b"/classify" else (b"GET", b"")
    for close in (b"close", b"keep-alive"):
        with closing(connect(guarded)) as connection:
            head = b"%b %b HTTP/1.1\r\nHost: t\r\nConnection: %b\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % (method, path, close, len(body)) + body)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_probes_are_answered_beside_full_connections(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "GRACE_SECONDS", 60.0)
    held = [connect(guarded) for _ in range(30)]  # 10 more than there may be
    try:
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\nabc")
        for path in ("/livez", "/readyz", "/metrics") * 2:  # while none has been silent for long
            assert guarded.get(path).status == 200
        monkeypatch.setattr(places, "GRACE_SECONDS", 0.1)
        time.sleep(0.2)
        for _ in range(3):
            still_answers(guarded)
    finally:
        for connection in held:
            connection.close()


def test_a_client_that_never_reads_is_cut(hasty: Client) -> None:
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(b"GET /static/swagger-ui-bundle.js HTTP/1.1\r\nHost: t\r\n\r\n" * 4)
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            keep_sending(connection, b"\r\n", time.monotonic() + 40)


def keep_sending(connection: socket.socket, data: bytes, until: float) -> None:
    while time.monotonic() < until:
        connection.sendall(data)
        time.sleep(0.2)


@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_a_length_of_thousands_of_digits_is_no_number(guarded: Client, path: str) -> None:
    with closing(connect(guarded)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {'0' * 3500}\r\n\r\n".encode())
        assert int(connection.recv(65536).split()[1]) in (400, 415)
    still_answers(guarded)


@pytest.mark.parametrize("value", ["foo", "bytes=9999999-", "bytes=0-3"])
def test_pages_know_no_ranges(guarded: Client, value: str) -> None:
    for path in ("/docs", "/", "/static/page.js"):
        answer = guarded.request("GET", path, headers={"Range": value})
        assert answer.status == 200
        assert answer.headers["x-request-id"]
