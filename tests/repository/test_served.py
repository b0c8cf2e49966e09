"""An execution provider that fails while it serves, at its seam: a model whose `run` raises."""

import asyncio
import gc
import threading
import time
import weakref
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import artifacts
from serving.engine import batching
from serving.engine import selection as runtime
from serving.engine.buckets import Outputs
from serving.engine.measurements import Measurements
from serving.engine.providers import Backend
from serving.engine.selection import Options
from serving.errors import DeadlineExceeded, Overloaded, StartError, Unavailable
from serving.images import picture as images
from serving.protocols.native import describe
from serving.repository.answers import Answer, Outcome
from serving.repository.many import predict_many
from serving.repository.predictor import Predictor
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, digit, encode, with_chunks


def broken(images: np.ndarray) -> Outputs:
    raise RuntimeError("CUDA error: device lost")


def upload(artifact: artifacts.Artifact) -> bytes:
    """The first golden picture as a file."""
    return encode(Image.fromarray(artifact.golden_images[0]))


def ask(served: ServedModel, data: bytes) -> np.ndarray:
    return asyncio.run(served.answer(data)).probabilities


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def artifact(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path))


@pytest.fixture
def sound(artifact: artifacts.Artifact, tmp_path: Path) -> runtime.Model:
    return runtime.load(artifact, Measurements(tmp_path), Options("cpu"))


def test_a_provider_that_fails_is_replaced_by_another(artifact: artifacts.Artifact, sound: runtime.Model) -> None:
    asked = []

    def load(without: Backend | None) -> runtime.Model:
        asked.append(without)
        time.sleep(0.1)
        return sound

    failing = replace(sound, run=broken, backend=Backend("cuda", "tf32"))
    served = ServedModel(failing, Settings(), load)
    image = upload(artifact)
    for _ in range(3):  # while it is replaced, nothing is tried on what has failed
        with pytest.raises(Unavailable, match="cannot be computed at the moment"):
            ask(served, image)
        assert not served.computes
    wait_until(lambda: served.computes)
    assert asked == [Backend("cuda", "tf32")]
    assert np.abs(ask(served, image) - artifact.golden_probabilities[0]).max() < 1e-5
    described = describe(served)
    assert described["provider"] == "CPUExecutionProvider"
    assert described["provider_reason"].startswith("cuda tf32 failed (CUDA error: device lost); ")


def test_a_worker_without_another_provider_ends_to_be_replaced(
    sound: runtime.Model, artifact: artifacts.Artifact
) -> None:
    def load(without: Backend | None) -> runtime.Model:
        raise StartError("nothing else is here")

    ended: list[bool] = []
    served = ServedModel(replace(sound, run=broken), Settings(), load, lost=ended.append)
    with pytest.raises(Unavailable):
        ask(served, upload(artifact))
    wait_until(lambda: bool(ended))
    assert ended == [False]
    assert not served.computes


def test_a_model_moves_to_a_faster_backend_while_it_is_asked(
    sound: runtime.Model, artifact: artifacts.Artifact
) -> None:
    used = []

    def noting(name: str) -> Callable[[np.ndarray], Outputs]:
        def run(images: np.ndarray) -> Outputs:
            used.append(name)
            return sound.run(images)

        return run

    fast = replace(sound, run=noting("fast"), backend=Backend("openvino", "bf16"), reason="the fastest")
    slow = replace(sound, run=noting("slow"), measuring=True)
    served = ServedModel(slow, Settings(), lambda backend: sound, lambda model: fast)
    assert describe(served)["measuring"]
    image = upload(artifact)
    first = ask(served, image)
    thread = threading.Thread(target=served.take_faster)
    thread.start()
    thread.join(60)
    assert np.array_equal(ask(served, image), first)
    assert used == ["slow", "fast"]
    described = describe(served)
    assert (described["provider"], described["precision"]) == ("OpenVINO", "bf16")
    assert (described["provider_reason"], described["measuring"]) == ("the fastest", False)


def test_what_has_replaced_a_failed_provider_meanwhile_stays(
    sound: runtime.Model, artifact: artifacts.Artifact
) -> None:
    """The faster one may be on the provider that has just failed."""
    failing = replace(sound, run=broken, measuring=True)

    def faster(model: runtime.Model) -> runtime.Model:
        with pytest.raises(Unavailable):
            ask(served, upload(artifact))
        wait_until(lambda: served.computes)
        return replace(sound, run=broken)

    served = ServedModel(failing, Settings(), lambda backend: replace(sound, measuring=True), faster)
    served.take_faster()
    assert served.model.run is sound.run
    assert not served.model.measuring
    ask(served, upload(artifact))


def test_no_more_large_pictures_wait_for_a_decoder_than_can_be_decoded_in_time(
    sound: runtime.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = [], threading.Event()

    def to_array(picture: images.Picture, *arguments: Any) -> images.Decoded:
        if threading.current_thread() is not threading.main_thread():
            begun.append(picture)
            gate.wait(60)
        return decode(picture, *arguments)

    async def scenario(served: ServedModel, picture: bytes) -> None:
        waiting = [asyncio.create_task(served.answer(picture)) for _ in range(2)]
        while len(begun) < 2:  # two decoders
            await asyncio.sleep(0.01)
        waiting += [asyncio.create_task(served.answer(picture)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="8 large pictures wait to be decoded; the limit is 8, what can be"):
            await served.answer(picture)
        waiting[-1].cancel()  # its client has gone, and leaves its place
        await asyncio.sleep(0)
        waiting[-1] = asyncio.create_task(served.answer(picture))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*waiting)

    decode = images.Picture.to_array
    monkeypatch.setattr(images.Picture, "to_array", to_array)
    served = ServedModel(sound, Settings(deadline_ms=1000), lambda backend: sound)
    asyncio.run(asyncio.wait_for(scenario(served, encode(colours((400, 300)), "JPEG")), 30))


def test_the_deadline_counts_from_when_it_was_asked(sound: runtime.Model, artifact: artifacts.Artifact) -> None:
    async def submitted(asked: float) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        served = ServedModel(sound, Settings(deadline_ms=1000), lambda backend: sound)
        served.submit(artifact.golden_images[0], future.set_result, asked=asked)
        return await future

    assert isinstance(asyncio.run(submitted(time.perf_counter() - 1.1)), DeadlineExceeded)
    assert isinstance(asyncio.run(submitted(time.perf_counter() - 0.1)), Answer)


def test_a_burst_of_large_pictures_does_not_make_the_next_one_look_slow(sound: runtime.Model) -> None:
    async def scenario(served: ServedModel, picture: bytes) -> None:
        for _ in range(20):
            await served.answer(picture)
        usual = served.decoder.service_time.seconds
        await asyncio.gather(*(served.answer(picture) for _ in range(40)))
        assert served.decoder.service_time.seconds < 10 * usual  # and not the time of the burst, 40 times that

    served = ServedModel(sound, Settings(), lambda backend: sound)
    asyncio.run(asyncio.wait_for(scenario(served, encode(colours((400, 400)), "PNG")), 60))


PIECES = b"\xff\xe5\x00\x02" * 1000  # empty segments
TEXTS = [(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 100_000)) for _ in range(5)]


@pytest.mark.parametrize(
    "laborious",
    [
        encode(colours(), "JPEG")[:2] + PIECES + encode(colours(), "JPEG")[2:],
        encode(colours(), "JPEG")[:-2] + b"\xff\xda\x00\x02" * 20 + b"\xff\xd9",
        with_chunks(encode(colours((100, 100))), TEXTS),
    ],
)
def test_what_takes_long_though_it_is_small_is_not_decoded_on_the_event_loop(
    sound: runtime.Model, laborious: bytes
) -> None:
    served = ServedModel(sound, Settings(), lambda backend: sound)
    assert served.decoder.now(laborious) is None
    assert isinstance(served.decoder.now(encode(colours(), "JPEG")), images.Decoded)


def test_dear_small_picture_leaves_the_event_loop(tmp_path: Path) -> None:
    """A checkerboard of 158 bytes: finding a figure in it would stop the loop for tens of milliseconds."""
    artifact = artifacts.read(toy.write_artifact(tmp_path, shape=(28, 28, 1), convention="light_on_dark_centred"))
    model = runtime.load(artifact, Measurements(tmp_path), Options("cpu"))
    board = Image.fromarray(((np.indices((128, 128)).sum(axis=0) % 2) * 255).astype(np.uint8))
    served = ServedModel(model, Settings(), lambda backend: model)
    assert served.decoder.now(encode(board)) is None
    assert isinstance(served.decoder.now(encode(digit("7"))), images.Decoded)
    assert asyncio.run(served.answer(encode(board))).labels == artifact.labels


def test_a_batch_that_never_ends_is_given_up_and_the_worker_with_it(
    sound: runtime.Model, artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    ended: list[bool] = []

    def hang(images: np.ndarray) -> Outputs:
        gate.wait(60)
        return sound.run(images)

    async def scenario(served: ServedModel) -> None:
        image = upload(artifact)
        running = asyncio.create_task(served.answer(image))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(served.answer(image))
        with pytest.raises(DeadlineExceeded):  # though nothing takes it from the queue
            await waiting
        with pytest.raises(Unavailable):
            await running
        with pytest.raises(Unavailable):
            served.check()
        await asyncio.sleep(0.1)
        gate.set()

    monkeypatch.setattr(batching, "STUCK_SECONDS", 0.5)
    slow = replace(sound, run=hang, image_seconds=1.0)
    served = ServedModel(slow, Settings(deadline_ms=100), lambda backend: sound, lost=ended.append)
    asyncio.run(asyncio.wait_for(scenario(served), 20))
    assert ended == [True]


def test_a_model_is_freed_with_its_last_request_even_if_no_garbage_is_collected(
    sound: runtime.Model, artifact: artifacts.Artifact
) -> None:
    gc.disable()
    try:
        served = ServedModel(sound, Settings(), lambda backend: sound)
        served.start()
        ask(served, upload(artifact))
        served.retire()
        gone = weakref.ref(served)
        del served
        assert gone() is None
    finally:
        gc.enable()


def test_threshold_reaches_the_backend(sound: runtime.Model, artifact: artifacts.Artifact) -> None:
    """A less exact backend computes again what is close to it."""
    judged: list[list[float] | None] = []

    def run(images: np.ndarray, thresholds: np.ndarray | None = None) -> Outputs:
        judged.append(None if thresholds is None else np.nan_to_num(thresholds, nan=-1).tolist())
        return sound.run(images)

    artifact.card["threshold"] = {"probability": 0.75}
    less_exact = replace(sound, artifact=artifact, run=run, backend=Backend("openvino", "bf16"))
    served = ServedModel(less_exact, Settings(), lambda backend: sound)
    image = upload(artifact)
    large = encode(Image.fromarray(artifact.golden_images[0]).resize((300, 300)))

    async def scenario() -> None:
        await served.answer(image)
        for least in (0.5, "card"):
            await served.answer(image, None, least)
        await asyncio.gather(served.answer(image), served.answer(image, None, 0.25))
        await served.answer(large, None, 0.5)
        await predict_many(served, artifact.golden_images[:2], min_probability=0.5)

    asyncio.run(scenario())
    Predictor(less_exact).predict([image], min_probability="card")
    assert judged == [None, [0.5], [0.75], [-1, 0.25], [0.5], [0.5, 0.5], [0.75]]
