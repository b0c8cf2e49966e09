"""Nothing that a request leaves behind waits for the garbage collector: what is in no cycle is freed at once, and no
upload stays in memory longer than it is needed."""

import os
import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client, form, running

# Python runs it in every process at its start.
REPORTING = """
import gc, os, pathlib, signal
def report(*_):
    found = gc.collect()
    pathlib.Path(__file__).with_name(f"{os.getpid()}.found").write_text(f"{found} ")
gc.disable()
signal.signal(signal.SIGUSR1, report)
"""
SMALL, LARGE = encode(colours()), encode(colours((700, 500)))
BODIES = (SMALL, LARGE, SMALL[:-20], LARGE[:-20], b"", b"junk", encode(colours(), "JPEG")[:-50])
TIMES = 20


def ask(client: Client) -> None:
    many, of_type = form(*[("image", "a.png", body) for body in BODIES])
    for _ in range(TIMES):
        for body in BODIES:
            client.post("/classify", body)
            client.post("/classify", body, "text/plain")
        client.post("/classify/batch", many, of_type)
        client.post("/classify?model=nobody", SMALL)
        for path in ("/nowhere", "/models", "/readyz"):
            client.get(path)
        for body in (SMALL, LARGE):  # its client does not wait
            with closing(socket.create_connection(("127.0.0.1", client.port), timeout=60)) as connection:
                head = f"POST /classify HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)


def garbage(worker: int, folder: Path) -> int:
    """Objects that only the collector could free, since it was last asked."""
    file = folder / f"{worker}.found"
    file.unlink(missing_ok=True)
    os.kill(worker, signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(file.read_text())


def test_the_garbage_collector_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(REPORTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "1"}
    with running(tmp_path / "log", **settings) as client:
        (worker,) = psutil.Process(client.process).children(recursive=True)
        assert worker.environ()["MALLOC_MMAP_THRESHOLD_"] == "4194304"
        ask(client)  # what is made once
        time.sleep(0.5)
        garbage(worker.pid, tmp_path)
        ask(client)
        time.sleep(0.5)
        assert garbage(worker.pid, tmp_path) < TIMES  # none of the kinds above leaves anything
