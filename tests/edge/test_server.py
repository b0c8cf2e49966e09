"""Connections spread over the workers, also while some are busy, and after one has died."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from serving.edge import counts, server
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client, running


def test_a_worker_may_open_as_many_files_as_its_connections_need(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        server.allow_descriptors(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        server.allow_descriptors(200)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        assert not caplog.records
        server.allow_descriptors(2**40)
        assert "SHORTCUT_MAX_CONNECTIONS" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def workers(client: Client) -> dict[int, int]:
    """Established connections of each process that listens on the client's port, from ss."""
    command = ["ss", "-Htnp", "state", "established", f"( sport = :{client.port} )"]
    sockets = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[int, int] = {}
    for pid in re.findall(r"pid=(\d+)", sockets):
        found[int(pid)] = found.get(int(pid), 0) + 1
    return found


# test_listening.py and test_counts.py show how connections are spread, test_faults.py how a worker is replaced.
@pytest.mark.thorough
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
            deadline = time.monotonic() + 60
            while len(pids := workers_of(stack, client, 2)) < 2:  # the second one may still be loading
                assert time.monotonic() < deadline
                stack.close()
            stack.close()
            shares = []
            for _ in range(5):  # while something else keeps a core busy, a worker may be late for its turn
                taken = workers_of(stack, client, 24)
                stack.close()
                assert sum(taken.values()) == 24
                shares.append(24 - max(taken.values()))
                time.sleep(0.3)  # until the workers have noted that these are gone
            assert max(shares) >= 11, shares
            assert sum(shares) >= 30, shares
        hanging, working = pids
        os.kill(hanging, signal.SIGSTOP)
        try:
            time.sleep(2 * counts.ABSENT_SECONDS)
            with contextlib.ExitStack() as stack:
                assert workers_of(stack, client, 24) == {working: 24}
        finally:
            os.kill(hanging, signal.SIGCONT)
        os.kill(hanging, signal.SIGKILL)
        deadline = time.monotonic() + 60
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
        stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=60))
    deadline = time.monotonic() + 60
    while sum((found := workers(client)).values()) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
