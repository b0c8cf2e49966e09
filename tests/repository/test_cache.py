"""Answers that are kept: within a bound, once for all who wait, and never a failure."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.engine.measurements import Measurements
from serving.errors import ClassifyError, InvalidImage, Overloaded
from serving.repository.answers import Answer, Outcome
from serving.repository.cache import ENTRY_BYTES, AnswerCache, key_of
from serving.repository.models import Repository
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode, grey


class Work:
    """Stands for a picture that is being computed; `started` has one for each that was begun."""

    large = False

    def __init__(self) -> None:
        self.started: list[Work] = []
        self.cancelled = False

    def __call__(self, done: Callable[[Outcome], None]) -> "Work":
        work = Work()
        work.done = done  # type: ignore[attr-defined]
        self.started.append(work)
        return work


def answer(value: float = 1.0, classes: int = 3) -> Answer:
    batch = np.full((32, classes), value, np.float32)
    return Answer(None, batch[7], None, None, np.zeros((8, 8, 3), np.uint8))  # type: ignore[arg-type]


def key(name: str) -> tuple[str, None, bytes]:
    return ("model", None, name.encode())


def test_hit_is_answered_at_once_and_starts_nothing() -> None:
    cache, work, told = AnswerCache(10**6), Work(), []
    cache.predict(key("a"), told.append, work)
    work.started[0].done(answer())  # type: ignore[attr-defined]
    cache.predict(key("a"), told.append, work)
    assert len(work.started) == 1
    assert [one.probabilities.tolist() for one in told] == [[1, 1, 1]] * 2
    assert told[1].probabilities.base is None  # its batch is not kept
    assert told[1].image.size == 0


def test_many_who_wait_for_one_picture_cost_one_computation() -> None:
    cache, work, told = AnswerCache(10**6), Work(), []
    waiters = [cache.predict(key("a"), told.append, work) for _ in range(8)]
    assert len(work.started) == 1
    waiters[0].cancelled = True  # the one that began it goes away: the others still wait
    assert not work.started[0].cancelled
    work.started[0].done(answer())  # type: ignore[attr-defined]
    assert len(told) == 7


def test_work_ends_with_the_last_who_waits() -> None:
    cache, work = AnswerCache(10**6), Work()
    waiters = [cache.predict(key("a"), lambda outcome: None, work) for _ in range(2)]
    for waiter in waiters:
        waiter.cancelled = True
    assert work.started[0].cancelled
    cache.predict(key("a"), lambda outcome: None, work)
    assert len(work.started) == 2


def test_failure_is_neither_kept_nor_shared() -> None:
    cache, work = AnswerCache(10**6), Work()
    told: list[Outcome] = []
    for _ in range(3):
        cache.predict(key("a"), told.append, work)
    work.started[0].done(Overloaded("full"))  # type: ignore[attr-defined]
    assert len(told) == 1
    assert len(work.started) == 3  # the two others began on their own
    for own in work.started[1:]:
        own.done(answer())  # type: ignore[attr-defined]
    assert [isinstance(one, Answer) for one in told] == [False, True, True]
    cache.predict(key("a"), told.append, work)
    assert len(work.started) == 4


def test_refusal_at_the_start_leaves_nothing_behind() -> None:
    cache, work = AnswerCache(10**6), Work()

    def refuse(done: Callable[[Outcome], None]) -> Work:
        raise InvalidImage("no picture")

    for _ in range(2):
        with pytest.raises(InvalidImage):
            cache.predict(key("a"), lambda outcome: None, refuse)
    cache.predict(key("a"), lambda outcome: None, work)
    assert len(work.started) == 1


def test_bytes_stay_within_the_limit_under_distinct_pictures() -> None:
    entry = ENTRY_BYTES + 1000 * 4
    cache, work = AnswerCache(10 * entry), Work()
    for i in range(1000):
        cache.predict(key(str(i)), lambda outcome: None, work)
        work.started[-1].done(answer(classes=1000))  # type: ignore[attr-defined]
        assert cache.bytes <= 10 * entry
    for i in range(990, 1000):  # the last ten are there, the others not
        cache.predict(key(str(i)), lambda outcome: None, work)
    assert len(work.started) == 1000
    cache.predict(key("0"), lambda outcome: None, work)
    assert len(work.started) == 1001


def test_keys_differ_by_model_threshold_and_picture() -> None:
    keys = {key_of(model, threshold, data) for model in "ab" for threshold in (None, 0.5) for data in (b"x", b"y")}
    assert len(keys) == 8
    assert key_of("a", None, b"x") == key_of("a", None, b"x")


def test_served_model_computes_a_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write_artifact(tmp_path / "models")
    settings = Settings(
        models=tmp_path / "models",
        default_model="toy-colours",
        provider="cpu",
        cache=tmp_path,
        answer_cache_bytes=10**6,
    )
    served = Repository(settings, 1, Measurements(tmp_path)).find()
    computed = []
    compute = ServedModel.compute

    def counting(self: ServedModel, data: bytes, *more: Any) -> Any:
        computed.append(data)
        return compute(self, data, *more)

    monkeypatch.setattr(ServedModel, "compute", counting)
    picture, other = encode(colours()), encode(grey(9, (8, 8)).convert("RGB"))

    async def ask(data: bytes) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        served.predict(data, future.set_result)
        return await future

    async def all_of_them() -> list[Outcome]:
        together = await asyncio.gather(*(ask(picture) for _ in range(5)))
        return [*together, await ask(picture), await ask(other)]

    outcomes = asyncio.run(all_of_them())
    answers = [one.probabilities.tolist() for one in outcomes if isinstance(one, Answer)]
    assert len(answers) == 7
    assert answers[:6] == [answers[0]] * 6
    assert answers[6] != answers[0]
    assert computed == [picture, other]

    async def damaged() -> None:
        for _ in range(2):
            with pytest.raises(ClassifyError):
                await ask(picture[:40])

    asyncio.run(damaged())
