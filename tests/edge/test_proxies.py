"""Real proxies and clients: nobody reads another's answer, and who offers an upgrade is answered all the same."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, encode
from tests.fixtures.proxies import need, proxied
from tests.fixtures.server import ROOT, Client

PICTURE = encode(colours())
Post = Callable[[str, Path], list[str]]  # an address and a picture -> a line for each way of sending it
VICTIMS = 4
ASKED, ATTACKS = 100, 80  # requests of each victim at least, and of the attacker beside them


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("proxied")
    toy.write_artifact(folder / "models")
    with running_inside(folder / "log", models=str(folder / "models"), default_model="toy-colours") as client:
        yield client


class Attack:
    """Posts whose body is a request, with the headers that make a careless server read it as one; while it is open."""

    def __init__(self, port: int):
        self.sent = 0
        self._port, self._stop = port, threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Attack":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        inner = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
        start = b"POST /classify HTTP/1.1\r\nHost: a\r\n"
        length = b"Content-Length: %d\r\n\r\n" % len(inner)
        heads = [
            start + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + length,
            start + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + length,
            start + b"Expect: 100-continue\r\n" + length,
            start + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(inner),
        ]
        ends = [b"", b"", b"", b"\r\n0\r\n\r\n"]
        while not self._stop.is_set():
            kind = self.sent % 4
            with (
                contextlib.suppress(OSError),
                contextlib.closing(socket.create_connection(("127.0.0.1", self._port), timeout=2)) as connection,
            ):
                connection.sendall(heads[kind] + inner + ends[kind])
                connection.recv(65536)
            self.sent += 1


def ask_for_one(client: Client, number: int, attack: Attack) -> list[str]:
    """Requests whose answers each have a mark of their own, until there were ASKED of them and ATTACKS beside them;
    the answers that lacked the mark."""
    foreign: list[str] = []
    asked = 0
    connection = client.connection()
    deadline = time.monotonic() + 300
    while asked < ASKED or attack.sent < ATTACKS:
        assert time.monotonic() < deadline, (asked, attack.sent)
        mark = f"victim-{number}-{asked}"
        try:
            connection.request("POST", "/classify?top_k=1", PICTURE, {"X-Request-Id": mark})
            response = connection.getresponse()
            body = response.read()
        except OSError:
            connection.close()
            connection = client.connection()
            continue
        asked += 1
        if response.getheader("x-request-id") != mark or b'"model":"toy-colours"' not in body:
            foreign.append(f"{response.status} {response.getheader('x-request-id')} {body[:80]!r}")
    connection.close()
    return foreign


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_behind_a_proxy_nobody_gets_the_answer_to_anothers_request(served: Client, tmp_path: Path, name: str) -> None:
    need(name)
    with (
        proxied(name, served.port, tmp_path) as client,
        Attack(client.port) as attack,
        ThreadPoolExecutor(VICTIMS) as pool,
    ):
        victims = [pool.submit(ask_for_one, client, number, attack) for number in range(VICTIMS)]
        assert [victim.result() for victim in victims] == [[]] * VICTIMS


def test_a_form_passes_every_proxy(served: Client, tmp_path: Path) -> None:
    for name in ("nginx", "haproxy"):
        need(name)
        (tmp_path / name).mkdir()
        with proxied(name, served.port, tmp_path / name) as client:
            assert client.post_form("/classify", ("image", "a.png", PICTURE)).status == 200
            assert client.post("/classify", b"x" * 3_000_000).status == 400


# Clients that offer HTTP/2 with an Upgrade header


@pytest.fixture(scope="module")
def with_java(tmp_path_factory: pytest.TempPathFactory) -> Post:
    folder, source = tmp_path_factory.mktemp("java"), ROOT / "tests" / "fixtures" / "java" / "Post.java"
    subprocess.run([need("javac"), "-d", str(folder), str(source)], check=True, timeout=120)

    def post(url: str, file: Path) -> list[str]:
        command = [need("java"), "-cp", str(folder), "Post", url, str(file)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()

    return post


@pytest.fixture
def with_curl() -> Post:
    curl = need("curl")

    def post(url: str, file: Path) -> list[str]:
        lines = []
        for options in (["--data-binary", f"@{file}"], ["-F", f"image=@{file}"]):
            command = [curl, "-sS", "--http2", "-w", "%{http_code}", *options, url]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
            lines.append(f"{answer[-3:]} {answer[:-3]}")
        return lines

    return post


# Java's client repeats what curl's shows, with a compiler and a virtual machine to start.
@pytest.mark.parametrize("way", [pytest.param("with_java", marks=pytest.mark.thorough), "with_curl"])
@pytest.mark.parametrize("size", [(8, 8), (1500, 1000)])
def test_clients_that_offer_h2c_are_answered_over_http_1(
    served: Client, tmp_path: Path, request: pytest.FixtureRequest, way: str, size: tuple[int, int]
) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(encode(colours(size)))
    post: Post = request.getfixturevalue(way)
    answers = post(f"http://127.0.0.1:{served.port}/classify", file)
    assert [answer[:3] for answer in answers] == ["200", "200"]
    assert all(json.loads(answer[4:])["model"] == "toy-colours" for answer in answers)
