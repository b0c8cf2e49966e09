"""SIGTERM under load: readiness goes first, every request of a client that looks at it is answered, and all exit."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import ROOT, Client, command, environment, free_port, ready

DRAIN_SECONDS = 2
POLL_SECONDS = 0.3
PICTURE = encode(colours())


@contextlib.contextmanager
def started(tmp_path: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    toy.write_artifact(tmp_path / "models")
    port = free_port()
    served = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "2"} | settings
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(port),
            cwd=ROOT,
            env=environment(**served),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    client = Client(port)
    try:
        deadline = time.monotonic() + 60
        while not ready(client):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = f"{float(settings.get('workers', 2))}"
        while serving_workers(client) != workers:  # so that all of them have something to drain
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process, client
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def serving_workers(client: Client) -> str:
    """Of the default model, as a number in /metrics."""
    lines = client.get("/metrics").body.decode().splitlines()
    return next((line.split()[-1] for line in lines if line.startswith("shortcut_model_workers{")), "0")


class Balancer:
    """Clients that keep their connections, and open new ones only while the service was ready when last asked."""

    def __init__(self, client: Client, paths: Sequence[str], body: bytes):
        self.ready = True
        self.answers: list[tuple[int, bool]] = []  # status, and whether it was the connection's last
        self.lost: list[str] = []
        self._client, self._body = client, body
        self._threads = [threading.Thread(target=self._send, args=(path,)) for path in paths]
        self._threads.append(threading.Thread(target=self._watch))
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        while self.ready:
            time.sleep(POLL_SECONDS)
            self.ready = ready(self._client)

    def _send(self, path: str) -> None:
        while self.ready:
            connection = self._client.connection()
            try:
                connection.connect()
            except OSError as err:
                self.lost.append(f"connecting while ready: {err}")
                return
            last = False
            while not last:
                try:
                    connection.request("POST", path, self._body, {"Content-Type": "image/png"})
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as err:
                    self.lost.append(f"{type(err).__name__}: {err}")
                    break
                last = response.getheader("connection") == "close"
                self.answers.append((response.status, last))
                time.sleep(0.01)  # the machine has more to do
            connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    paths = ["/classify", "/classify?top_k=1&model=toy-colours"]
    with started(tmp_path, drain_seconds=str(DRAIN_SECONDS), head_seconds="120") as (process, client):
        load = Balancer(client, 4 * paths, PICTURE)
        time.sleep(1)
        begun = [sent_in_two(client) for _ in range(4)]  # in the middle of their heads
        terminated = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)  # parent and all: so does systemd
        process.send_signal(signal.SIGTERM)
        asked = 0
        while client.get("/readyz").status == 200:
            asked += 1
            assert asked < 1500  # the workers have answered that often since, and could have taken notice
            time.sleep(0.01)
        time.sleep(DRAIN_SECONDS / 2)
        for path in paths:
            late = client.post(path, PICTURE)  # of a client that does not look
            assert (late.status, late.headers["connection"]) == (200, "close")
        load.join()
        after_the_draining(process, client, begun)
        assert process.wait(60) == 0
        took = time.monotonic() - terminated
        assert load.lost == []
        assert {status for status, _ in load.answers} == {200}
        assert sum(last for _, last in load.answers) >= 8  # each connection was told that it was its last
        assert took >= DRAIN_SECONDS
    written = (tmp_path / "log").read_text()
    assert "Traceback" not in written
    assert " ERROR " not in written  # it was an ordinary stop


def sent_in_two(client: Client) -> tuple[socket.socket, bytes]:
    """A connection on which a part of a request was sent, and the rest."""
    lines = ["POST /classify HTTP/1.1", "Host: t", f"Content-Length: {len(PICTURE)}", "", ""]
    whole = "\r\n".join(lines).encode() + PICTURE
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=60)
    connection.sendall(whole[:30])
    return connection, whole[30:]


def refused(client: Client) -> bool:
    try:
        client.get("/livez")
    except ConnectionRefusedError:
        return True
    except (OSError, http.client.HTTPException):  # it had just been taken when the listening ended
        return False
    return False


def after_the_draining(
    process: subprocess.Popen[bytes], client: Client, begun: Sequence[tuple[socket.socket, bytes]]
) -> None:
    """Nobody can connect, and what has begun is answered."""
    deadline = time.monotonic() + 60
    while not refused(client):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None
    for connection, rest in begun:
        with connection:
            connection.sendall(rest)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer


# test_faults.py shows that BentoML replaces a worker; it looks every ten seconds.
@pytest.mark.thorough
def test_a_lone_worker_that_is_told_to_stop_is_replaced_and_listens_again(tmp_path: Path) -> None:
    """And where it drains for no seconds, SIGTERM ends the service at once."""
    with started(tmp_path, drain_seconds="0", workers="1") as (process, client):
        (worker,) = psutil.Process(process.pid).children(recursive=True)
        worker.terminate()
        worker.wait(60)
        deadline = time.monotonic() + 60
        while not ready(client):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert client.post("/classify", PICTURE).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
