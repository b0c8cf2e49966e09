"""The typed clients: the service's answers, one exception per failure, and what is asked again."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import errors
from serving.client import Answer, AsyncClient, Client, NotTheService, Unreachable
from serving.client.protocol import Attempts, Call
from serving.edge import keys
from serving.errors import ClassifyError, Overloaded, Unauthorized
from tests.fixtures import server, toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.server import ROOT

SEVEN = encode(digit("7"))
KEY, HASH = keys.make()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Client]:
    """Asks for a key, computes some 10 ms an image, and two images may wait."""
    folder = tmp_path_factory.mktemp("busy")
    toy.write_artifact(folder / "models", effort=24)
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "api_keys": HASH}
    with running_inside(folder / "log", queue="2", **settings) as client:
        yield client


def address(service: server.Client) -> str:
    return f"http://127.0.0.1:{service.port}"


class Blocking:
    """An AsyncClient, called as if it were the other one."""

    def __init__(self, url: str, **settings: Any):
        self._url, self._settings = url, settings

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            async def once() -> Any:
                async with AsyncClient(self._url, **self._settings) as client:
                    return await getattr(client, name)(*arguments, **named)

            return asyncio.run(once())

        return call

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        pass


both = pytest.mark.parametrize("kind", [Client, Blocking], ids=["sync", "async"])


@both
def test_the_answers_are_the_services(service: server.Client, kind: Any) -> None:
    shown = service.post("/classify?top_k=2", SEVEN).json()
    with kind(address(service)) as client:
        answer = client.classify(SEVEN, top_k=2)
        assert (answer.model, answer.version, answer.unsure) == (shown["model"], shown["version"], None)
        assert [(p.label, p.index, p.probability) for p in answer.predictions] == [
            (p["label"], p["index"], p["probability"]) for p in shown["predictions"]
        ]
        assert client.classify(encode(digit(""))).unsure == "no_figure"
        older = client.classify(SEVEN, model="toy-colours", version=1)
        assert (older.model, older.version) == ("toy-colours", 1)
        served = client.models()
        assert served["default"] == "digits_cnn-mnist"
        assert [model["name"] for model in served["models"]] == ["digits_cnn-mnist", "toy-colours"]


@both
def test_of_a_batch_only_what_is_no_picture_fails(service: server.Client, kind: Any) -> None:
    with kind(address(service)) as client:
        first, second, third = client.classify_batch([SEVEN, b"no picture", encode(digit("3"))], top_k=1)
    assert (first.predictions[0].label, third.predictions[0].label) == ("7", "3")
    assert type(second) is errors.InvalidImage


@both
def test_each_failure_is_an_exception_of_its_own(service: server.Client, busy: server.Client, kind: Any) -> None:
    with kind(address(service)) as client:
        for failure, picture, options in (
            (errors.InvalidImage, b"no picture", {}),
            (errors.BodyTooLarge, bytes(3_000_000), {}),
            (errors.UnknownModel, SEVEN, {"model": "nobody"}),
            (errors.InvalidParameter, SEVEN, {"top_k": 0}),
        ):
            with pytest.raises(failure) as raised:
                client.classify(picture, **options)
            assert type(raised.value) is failure
            assert str(raised.value)
    for key in (None, "wrong"):
        with kind(address(busy), api_key=key) as client, pytest.raises(Unauthorized):
            client.classify(SEVEN)


REQUEST = httpx.Request("POST", "http://there/classify")


@pytest.mark.parametrize("failure", [ClassifyError, *ClassifyError.__subclasses__()])
def test_every_code_has_its_exception(failure: type[ClassifyError]) -> None:
    response = httpx.Response(failure.status, json={"error": "why", "code": failure.code}, request=REQUEST)
    with pytest.raises(ClassifyError) as raised:
        Call(dict).answer(response)
    assert type(raised.value) is failure
    assert (str(raised.value), raised.value.code, raised.value.status) == ("why", failure.code, failure.status)


def test_a_code_of_a_newer_service_is_kept() -> None:
    with pytest.raises(ClassifyError) as raised:
        Call(dict).answer(httpx.Response(429, json={"error": "why", "code": "slow_down"}, request=REQUEST))
    assert (str(raised.value), raised.value.code, raised.value.status) == ("why", "slow_down", 429)


@pytest.mark.parametrize(
    "response",
    [
        {"status_code": 200, "html": "<p>Sign in"},
        {"status_code": 200, "json": {"status": "ok"}},
        {"status_code": 200, "json": []},
        {"status_code": 200, "text": "[" * 100_000},
        {"status_code": 502, "html": "<p>Bad gateway"},
        {"status_code": 404, "json": {"detail": "Not Found"}},
        {"status_code": 307, "headers": {"location": "http://elsewhere/"}},
    ],
)
def test_another_program_is_told_from_the_service(response: dict[str, Any]) -> None:
    def read(content: Any) -> str:
        return content["model"]

    with pytest.raises(NotTheService, match="http://there/classify answers"):
        Call(read).answer(httpx.Response(**response, request=REQUEST))


def test_all_who_ask_a_busy_service_get_their_answer(busy: server.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    really_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await really_sleep(seconds)

    async def crowd() -> list[Answer]:
        async with AsyncClient(address(busy), api_key=KEY) as client:
            return await asyncio.gather(*[client.classify(encode(colours())) for _ in range(16)])

    def rejected() -> float:
        metrics = busy.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"}).body.decode()
        line = 'shortcut_rejected_images_total{model="toy-colours",version="1"} '
        return float(metrics.partition(line)[2].split()[0])

    before = rejected()
    with monkeypatch.context() as patched:  # the service runs in this process too, and may sleep later
        patched.setattr("serving.client.clients.asyncio.sleep", sleep)
        assert {answer.model for answer in asyncio.run(crowd())} == {"toy-colours"}
    assert set(waits) == {1.0}  # `Retry-After: 1`
    assert rejected() - before == len(waits)


def unavailable(retry_after: str | None) -> httpx.Response:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return httpx.Response(503, json={"error": "why", "code": "overloaded"}, headers=headers, request=REQUEST)


@pytest.mark.parametrize(("text", "wait"), [("7", 7), ("0", 0.1), (None, 1), ("soon", 1), ("-1", 1), ("", 1)])
def test_seconds_of_retry_after(text: str | None, wait: float) -> None:
    assert Attempts("", 0, 60).after(unavailable(text)) == wait


def test_a_date_in_retry_after() -> None:
    then = datetime.now(UTC) + timedelta(seconds=30)
    wait = Attempts("", 0, 60).after(unavailable(format_datetime(then, usegmt=True)))
    assert isinstance(wait, float)
    assert 10 < wait <= 30
    past = format_datetime(then - timedelta(days=1), usegmt=True)
    assert Attempts("", 0, 60).after(unavailable(past)) == 0.1


def test_proxy_whose_service_is_away_is_asked_again() -> None:
    """As nginx answers while the service behind it starts anew."""
    away = httpx.Response(502, html="<h1>502 Bad Gateway", request=REQUEST)
    attempts = Attempts("http://there", 2, patience=3)
    assert [attempts.after(away), attempts.after(away)] == [0.2, 0.4]
    with pytest.raises(Unreachable, match="http://there: a proxy answers 502"):
        attempts.after(away)


def test_patience_ends() -> None:
    attempts = Attempts("", 0, patience=3)
    assert [attempts.after(unavailable("2")), attempts.after(unavailable("1"))] == [2, 1]
    last = attempts.after(unavailable("1"))
    assert isinstance(last, httpx.Response)
    with pytest.raises(Overloaded):
        Call(dict).answer(last)
    assert isinstance(Attempts("", 0, patience=60).after(unavailable("3600")), httpx.Response)


@contextmanager
def breaking(connections: int, body: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that breaks so many connections after their request, and answers those that follow; the address, and
    the first line of each request."""
    seen: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                seen.append(stream.readline())
                while stream.readline() not in (b"\r\n", b""):
                    pass
                if len(seen) > connections:
                    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
                    connection.sendall(head + body)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@both
def test_a_broken_connection_is_tried_again_a_few_times(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    waits = []
    really_sleep = asyncio.sleep
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: waits.append(seconds) or really_sleep(0))  # type: ignore[func-returns-value]
    body = json.dumps({"default": "a", "models": []}).encode()
    with breaking(2, body) as (url, seen), kind(url + "/prefix", retries=2) as client:
        assert client.models() == {"default": "a", "models": []}
        assert seen == [b"GET /prefix/models HTTP/1.1\r\n"] * 3
    with breaking(100, body) as (url, seen), kind(url, retries=3) as client:
        with pytest.raises(Unreachable, match=url):
            client.models()
        assert len(seen) == 4
    assert [wait for wait in waits if wait] == [0.2, 0.4, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("key", ["secret\nX: y", "secret\r", "secr\0et", "secret\u00e9"])
def test_key_that_no_header_can_carry_is_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="the key holds what no header can carry") as caught:
        Client("http://127.0.0.1:1", api_key=key)
    assert "secr" not in str(caught.value)


def test_nobody_at_the_address_is_said() -> None:
    with Client(f"http://127.0.0.1:{server.free_port()}", retries=0) as client, pytest.raises(Unreachable):
        client.classify(SEVEN)
    with pytest.raises(ValueError, match="must begin with http"):
        Client("localhost:3000")


@pytest.mark.parametrize("module", ["serving.client", "serving.client.__main__"])
def test_nothing_of_the_server_is_imported(module: str) -> None:
    names = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", names], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert {name.partition(".")[0] for name in loaded}.isdisjoint(
        {"bentoml", "numpy", "onnxruntime", "openvino", "PIL"}
    )
    own = {name for name in loaded if name.startswith("serving.") and not name.startswith("serving.client")}
    assert own == {"serving.errors"}


def test_documented_program_runs(service: server.Client) -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    assert "http://localhost:3000" in program
    program = program.replace("http://localhost:3000", address(service))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=server.environment(), capture_output=True, text=True, check=True
    )
    picture = (ROOT / "examples" / "seven.png").read_bytes()
    best = service.post("/classify", picture).json()["predictions"][0]
    assert done.stdout == f"7 {best['probability']}\n"


def test_client_can_be_taken_along(service: server.Client, tmp_path: Path) -> None:
    """By the commands of docs/client.md, without what is installed by pip."""
    page = (ROOT / "docs" / "client.md").read_text()
    (commands,) = re.findall(r"```console\n(\$ mkdir .*?)```", page, re.S)
    home = server.environment() | {"HOME": str(tmp_path)}
    for line in re.findall(r"^\$ (.*)$", commands, re.M):
        if not line.startswith("pip "):
            subprocess.run(["sh", "-c", line], cwd=ROOT, env=home, check=True)
    command = ["-m", "serving.client", "classify", str(ROOT / "examples" / "seven.png"), "--url", address(service)]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path / "project", env=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "seven.png: 7 " in done.stdout
