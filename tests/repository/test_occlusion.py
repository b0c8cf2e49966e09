"""The occlusion map is what one computes by hand, costs what it says, and holds up nobody."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import artifacts
from serving.engine import selection as runtime
from serving.engine.buckets import Outputs
from serving.engine.measurements import Measurements
from serving.engine.selection import Options
from serving.errors import DeadlineExceeded, Overloaded
from serving.repository import occlusion
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode

PICTURE = colours()
PIXELS = np.asarray(PICTURE)


@pytest.fixture
def sound(tmp_path: Path) -> runtime.Model:
    artifact = artifacts.read(toy.write_artifact(tmp_path))
    return runtime.load(artifact, Measurements(tmp_path), Options("cpu"))


def model(
    sound: runtime.Model,
    run: Callable[[np.ndarray], np.ndarray] | None = None,
    settings: Settings | None = None,
    seconds: float = 1e-4,
) -> ServedModel:
    computing = replace(sound, run=run or sound.run, image_seconds=seconds)
    return ServedModel(computing, settings or Settings(), lambda backend: sound)


def test_the_map_says_how_far_the_best_class_falls(sound: runtime.Model) -> None:
    found = asyncio.run(occlusion.explain(model(sound), encode(PICTURE), 4))
    matrix = toy.weights((8, 8, 3), 3)
    whole = toy.expected(PIXELS[None], matrix)[0]
    best = int(whole.argmax())
    falls = np.array(found.falls)
    assert falls.shape == (4, 4)
    for row in range(4):
        for column in range(4):
            hidden = PIXELS.copy()
            rows, columns = (slice(2 * max(i - 1, 0), 2 * min(i + 2, 4)) for i in (row, column))
            hidden[rows, columns] = PIXELS.mean(axis=(0, 1)).round()
            left = toy.expected(hidden[None], matrix)[0, best]
            assert falls[row, column] == pytest.approx(whole[best] - left, abs=1e-5)
    assert np.abs(falls).max() > 0.01  # or nothing was measured
    np.testing.assert_array_equal(found.answer.image, PIXELS)
    np.testing.assert_allclose(found.answer.probabilities, whole, atol=1e-5)


def test_the_parts_of_a_picture_that_cannot_be_divided_evenly_cover_it() -> None:
    image = np.arange(5 * 7 * 1, dtype=np.uint8).reshape(5, 7, 1) * 7
    changed = [copy != image for copy in occlusion.covered(image, 3, 4)]
    assert len(changed) == 12
    mean = image.mean().round()
    assert np.array_equal(np.any(changed, axis=0), image != mean)


def test_no_part_is_smaller_than_a_pixel(sound: runtime.Model) -> None:
    found = asyncio.run(occlusion.explain(model(sound), encode(PICTURE), 32))
    assert np.array(found.falls).shape == (8, 8)


def test_all_its_pictures_need_room(sound: runtime.Model) -> None:
    gate, begun = threading.Event(), threading.Event()

    def run(images: np.ndarray) -> Outputs:
        begun.set()
        gate.wait(60)
        return sound.run(images)

    async def scenario() -> None:
        served = model(sound, run, Settings(queue=17), seconds=0.02)  # slow enough for a thread
        first = asyncio.create_task(served.answer(encode(PICTURE)))
        await asyncio.to_thread(begun.wait, 10)
        second = asyncio.create_task(served.answer(encode(PICTURE)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 images are waiting; the limit is 17"):
            await occlusion.explain(served, encode(PICTURE), 4)  # 17 more
        third = asyncio.create_task(occlusion.explain(served, encode(PICTURE), 3))  # 10 more
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, second, third)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_others_are_answered_between_its_pictures(sound: runtime.Model) -> None:
    """Whoever asks while a map is computed waits for one wave of it, not for the map."""
    sizes = []

    def run(images: np.ndarray) -> Outputs:
        sizes.append(len(images))
        return sound.run(images)

    async def scenario() -> int:
        served = model(sound, run)
        task = asyncio.create_task(occlusion.explain(served, encode(PICTURE), 8))
        while len(sizes) < 3:
            await asyncio.sleep(0)
        await served.answer(encode(PICTURE))
        assert not task.done()
        before = sum(sizes)
        await task
        return before

    computed = asyncio.run(scenario())
    assert computed <= 1 + 3 * occlusion.WAVE + 1 + occlusion.WAVE
    assert sum(sizes) == 1 + 64 + 1
    assert max(sizes) <= occlusion.WAVE + 1


def test_what_nobody_waits_for_is_not_computed(sound: runtime.Model) -> None:
    sizes = []

    def run(images: np.ndarray) -> Outputs:
        sizes.append(len(images))
        return sound.run(images)

    async def scenario() -> None:
        task = asyncio.create_task(occlusion.explain(model(sound, run), encode(PICTURE), 8))
        while len(sizes) < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert sum(sizes) <= 1 + 2 * occlusion.WAVE


def test_its_pictures_have_the_deadline_of_the_request(sound: runtime.Model) -> None:
    def slow(images: np.ndarray) -> Outputs:
        time.sleep(0.05)
        return sound.run(images)

    served = model(sound, slow, Settings(deadline_ms=200))
    with pytest.raises(DeadlineExceeded, match="not computed within 200 ms"):
        asyncio.run(occlusion.explain(served, encode(Image.fromarray(PIXELS)), 8))
