"""Connections spread over the workers, also while some are busy, and after one has died."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.edge import server
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client, running


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers leave their counts; none is held to be absent for what this machine does meanwhile."""
    monkeypatch.setattr(server, "ABSENT_SECONDS", 3600.0)
    server.create_counts(tmp_path)
    return tmp_path


def test_a_worker_knows_how_many_connections_others_have(place: Path) -> None:
    first = server.Counts(place)
    assert first.others() is None
    second = server.Counts(place, process=os.getppid())
    first.note(3)
    second.note(5)
    assert (first.others(), second.others()) == (5, 3)


def test_the_slot_of_a_dead_worker_is_used_again(place: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    first = server.Counts(place)
    server.Counts(place, process=gone.pid).note(0)
    assert first.others() == 0
    server.Counts(place, process=os.getppid()).note(7)
    assert first.others() == 7


def test_without_a_place_everybody_takes_what_comes(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path / "nothing"):
        counts = server.Counts(folder)
        counts.note(5)
        assert counts.others() is None


def test_a_worker_that_stops_or_hangs_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = server.Counts(place), server.Counts(place, process=os.getppid())
    second.note(1, stops=True)
    assert first.others() is None
    assert first.others(stops=True) == 1  # when the whole service ends, all of them still answer
    second.note(1)
    assert first.others() == 1
    monkeypatch.setattr(server, "ABSENT_SECONDS", 0.0)
    time.sleep(0.001)
    assert first.others() is None


def test_another_worker_is_waited_for_the_longer_the_fewer_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never comes, while eight connect at once."""
    waited: list[float] = []
    monkeypatch.setattr(server.Listener, "_pause", lambda listener, seconds: waited.append(seconds))

    class Alone:
        config, stops = SimpleNamespace(backlog=16, ssl=None), False
        listener: server.Listener

        def lead(self) -> int:
            return self.listener.opening

    async def serve(listener: server.Listener, connection: socket.socket) -> None:
        with connection:
            await asyncio.Event().wait()  # until the loop ends

    monkeypatch.setattr(server.Listener, "_serve", serve)

    async def look() -> None:
        alone = Alone()
        with socket.socket() as sock, contextlib.ExitStack() as stack:
            sock.bind(("127.0.0.1", 0))
            alone.listener = server.Listener(alone, sock)  # type: ignore[arg-type]
            for _ in range(8):
                stack.enter_context(socket.create_connection(sock.getsockname()))
            while alone.listener.opening < 8:
                alone.listener._ready()
            await asyncio.sleep(0)  # all of them hold their connection now
            asyncio.get_running_loop().remove_reader(sock.fileno())

    asyncio.run(look())
    assert [round(1000 * seconds) for seconds in waited] == [1, 3, 5, 7]


def test_a_socket_on_which_another_worker_has_ended_the_listening_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Idle:
        config, stops = SimpleNamespace(backlog=8, ssl=None), True

        @staticmethod
        def lead() -> int:
            return 0

    async def look() -> bool:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            server.Listener(Idle(), sock)  # type: ignore[arg-type]
            sock.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0.05)
            return asyncio.get_running_loop().remove_reader(sock.fileno())

    assert not asyncio.run(look())
    assert not caplog.records


def workers(client: Client) -> dict[int, int]:
    """Established connections of each process that listens on the client's port, from ss."""
    command = ["ss", "-Htnp", "state", "established", f"( sport = :{client.port} )"]
    sockets = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[int, int] = {}
    for pid in re.findall(r"pid=(\d+)", sockets):
        found[int(pid)] = found.get(int(pid), 0) + 1
    return found


@pytest.mark.skipif(shutil.which("ss") is None, reason="ss is not installed")
def test_connections_are_spread_evenly_and_on_after_a_worker_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "True")  # as in the image, where BentoML would not replace the worker
    toy.write_artifact(tmp_path / "models")
    settings = {
        "models": str(tmp_path / "models"),
        "default_model": "toy-colours",
        "workers": "2",
        "idle_seconds": "60",
    }
    with running(tmp_path / "log", **settings) as client:
        with contextlib.ExitStack() as stack:
            deadline = time.monotonic() + 20
            while len(pids := workers_of(stack, client, 2)) < 2:  # the second one may still be loading
                assert time.monotonic() < deadline
                stack.close()
            stack.close()
            shares = []
            for _ in range(5):  # while something else keeps a core busy, a worker may be late for its turn
                counts = workers_of(stack, client, 24)
                stack.close()
                assert sum(counts.values()) == 24
                shares.append(24 - max(counts.values()))
                time.sleep(0.3)  # until the workers have noted that these are gone
            assert max(shares) >= 11, shares
            assert sum(shares) >= 30, shares
        hanging, working = pids
        os.kill(hanging, signal.SIGSTOP)
        try:
            time.sleep(2 * server.ABSENT_SECONDS)
            with contextlib.ExitStack() as stack:
                assert workers_of(stack, client, 24) == {working: 24}
        finally:
            os.kill(hanging, signal.SIGCONT)
        os.kill(hanging, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                if len(workers_of(stack, client, 8)) == 2:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert client.post("/classify", encode(colours())).status == 200


def workers_of(stack: contextlib.ExitStack, client: Client, count: int) -> dict[int, int]:
    """Open `count` connections, and count them by worker once all are accepted."""
    for _ in range(count):
        stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=5))
    deadline = time.monotonic() + 5
    while sum((counts := workers(client)).values()) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return counts
