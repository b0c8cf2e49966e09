"""Three replicas behind HAProxy, rolled and killed one by one under load: no request fails. `make rolling-test`."""

import contextlib
import csv
import http.client
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.proxies import need
from tests.fixtures.server import ROOT, Client, command, environment, free_port, ready

pytestmark = pytest.mark.rolling
PICTURE = encode(colours())
CLIENTS = 8
START_SECONDS = 300  # on a loaded machine
CARRY_SECONDS = 2.0  # that two carry the load
STATISTICS = """
frontend statistics
  bind 127.0.0.1:{port}
  stats enable
  stats uri /
"""


class Replica:
    """A service of one worker on a port that it keeps."""

    def __init__(self, models: Path, log: Path):
        self.client = Client(free_port())
        self._models, self._log = models, log
        self.start()

    def start(self) -> None:
        settings = environment(
            models=str(self._models), default_model="toy-colours", workers="1", drain_seconds="3", queue="512"
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command(self.client.port), cwd=ROOT, env=settings, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not ready(self.client):
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def stop(self) -> int:
        """As an orchestrator does: SIGTERM, and time."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def kill(self) -> None:
        """The machine is gone: parent and workers at once. A worker is in a process group of its own."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (*psutil.Process(self._process.pid).children(recursive=True), self._process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait(10)


class Load:
    """Clients that keep their connections to the balancer, and what they were answered."""

    def __init__(self, client: Client):
        self._client = client
        self._stopping = threading.Event()
        self.answers: list[float] = []  # seconds of each
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        connection = self._client.connection()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", "/classify?top_k=1", PICTURE, {"Content-Type": "image/png"})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200 or b'"model":"toy-colours"' not in body:
                    self.failed.append(f"{response.status} {body[:200]!r}")
            except (OSError, http.client.HTTPException) as err:
                self.failed.append(f"{type(err).__name__}: {err}")
                connection.close()
            self.answers.append(time.monotonic() - began)
        connection.close()

    def join(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)


class Balancer(Client):
    """HAProxy, and what it says of the replicas."""

    def __init__(self) -> None:
        super().__init__(free_port())
        self.statistics = Client(free_port())

    def wait_for(self, number: int) -> None:
        """Until it sends requests to so many."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            lines = self.statistics.get("/;csv").body.decode().splitlines()
            rows = list(csv.DictReader([lines[0].removeprefix("# "), *lines[1:]]))
            if [row["status"] for row in rows if row["svname"] in ("one", "two", "three")].count("UP") == number:
                return
            assert time.monotonic() < deadline, lines
            time.sleep(0.1)


@contextlib.contextmanager
def balanced(replicas: list[Replica], folder: Path) -> Iterator[Balancer]:
    """deploy/haproxy.cfg, as it is, and a page of HAProxy's own statistics."""
    client = Balancer()
    (folder / "statistics.cfg").write_text(STATISTICS.format(port=client.statistics.port))
    addresses = {f"REPLICA_{n}": f"127.0.0.1:{replica.client.port}" for n, replica in enumerate(replicas, 1)}
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [need("haproxy"), "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg"), "-f", str(folder / "statistics.cfg")],
            env=os.environ | addresses | {"LISTEN": f"127.0.0.1:{client.port}"},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        while not ready(client):
            assert process.poll() is None, (folder / "haproxy.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    folder = tmp_path_factory.mktemp("rolling")
    toy.write_artifact(folder / "models")
    found: list[Replica] = []
    try:
        for number in range(3):
            found.append(Replica(folder / "models", folder / f"replica{number}.log"))
        yield found
    finally:
        for replica in found:
            replica.kill()


@pytest.mark.parametrize("how", ["rolled", "killed"])
def test_no_request_fails(
    replicas: list[Replica], tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with balanced(replicas, tmp_path) as client:
        client.wait_for(3)
        load = Load(client)
        try:
            for replica in replicas:
                client.wait_for(3)
                if how == "rolled":
                    assert replica.stop() == 0
                else:
                    replica.kill()
                    assert not ready(replica.client)
                time.sleep(CARRY_SECONDS)
                replica.start()
        finally:
            load.join()
    slowest = max(load.answers)
    with capsys.disabled():
        print(f"\nthree replicas {how}: {len(load.answers):,} requests, {len(load.failed)} failed, ", end="")
        print(f"the slowest took {slowest:.2f} s", *sorted(set(load.failed)), sep="\n")
    assert load.failed == []
    assert len(load.answers) > 1000


def test_load_notices_what_fails(replicas: list[Replica], tmp_path: Path) -> None:
    """The test above can fail: with all replicas gone every request does."""
    with balanced(replicas, tmp_path) as client:
        load = Load(client)
        for replica in replicas:
            replica.kill()
        client.wait_for(0)
        load.join()
    assert load.failed
