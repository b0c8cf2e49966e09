"""Models that are loaded at their first use, and leave memory when others need the room."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import artifacts
from serving.engine import selection
from serving.engine.measurements import Measurements
from serving.errors import Unavailable
from serving.operations import metrics
from serving.protocols.native import describe
from serving.repository import models, residency, runner
from serving.repository.models import Repository, started_with, verify
from serving.repository.residency import Residency
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import encode
from tests.fixtures.server import running

NAMES = ("toy-a", "toy-b", "toy-c")
SHAPE = (64, 64, 3)
LABELS = tuple(f"class {number}" for number in range(100))
GRAPH_BYTES = 64 * 64 * 3 * 100 * 4  # at the least, that each of them takes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("residency") / "models"
    for seed, name in enumerate(NAMES):
        toy.write_artifact(models, name, shape=SHAPE, labels=LABELS, seed=seed)
    return models


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "models"))


def repository(folder: Path, limit: int, **settings: int) -> Repository:
    """As a worker makes it, after the parent has verified everything."""
    chosen = Settings(
        models=folder, default_model="toy-a", provider="cpu", cache=folder, resident_bytes=limit, **settings
    )
    together = folder.parent / "shared"
    together.mkdir(exist_ok=True)
    assert len(list(verify(chosen, 1, Measurements(folder), together))) == len(NAMES)
    return Repository(chosen, 1, Measurements(folder), started_with(together))


def golden(folder: Path, name: str) -> tuple[bytes, np.ndarray]:
    artifact = artifacts.read(folder / name / "1")
    return encode(Image.fromarray(artifact.golden_images[0])), artifact.golden_probabilities[0]


def ask(served: ServedModel, data: bytes) -> np.ndarray:
    return asyncio.run(served.answer(data)).probabilities


def in_memory(repository: Repository) -> list[str]:
    return [served.artifact.name for served in repository if served.resident]


def test_each_is_loaded_when_asked_and_the_least_used_goes(folder: Path) -> None:
    limit = int(2.5 * 8 * GRAPH_BYTES)
    found = repository(folder, limit)
    assert in_memory(found) == []
    for name in (*NAMES, "toy-a"):
        data, expected = golden(folder, name)
        served = found.find(name)
        assert np.abs(ask(served, data) - expected).max() < 1e-5
        assert describe(served)["resident"]
        assert served.model.artifact.onnx
        assert found._residency is not None
        with found._residency._lock:  # counted, and others are out
            pass
        assert GRAPH_BYTES <= found._residency.bytes <= limit


def test_room_for_one_holds_one(folder: Path) -> None:
    found = repository(folder, GRAPH_BYTES + 1)  # less than two take
    for name in (*NAMES, *NAMES):
        data, expected = golden(folder, name)
        assert np.abs(ask(found.find(name), data) - expected).max() < 1e-5
        assert in_memory(found) == [name]
    gone = found.find("toy-a")
    assert gone.computes
    assert not gone.model.artifact.onnx
    assert describe(gone)["labels"] == list(LABELS)
    assert gone.artifact.identity == artifacts.read(folder / "toy-a" / "1").identity


def test_many_at_once_for_more_models_than_there_is_room(folder: Path) -> None:
    found = repository(folder, GRAPH_BYTES + 1)
    wanted = {name: golden(folder, name) for name in NAMES}

    async def everybody() -> list[tuple[str, np.ndarray]]:
        async def one(name: str) -> tuple[str, np.ndarray]:
            return name, (await found.find(name).answer(wanted[name][0])).probabilities

        return await asyncio.gather(*(one(name) for _ in range(20) for name in NAMES))

    answers = asyncio.run(everybody())
    assert len(answers) == 60
    for name, probabilities in answers:
        assert np.abs(probabilities - wanted[name][1]).max() < 1e-5


class Slow:
    """`selection.load` that waits to be allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.may, self.began, real = threading.Event(), threading.Event(), selection.load

        def load(*arguments: object, **options: object) -> selection.Model:
            self.began.set()
            assert self.may.wait(60)
            return real(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(models.selection, "load", load)


def test_who_asks_waits_for_the_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = repository(folder, GRAPH_BYTES, deadline_ms=60_000)
    slow = Slow(monkeypatch)
    served = found.find("toy-a")
    data, expected = golden(folder, "toy-a")

    async def scenario() -> None:
        waiting = [asyncio.create_task(served.answer(data)) for _ in range(3)]
        await asyncio.to_thread(slow.began.wait, 60)
        served.check()  # another may come
        assert not any(one.done() for one in waiting)
        slow.may.set()
        for one in waiting:
            assert np.abs((await one).probabilities - expected).max() < 1e-5

    asyncio.run(scenario())


def test_who_asks_waits_no_longer_than_the_deadline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = repository(folder, GRAPH_BYTES, deadline_ms=300)
    slow = Slow(monkeypatch)
    served = found.find("toy-a")

    async def scenario() -> None:
        began = time.perf_counter()
        with pytest.raises(Unavailable, match="not loaded within 300 ms") as refused:
            await served.answer(golden(folder, "toy-a")[0])
        assert time.perf_counter() - began >= 0.3
        assert refused.value.retry_after == 1
        slow.may.set()
        deadline = time.monotonic() + 60
        while not served.resident:  # the load goes on, for who comes later
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    asyncio.run(scenario())
    assert served.computes


def test_a_file_that_was_changed_is_not_loaded_and_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.2)
    found = repository(folder, GRAPH_BYTES)
    served = found.find("toy-b")
    data, expected = golden(folder, "toy-b")
    graph = folder / "toy-b" / "1" / "model.onnx"
    sound = graph.read_bytes()
    graph.write_bytes(sound[:-1])

    async def scenario() -> None:
        for _ in range(2):  # the second one at once
            with pytest.raises(Unavailable, match=r"toy-b version 1 cannot be loaded at the moment$"):
                await served.answer(data)
        assert "is damaged or was changed" in describe(served)["provider_reason"]
        assert served.computes  # others go on, and the service is ready
        graph.write_bytes(sound)
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = await served.answer(data)
                break
            except Unavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        assert np.abs(answer.probabilities - expected).max() < 1e-5

    asyncio.run(scenario())


def test_another_model_in_its_place_is_refused(folder: Path) -> None:
    found = repository(folder, GRAPH_BYTES)
    (folder / "toy-c" / "1").rename(folder / "toy-c" / "1.old")
    toy.write_artifact(folder, "toy-c", shape=SHAPE, labels=LABELS, seed=9)
    served = found.find("toy-c")
    with pytest.raises(Unavailable):
        ask(served, golden(folder, "toy-c")[0])
    assert "was changed since the service began to serve it" in describe(served)["provider_reason"]


def test_watched_versions_are_looked_at_once_and_then_go(folder: Path) -> None:
    """Of what comes later the parent knows nothing."""
    settings = Settings(
        models=folder, default_model="toy-a", provider="cpu", cache=folder, resident_bytes=GRAPH_BYTES + 1
    )
    first = Repository(settings, 1, Measurements(folder))
    assert in_memory(first) == ["toy-c"]
    toy.write_artifact(folder, "toy-d", shape=SHAPE, labels=LABELS, seed=4)
    second = first.renewed()
    assert second is not None
    assert in_memory(second) == ["toy-d"]
    for name in ("toy-a", "toy-d"):
        data, expected = golden(folder, name)
        assert np.abs(ask(second.find(name), data) - expected).max() < 1e-5


def test_what_is_not_in_memory_is_not_measured(folder: Path) -> None:
    """And what is moves to the faster backend, as ever."""
    found = repository(folder, GRAPH_BYTES)
    served = found.find("toy-a")
    assert not served.model.measuring
    ask(served, golden(folder, "toy-a")[0])
    before = served.model
    served.runner.let_go()
    assert not served.runner._move(before, before)  # what was found for it came too late
    assert not served.resident


def test_metrics_say_what_is_in_memory(folder: Path) -> None:
    def of(metric: str, name: str) -> float:
        rows = [
            row for row in metrics.exposition().decode().splitlines() if row.startswith(f'{metric}{{model="{name}"')
        ]
        return sum(float(row.split()[-1]) for row in rows)

    found = repository(folder, GRAPH_BYTES + 1)
    found.replace(None)
    try:
        before, seconds = (of(f"shortcut_model_load{what}_total", "toy-b") for what in ("s", "_seconds"))
        assert of("shortcut_model_resident", "toy-b") == 0
        for name in ("toy-a", "toy-b"):
            ask(found.find(name), golden(folder, name)[0])
        assert (of("shortcut_model_resident", "toy-a"), of("shortcut_model_resident", "toy-b")) == (0, 1)
        assert of("shortcut_model_loads_total", "toy-b") == before + 1
        assert of("shortcut_model_load_seconds_total", "toy-b") > seconds
    finally:
        for served in found:
            served.retire()
    assert of("shortcut_model_resident", "toy-b") == 0


@pytest.mark.thorough
def test_service_says_what_is_in_memory_and_asks_a_shadow(folder: Path) -> None:
    toy.write_artifact(folder, "toy-a", 2, shape=SHAPE, labels=LABELS, seed=9)
    pictures = {name: golden(folder, name)[0] for name in NAMES}
    settings = {"models": str(folder), "default_model": "toy-a", "workers": "2", "shadow": "toy-a:2"}
    with running(folder.parent / "log", resident_bytes=str(GRAPH_BYTES), **settings) as client:
        for name in (*NAMES, "toy-a"):
            answer = client.post(f"/classify?model={name}", pictures[name])
            assert (answer.status, answer.json()["version"]) == (200, 1)
        assert client.post("/classify?version=2", pictures["toy-a"]).status == 404

        def asked() -> float:
            rows = client.get("/metrics").body.decode().splitlines()
            return sum(float(row.split()[-1]) for row in rows if row.startswith("shortcut_shadow_pictures_total{"))

        deadline = time.monotonic() + 60
        while asked() < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        states = client.post("/v2/repository/index", b"{}").json()
        listed = client.get("/models").json()
        assert {state["state"] for state in states} == {"READY"}
        assert any(state["reason"].startswith("not in memory") for state in states)
        assert not all(model["versions"][0]["resident"] for model in listed["models"])
        assert [shadow["version"] for shadow in listed["shadows"]] == [2]
        assert client.get("/readyz").status == 200


class Fake:
    """A model that takes what it is told to."""

    def __init__(self, name: str):
        self.name, self.used, self.may_go, self.there = name, 0.0, True, False

    def fetch(self) -> bool:
        self.there = True
        return True

    def let_go(self) -> bool:
        self.there = False
        return True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[Residency, Callable[[Fake, int], None], list[Fake]]:
    monkeypatch.setattr(residency, "PATIENCE_SECONDS", 0.05)
    kept, found = Residency(100), [Fake(name) for name in "abc"]

    def load(one: Fake, size: int) -> None:
        one.fetch()
        kept.add(one, size)

    return kept, load, found


def test_the_least_lately_used_goes(fakes: tuple[Residency, Callable[[Fake, int], None], list[Fake]]) -> None:
    kept, load, (a, b, c) = fakes
    load(a, 40)
    load(b, 40)
    a.used, b.used = 2.0, 1.0
    load(c, 40)
    assert (a.there, b.there, c.there) == (True, False, True)
    assert kept.bytes == 80


def test_a_busy_one_is_spared_while_another_may_go(
    fakes: tuple[Residency, Callable[[Fake, int], None], list[Fake]],
) -> None:
    _, load, (a, b, c) = fakes
    load(a, 40)
    load(b, 40)
    b.used, a.may_go = 1.0, False
    load(c, 40)
    assert (a.there, b.there, c.there) == (True, False, True)
    load(b, 70)  # of busy ones too, in the end, where there is no other way
    assert (a.there, b.there, c.there) == (False, True, False)


def test_one_that_is_larger_than_the_limit_is_alone(
    fakes: tuple[Residency, Callable[[Fake, int], None], list[Fake]], caplog: pytest.LogCaptureFixture
) -> None:
    kept, load, (a, b, _) = fakes
    load(a, 40)
    load(b, 400)
    assert (a.there, b.there) == (False, True)
    assert kept.bytes == 400
    assert "more than SHORTCUT_RESIDENT_BYTES=100: it is there alone" in caplog.text


def test_a_retired_one_takes_no_room(fakes: tuple[Residency, Callable[[Fake, int], None], list[Fake]]) -> None:
    kept, load, found = fakes
    load(found.pop(), 90)
    assert kept.bytes == 0
