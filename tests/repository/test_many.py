"""Many pictures of one request: in order, on reserved places, and no longer than somebody waits for them."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import artifacts
from serving.engine import selection as runtime
from serving.engine.measurements import Measurements
from serving.engine.providers import Backend
from serving.engine.selection import Options
from serving.errors import ClassifyError, InvalidImage, InvalidRequest, Overloaded, StartError, Unavailable
from serving.images.picture import Picture
from serving.repository.answers import Answer
from serving.repository.many import MAX_LARGE, predict_many
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode

SMALL = encode(colours())
LARGE = encode(colours((600, 400)))


@pytest.fixture
def sound(tmp_path: Path) -> runtime.Model:
    artifact = artifacts.read(toy.write_artifact(tmp_path))
    return runtime.load(artifact, Measurements(tmp_path), Options("cpu"))


def served(model: runtime.Model, **settings: Any) -> ServedModel:
    return ServedModel(model, Settings(**settings), lambda backend: model)


def run(scenario: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scenario(), 30))


class Gate:
    """Decoding on a decoder's thread waits for it; counts what has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.open, self.begun = threading.Event(), 0
        decode = Picture.to_array

        def to_array(picture: Picture, *arguments: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                self.begun += 1
                self.open.wait(60)
            return decode(picture, *arguments)

        monkeypatch.setattr(Picture, "to_array", to_array)


def summary(outcomes: Sequence[Answer | ClassifyError]) -> list[Any]:
    return [int(o.probabilities.argmax()) if isinstance(o, Answer) else type(o) for o in outcomes]


def test_each_has_its_outcome_in_order(sound: runtime.Model) -> None:
    model = served(sound)
    pictures = [SMALL, b"no picture", LARGE, LARGE[:-300], SMALL]
    kinds = summary(run(lambda: predict_many(model, pictures)))
    assert kinds[1] == kinds[3] == InvalidImage
    assert kinds[0] == kinds[4] == int(run(lambda: model.answer(SMALL)).probabilities.argmax())
    assert model.batcher.reserved == 0
    assert run(lambda: predict_many(model, [])) == []


@pytest.mark.parametrize("bad", [b"no picture", LARGE[:-300]])
def test_without_partial_failure_the_first_is_raised(sound: runtime.Model, bad: bytes) -> None:
    model = served(sound)
    with pytest.raises(InvalidImage, match=r"^picture 2 of 3: the "):
        run(lambda: predict_many(model, [SMALL, bad, SMALL], partial=False))
    assert model.batcher.reserved == 0


def test_arrays_need_no_decoding(sound: runtime.Model) -> None:
    model = served(sound)
    images = sound.artifact.golden_images
    answers = run(lambda: predict_many(model, images, partial=False))
    found = np.stack([one.probabilities for one in answers])
    np.testing.assert_allclose(found, sound.artifact.golden_probabilities, atol=1e-5)
    for wrong in (images.astype(np.float32), images[:, 1:], images[0]):
        with pytest.raises(InvalidRequest, match=r"toy-colours takes Nx8x8x3 of uint8, got"):
            run(lambda wrong=wrong: predict_many(model, wrong))


def test_a_limit_of_64_lets_64_in(sound: runtime.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight requests of 64 large pictures at once: they are with the decoders before any waits in the queue."""
    gate = Gate(monkeypatch)
    model = served(sound, queue=64)

    async def scenario() -> list[Any]:
        tasks = [asyncio.create_task(predict_many(model, [LARGE] * 64)) for _ in range(8)]
        while not gate.begun:
            await asyncio.sleep(0.01)
        assert model.batcher.reserved + len(model.batcher) == 64
        with pytest.raises(Overloaded, match="64 images are waiting; the limit is 64"):
            model.admit()
        gate.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = run(scenario)
    assert sorted(type(one).__name__ for one in outcomes) == ["Overloaded"] * 7 + ["list"]
    assert (model.batcher.reserved, len(model.batcher)) == (0, 0)


def test_places_go_back_when_the_client_goes_away(sound: runtime.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    model = served(sound, queue=64)

    async def scenario() -> None:
        batch = asyncio.create_task(predict_many(model, [LARGE] * 60))
        alone = asyncio.create_task(model.answer(LARGE))
        while gate.begun < 2:
            await asyncio.sleep(0.01)
        assert model.batcher.reserved == 61
        for task in (batch, alone):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert model.batcher.reserved == 0
        gate.open.set()
        await model.answer(LARGE)
        assert gate.begun <= MAX_LARGE + 3  # what nobody waits for any more is not decoded

    run(scenario)


def test_a_large_picture_that_cannot_be_decoded_leaves_its_place(sound: runtime.Model) -> None:
    model = served(sound)
    with pytest.raises(InvalidImage):
        run(lambda: model.answer(LARGE[:-300]))
    assert model.batcher.reserved == 0


def test_the_services_failure_ends_the_request(sound: runtime.Model) -> None:
    """No further picture is tried after the first one has shown that nothing can be computed."""
    ran: list[int] = []

    def broken(images: np.ndarray) -> np.ndarray:
        ran.append(len(images))
        raise RuntimeError("device lost")

    decoded: list[bytes] = []

    def nothing_else(backend: Backend | None) -> runtime.Model:
        raise StartError("there is no other")

    model = ServedModel(replace(sound, run=broken), Settings(), nothing_else)
    predict = model.predict

    def counting(data: bytes, *more: Any) -> Any:
        decoded.append(data)
        return predict(data, *more)

    model.predict = counting  # type: ignore[method-assign]
    large = encode(colours((400, 400)))
    with pytest.raises(Unavailable):
        run(lambda: predict_many(model, [large] * 64))
    assert len(ran) == 1
    assert len(decoded) < 10
    assert model.batcher.reserved == 0
