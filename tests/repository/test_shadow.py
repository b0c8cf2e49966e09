"""A version that is asked beside the one that answers: compared and counted, never in the way."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving import artifacts
from serving.engine.buckets import Outputs
from serving.engine.measurements import Measurements
from serving.errors import StartError, UnknownModel
from serving.operations import metrics
from serving.operations.comparison import RESULTS
from serving.protocols.native import Limits, Native
from serving.repository import occlusion
from serving.repository.many import predict_many
from serving.repository.models import Repository, verify
from serving.repository.shadow import MOST_WAITING, Wanted, wanted
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode

PICTURE = encode(colours())
LARGE = encode(colours((200, 180)))
ARRAYS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each model's version 2 is another network, the same one, or one that takes larger pictures."""
    models = tmp_path_factory.mktemp("shadow") / "models"
    for name, seed, shape in (("toy-new", 7, (8, 8, 3)), ("toy-same", 0, (8, 8, 3)), ("toy-large", 0, (16, 16, 3))):
        toy.write_artifact(models, name)
        toy.write_artifact(models, name, 2, seed=seed, shape=shape)
    return models


def settings(folder: Path, said: str, **others: object) -> Settings:
    chosen = Settings(models=folder, default_model="toy-same", provider="cpu", cache=folder, shadow=said)
    return replace(chosen, **others)  # type: ignore[arg-type]


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Repository]]:
    made: list[Repository] = []

    def make(said: str, **others: object) -> Repository:
        made.append(Repository(settings(folder, said, **others), 1, Measurements(folder)))
        made[-1].replace(None)
        return made[-1]

    yield make
    for repository in made:
        for served in repository:
            served.retire()


def counts(name: str) -> dict[str, float]:
    rows = [
        row for row in metrics.exposition().decode().splitlines() if row.startswith("shortcut_shadow_pictures_total")
    ]
    mine = [row for row in rows if f'model="{name}"' in row]
    return {result: sum(float(row.split()[-1]) for row in mine if f'"{result}"' in row) for result in RESULTS}


class Asked:
    """What was counted since it was made."""

    def __init__(self, name: str):
        self._name, self._before = name, counts(name)

    def now(self) -> dict[str, float]:
        return {result: number - self._before[result] for result, number in counts(self._name).items()}

    async def until(self, number: int) -> dict[str, float]:
        deadline = time.monotonic() + 60
        while sum(self.now().values()) < number:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # nothing more comes
        return {result: count for result, count in self.now().items() if count}


def test_setting_names_versions_and_shares() -> None:
    assert wanted("") == {}
    assert wanted("a:2 b-c:3@0.1  d:4@1") == {"a": Wanted(2, 1.0), "b-c": Wanted(3, 0.1), "d": Wanted(4, 1.0)}
    for wrong in ("a", "a:", "a:x", "a:2@0", "a:2@2", "a:2@", "a:2,3", "a:2 a:3"):
        with pytest.raises(StartError, match="SHORTCUT_SHADOW="):
            wanted(wrong)


def test_shadow_is_loaded_and_not_served(folder: Path, serve: Callable[..., Repository]) -> None:
    found = serve("toy-new:2")
    assert found.find("toy-new").artifact.version == 1
    assert found.find("toy-same").artifact.version == 2  # the latest, as ever
    with pytest.raises(UnknownModel, match="toy-new has no version 2; there is 1"):
        found.find("toy-new", 2)
    listed = Native(lambda: found, Limits(1, 1, 1, 1)).list_models(None).body.decode()  # type: ignore[arg-type]
    assert '"shadows":[{"name":"toy-new","share":1.0,"version":2,' in listed
    verified = [name for name, _ in verify(settings(folder, "toy-new:2"), 1, Measurements(folder))]
    assert "toy-new version 2" in verified
    assert "toy-new version 1" in verified


@pytest.mark.parametrize(
    ("said", "versions", "message"),
    [
        ("toy-new:3", "", "asks for toy-new:3 beside another version; .* holds .*toy-new:1,2"),
        ("nobody:1", "", "asks for nobody:1"),
        ("toy-new:2", "toy-new:1,2", "both name toy-new:2"),
    ],
)
def test_shadow_that_cannot_be_ends_the_start(folder: Path, said: str, versions: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        list(verify(settings(folder, said, versions=versions), 1, Measurements(folder)))


def test_only_version_has_no_shadow(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path)
    with pytest.raises(StartError, match="beside another version"):
        artifacts.select(tmp_path, "", {"toy-colours": 1})
    toy.write_artifact(tmp_path, version=2)
    assert artifacts.select(tmp_path, "all", {"toy-colours": 1}) == [tmp_path / "toy-colours" / "2"]
    assert artifacts.select(tmp_path, "", {"toy-colours": 2}) == [tmp_path / "toy-colours" / "1"]


def test_each_way_of_asking_is_compared(serve: Callable[..., Repository]) -> None:
    served, asked = serve("toy-same:2").find("toy-same"), Asked("toy-same")

    async def scenario() -> dict[str, float]:
        await served.answer(PICTURE)
        await served.answer(LARGE)  # on a decoder's thread
        await predict_many(served, [PICTURE, LARGE, b"no picture"])
        await predict_many(served, ARRAYS)
        await occlusion.explain(served, PICTURE, 4)  # its picture, and none of the covered ones
        return await asked.until(8)

    assert asyncio.run(scenario()) == {"agrees": 8}


def test_disagreement_is_counted(serve: Callable[..., Repository]) -> None:
    found, asked = serve("toy-new:2"), Asked("toy-new")
    served = found.find("toy-new")
    images = np.random.default_rng(2).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    answers = [toy.expected(images, toy.weights((8, 8, 3), 3, seed)).argmax(axis=1) for seed in (0, 7)]
    agree = int((answers[0] == answers[1]).sum())
    assert 0 < agree < 20

    async def scenario() -> dict[str, float]:
        real = await predict_many(served, images, partial=False)
        assert [int(one.probabilities.argmax()) for one in real] == answers[0].tolist()
        return await asked.until(20)

    assert asyncio.run(scenario()) == {"agrees": agree, "differs": 20 - agree}
    assert 'shortcut_shadow_probability_difference_count{model="toy-new",version="2"} ' in metrics.exposition().decode()


def test_another_input_is_decoded_anew_and_arrays_cannot_be(serve: Callable[..., Repository]) -> None:
    served, asked = serve("toy-large:2").find("toy-large"), Asked("toy-large")

    async def scenario() -> dict[str, float]:
        await served.answer(PICTURE)
        await served.answer(LARGE)
        await predict_many(served, ARRAYS)
        return await asked.until(5)

    found = asyncio.run(scenario())
    assert found.pop("incomparable") == 3
    assert sum(found.get(result, 0) for result in ("agrees", "differs")) == sum(found.values()) == 2


def test_a_share_of_pictures(serve: Callable[..., Repository]) -> None:
    served, asked = serve("toy-same:2@0.25").find("toy-same"), Asked("toy-same")

    async def scenario() -> dict[str, float]:
        for _ in range(40):
            await served.answer(PICTURE)
        return await asked.until(10)

    assert asyncio.run(scenario()) == {"agrees": 10}


def test_a_slow_shadow_delays_nobody(serve: Callable[..., Repository]) -> None:
    found, asked = serve("toy-same:2"), Asked("toy-same")
    served, other = found.find("toy-same"), found.shadows["toy-same"]
    may, threads, order, real = threading.Event(), set(), [], other.model.run

    def slow(images: np.ndarray) -> Outputs:
        threads.add(threading.current_thread())
        order.append("shadow")
        assert may.wait(60)
        return real(images)

    other.runner._move(replace(other.model, run=slow))

    async def scenario() -> dict[str, float]:
        for _ in range(3 * MOST_WAITING):
            await served.answer(PICTURE)
            order.append("answer")
        assert asked.now()["dropped"] == 2 * MOST_WAITING
        may.set()
        return await asked.until(3 * MOST_WAITING)

    assert asyncio.run(scenario()) == {"agrees": MOST_WAITING, "dropped": 2 * MOST_WAITING}
    assert order[0] == "answer"
    assert threading.main_thread() not in threads


def test_a_shadow_that_fails_costs_nothing_else(serve: Callable[..., Repository]) -> None:
    found, asked = serve("toy-same:2"), Asked("toy-same")
    served, other = found.find("toy-same"), found.shadows["toy-same"]

    def broken(images: np.ndarray) -> Outputs:
        raise RuntimeError("device lost")

    sound = other.model
    other.runner._load = lambda backend: sound
    other.runner._move(replace(sound, run=broken))

    async def scenario() -> dict[str, float]:
        await served.answer(PICTURE)
        found_so_far = await asked.until(1)
        assert found.computes  # the service is ready
        deadline = time.monotonic() + 60
        while not other.computes:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await served.answer(PICTURE)
        await asked.until(2)
        return found_so_far

    assert asyncio.run(scenario()) == {"failed": 1}
    assert asked.now()["agrees"] == 1


def test_next_repository_keeps_the_shadow(folder: Path, serve: Callable[..., Repository], tmp_path: Path) -> None:
    toy.write_artifact(tmp_path, "toy-colours")
    toy.write_artifact(tmp_path, "toy-colours", 2)
    first = serve("toy-colours:2", models=tmp_path, default_model="toy-colours")
    toy.write_artifact(tmp_path, "toy-colours", 3)
    second = first.renewed()
    assert second is not None
    second.replace(first)
    try:
        assert second.shadows["toy-colours"] is first.shadows["toy-colours"]
        assert second.find().artifact.version == 3
        assert second.find().after is not None
        assert first.find().after is None
    finally:
        second.find().retire()
