"""Versions come and go under load: no request fails, what is bad is never served, and every worker follows."""

import contextlib
import http.client
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from serving.repository import watching
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Client, running, wait_until_measured

PICTURE = encode(colours())


def publish(models: Path, version: int, damaged: bool = False) -> Path:
    """As training.export does: written beside, then renamed into place."""
    with tempfile.TemporaryDirectory(dir=models.parent) as beside:
        folder = toy.write_artifact(Path(beside), version=version, seed=version)
        if damaged:
            (folder / "model.onnx").write_bytes(b"no graph")
        return folder.rename(models / "toy-colours" / str(version))


class Load:
    """Clients that ask all the time, on connections old and new."""

    def __init__(self, client: Client, clients: int = 4):
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[int] = Counter()
        self.problems: list[str] = []
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._client.post("/classify", PICTURE)
                self.statuses[answer.status] += 1
                self.versions[answer.json().get("version")] += 1
                time.sleep(0.02)  # the machine has more to do
            except Exception as err:
                self.problems.append(repr(err))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def wait_for(client: Client, holds: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
    """Until GET /models says so ten times in a row, which all workers have answered by then."""
    deadline = time.monotonic() + seconds
    in_a_row = 0
    while in_a_row < 10:
        described = client.get("/models").json()
        in_a_row = in_a_row + 1 if holds(described) else 0
        assert time.monotonic() < deadline, described
        time.sleep(0.02 if in_a_row else 0.2)


def serves(*versions: int) -> Callable[[dict[str, Any]], bool]:
    def holds(described: dict[str, Any]) -> bool:
        return [v["version"] for v in described["models"][0]["versions"]] == list(versions)

    return holds


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path, Path]]:
    """A service with version 1, its models and its log; a test leaves it so."""
    folder = tmp_path_factory.mktemp("watched")
    models, log = folder / "models", folder / "log"
    toy.write_artifact(models, version=1, seed=1)
    with running(log, models=str(models), default_model="toy-colours", workers="2", watch="1") as client:
        deadline = time.monotonic() + 60
        while b"} 2.0" not in client.get("/metrics").body.partition(b"\nshortcut_model_workers{")[2][:200]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield client, models, log


def test_versions_come_and_go_under_load(watched: tuple[Client, Path, Path]) -> None:
    client, models, log = watched
    load = Load(client)
    try:
        publish(models, 2)
        wait_for(client, serves(2))
        bad = publish(models, 3, damaged=True)
        wait_for(client, lambda d: serves(2)(d) and [r["version"] for r in d["refused"]] == [3])
        (refused,) = client.get("/models").json()["refused"]
        assert "model.onnx" in refused["error"]
        shutil.rmtree(bad)
        wait_for(client, lambda d: serves(2)(d) and d["refused"] == [])
        shutil.rmtree(models / "toy-colours" / "2")
        wait_for(client, serves(1))
    finally:
        load.stop()
    assert load.problems == []
    assert set(load.statuses) == {200}
    assert set(load.versions) == {1, 2}
    text = log.read_text()
    assert "toy-colours/3 is refused: " in text
    assert "now served: toy-colours version 2" in text
    assert "Traceback" not in text


# test_faults.py shows that a worker is replaced, test_models.py that an earlier version is served beside a bad one.
@pytest.mark.thorough
def test_a_worker_that_is_replaced_beside_a_bad_version_serves_the_one_before(tmp_path: Path) -> None:
    models = tmp_path / "models"
    toy.write_artifact(models, version=1, seed=1)
    settings = {"models": str(models), "default_model": "toy-colours", "workers": "1", "watch": "1"}
    with running(tmp_path / "log", **settings) as client:
        publish(models, 2, damaged=True)
        wait_for(client, lambda d: serves(1)(d) and d["refused"] != [])
        (worker,) = psutil.Process(client.process).children(recursive=True)
        worker.kill()
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if client.get("/readyz").status == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        wait_for(client, lambda d: serves(1)(d) and d["refused"] != [])
        assert client.post("/classify", PICTURE).json()["version"] == 1


def test_the_default_model_is_never_taken_away(watched: tuple[Client, Path, Path]) -> None:
    client, models, log = watched
    models.rename(models.parent / "away")
    deadline = time.monotonic() + 60
    while "models are not changed" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.post("/classify", PICTURE).status == 200
    (models.parent / "away").rename(models)
    publish(models, 2)
    wait_for(client, serves(2))
    shutil.rmtree(models / "toy-colours" / "2")
    wait_for(client, serves(1))


def test_another_model_may_come_too_and_the_metrics_say_what_is_served(watched: tuple[Client, Path, Path]) -> None:
    client, models, _ = watched
    toy.write_artifact(models, name="another")
    wait_for(client, lambda d: [m["name"] for m in d["models"]] == ["another", "toy-colours"])
    while workers(client).get("another") != 2:
        time.sleep(0.1)
    assert client.post("/classify?model=another", PICTURE).status == 200
    shutil.rmtree(models / "another")
    deadline = time.monotonic() + 60
    while workers(client) != {"toy-colours": 2, "another": 0}:
        assert time.monotonic() < deadline, workers(client)
        time.sleep(0.1)
    assert client.post("/classify?model=another", PICTURE).status == 404


def workers(client: Client) -> Counter[str]:
    """That serve each model in any of its versions, by /metrics."""
    found: Counter[str] = Counter()
    for line in client.get("/metrics").body.decode().splitlines():
        if line.startswith("shortcut_model_workers{"):
            found[line.split('"')[1]] += round(float(line.split()[-1]))
    return found


@pytest.mark.parametrize("number", ["1", pytest.param("2", marks=pytest.mark.thorough)])
def test_it_is_ready_on_the_provider_that_is_there_at_once_and_moves_to_the_fastest_under_load(
    tmp_path: Path, number: str
) -> None:
    toy.write_artifact(tmp_path / "models")
    options = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": number}
    options |= {"cache": str(tmp_path / "cache"), "provider": "auto"}
    with running(tmp_path / "log", **options) as client:
        load = Load(client)
        wait_until_measured(client)
        load.stop()
        assert (load.problems, set(load.statuses)) == ([], {200})
        (version,) = client.get("/models").json()["models"][0]["versions"]
        assert not version["measuring"]
        assert "the fastest that reproduces the golden outputs" in version["provider_reason"]
        assert "cuda" in version["provider_reason"]  # and why not
        assert psutil.Process(client.process).children()  # the workers live


def test_a_version_whose_pictures_ask_for_another_backend_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long after it was measured; and no other."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    moved = threading.Event()
    settled, unsuited = (SimpleNamespace(measuring=False, traffic=object(), unsuited=one) for one in (False, True))

    def take_faster() -> None:
        unsuited.unsuited = False
        settled.traffic = unsuited.traffic = None  # which ends the watching
        moved.set()

    versions = [
        SimpleNamespace(model=settled, take_faster=lambda: pytest.fail("is settled")),
        SimpleNamespace(model=unsuited, take_faster=take_faster),
    ]
    watching.take_faster(lambda: versions, for_ever=False, lock=None)  # type: ignore[arg-type,return-value]
    assert moved.wait(60)
