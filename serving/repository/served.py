"""One served version of a model: its decoder, its queue and its answers. Bytes -> image -> probabilities -> JSON.

Knows nothing of HTTP, nor that there are other models.
"""

import asyncio
import functools
import json
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from serving.engine import selection as runtime
from serving.engine.admission import Pace
from serving.engine.batching import Batcher, Job
from serving.engine.fair_pool import Turns
from serving.engine.providers import Way, one_line
from serving.errors import DeadlineExceeded, Overloaded, Unavailable
from serving.images.decode import TakesLong, open_image, plain_png, to_array
from serving.operations.metrics import Meter, Stage
from serving.settings import Settings

log = logging.getLogger("shortcut")

Prediction = dict[str, Any]

INLINE_PIXELS = 128 * 128  # up to this, decoding costs less than waking a thread
INLINE_BYTES = 128 * 1024  # of a file; reading the header of a larger one may already take long
# Two, so that one enormous picture does not hold up all others; more would cost memory, up to 0.8 GB each, and there
# is a worker for every core.
_DECODERS = Turns(2, "decode")
LAST_SECONDS = 1.0  # in which a worker that must end writes what it has to say
DECODE_SECONDS = 0.05  # of a large picture, before any was measured
DECODE_SHARE = 0.4  # of the deadline, that the wait for a decoder may last; the queue for the model has another half


class ServedModel:
    """One version, ready: bytes -> image -> probabilities -> ranked predictions.

    If its execution provider fails, what was computed is answered 503 and `load` finds another (or the same again); if
    there is none, or if it hangs, the process ends, to be replaced by a new one.
    """

    def __init__(self, model: runtime.Model, settings: Settings, load: Callable[[Way | None], runtime.Model]):
        self.model = model
        self.computes = True
        self._load = load
        self.artifact = model.artifact
        self._settings = settings
        self._start = _json({"model": self.artifact.name, "version": self.artifact.version})[:-1] + ',"predictions":['
        self._labels = [
            _json({"label": label, "index": i})[:-1] + ',"probability":' for i, label in enumerate(self.artifact.labels)
        ]
        self._meter = Meter(self.artifact.name, self.artifact.version)
        self.batcher = Batcher(
            _weakly(self._compute),
            ThreadPoolExecutor(1, thread_name_prefix=model.name),
            self._meter,
            stuck=_weakly(self._stuck),
            image_seconds=model.image_seconds,
            queue=settings.queue,
            deadline_seconds=settings.deadline_ms / 1000,
        )
        self._decoding = Pace(settings.queue, DECODE_SHARE * settings.deadline_ms / 1000, DECODE_SECONDS)

    def adopt(self) -> None:
        """It is served from now on."""
        self._meter.loaded(self.model.provider, self.model.way.precision, self.batcher)

    def admit(self, count: int = 1) -> None:
        """Raises Overloaded if `count` more images find no room, or Unavailable: known before the cost of decoding."""
        if not self.computes:
            raise self._unavailable()
        self.batcher.admit(count)

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"{self.model.name} cannot be computed at the moment")

    def decode_now(self, data: bytes) -> np.ndarray | None:
        """A small upload's bytes as this model's input (H, W, C) uint8; None for one that takes longer than waking a
        thread. Raises what images.decode_image raises."""
        artifact = self.artifact
        if len(data) > INLINE_BYTES:
            return None
        started = time.perf_counter()
        array = plain_png(data, artifact.input_shape, artifact.input_convention)
        if array is None:
            try:
                image = open_image(data, self._settings.max_pixels, quick=True)
                if image.width * image.height > INLINE_PIXELS:
                    return None
                array = self._to_array(image)
            except TakesLong:
                return None
        self._meter.decoded(time.perf_counter() - started)
        return array

    async def decode(self, data: bytes) -> np.ndarray:
        """The same for any upload; a large one is decoded beside the event loop (Pillow releases the GIL).

        Raises Overloaded or DeadlineExceeded too, where too many wait for a decoder or one waited too long.
        """
        array = self.decode_now(data)
        if array is None:
            array = await self._decode_in_turn(data)
        return array

    async def _decode_in_turn(self, data: bytes) -> np.ndarray:
        name, pace = self.artifact.name, self._decoding
        waiting = _DECODERS.waiting(name)
        if waiting >= pace.room:
            self._meter.rejected()
            raise Overloaded(f"{waiting} large pictures wait to be decoded; the limit is {pace.room}{pace.why}")
        queued, done = time.perf_counter(), 1
        began = [queued]  # corrected by the thread
        try:
            call = functools.partial(self._decode, data, queued, began)
            array: np.ndarray = await asyncio.wrap_future(_DECODERS.submit(name, call))
        except asyncio.CancelledError:
            done = 0
            raise
        except DeadlineExceeded:
            done = 0
            self._meter.expired()
            raise
        finally:
            ended = time.perf_counter()
            pace.ended(done, began[0], ended, _DECODERS.waiting(name) > 0)
        self._meter.decoded(ended - queued)
        return array

    def _decode(self, data: bytes, queued: float, began: list[float]) -> np.ndarray:
        began[0] = time.perf_counter()
        if began[0] - queued > self._settings.deadline_ms / 1000:
            raise DeadlineExceeded(f"not decoded within {self._settings.deadline_ms} ms")
        return self._to_array(open_image(data, self._settings.max_pixels))

    def _to_array(self, image: Image.Image) -> np.ndarray:
        artifact = self.artifact
        return to_array(image, artifact.input_shape, artifact.input_convention, artifact.resample)

    def submit(self, image: np.ndarray, done: Callable[[Job], None]) -> Job:
        """Queue one decoded image; `done` gets its job once the answer is there. Raises Overloaded."""
        return self.batcher.submit(image, done)

    async def classify(self, images: Sequence[np.ndarray], asked: float | None = None) -> list[Job]:
        """The answered job of each decoded image, in order; their deadline counts from `asked`, by default from now.
        Raises Overloaded or DeadlineExceeded."""
        return await self.batcher.classify(images, asked)

    def _compute(self, images: np.ndarray) -> np.ndarray:
        model = self.model
        if not self.computes:
            raise self._unavailable()
        try:
            return model.run(images)
        except Exception as err:  # a class of ONNX Runtime's per status code
            self._meter.failed()
            self.computes = False
            log.error("%s failed on %s: %s", model.name, model.way, one_line(err))
            threading.Thread(target=self._recover, args=(model, one_line(err)), daemon=True).start()
            raise self._unavailable() from err

    def _stuck(self, seconds: float) -> Exception:
        """A batch has run for so long that it will not end. A thread cannot be stopped: the process is."""
        log.critical("%s has been computing for %.0f s, this worker ends", self.model, seconds)
        self._meter.failed()
        self.computes = False
        asyncio.get_running_loop().call_later(LAST_SECONDS, os._exit, 1)
        return self._unavailable()

    def _recover(self, failed: runtime.Model, why: str) -> None:
        try:
            found = self._load(failed.way)
        except Exception as err:  # StartError, or what nobody thought of: either way there is nothing to go on with
            log.critical("%s cannot be computed any more, this worker ends: %s", failed.name, one_line(err))
            os.kill(os.getpid(), signal.SIGINT)  # without the draining of SIGTERM, which would take new connections
            return
        self.model = replace(found, reason=f"{failed.way} failed ({why}); {found.reason}")
        self.batcher.costs(found.image_seconds)
        self._meter.moved(found.provider, found.way.precision)
        self.computes = True
        log.warning("%s", self.model)

    def rank(self, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        """The `top_k` most probable classes of (K,) probabilities, best first; ties by index."""
        labels = self.artifact.labels
        return [{"label": labels[i], "index": i, "probability": p} for i, p in _best(probabilities, top_k)]

    def body(self, probabilities: np.ndarray, top_k: int) -> bytes:
        """The JSON of POST /classify: as json.dumps of `rank` would write it, in half the time."""
        ranked = ",".join([f"{self._labels[i]}{p!r}}}" for i, p in _best(probabilities, top_k)])
        return f"{self._start}{ranked}]}}".encode()

    def retire(self) -> None:
        """It is not served any more."""
        self._meter.retired()

    def describe(self) -> dict[str, Any]:
        artifact = self.artifact
        return {
            "version": artifact.version,
            "labels": list(artifact.labels),
            "input_shape": list(artifact.input_shape),
            "input_convention": artifact.input_convention,
            "provider": self.model.provider,
            "precision": self.model.way.precision,
            "provider_reason": self.model.reason,
            "images_per_second": round(1 / self.model.image_seconds, 1),
            "largest_deviation": self.model.deviation,
            "metrics": artifact.card.get("metrics"),
        }


def stages(decoding: float, job: Job) -> list[Stage]:
    """Where the time of an answered image went; `decoding` began at that moment."""
    return [
        Stage("decode", decoding, job.queued),
        Stage("queue", job.queued, job.taken),
        Stage("compute", job.taken, job.computed),
    ]


def _best(probabilities: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    """(index, probability rounded to 6 digits), the most probable first; ties by index."""
    values = probabilities.tolist()
    if values[0] != values[0]:  # NaN, which is no JSON; a softmax has it everywhere or nowhere
        raise ArithmeticError("the model's probabilities are not numbers")
    if top_k == 1:
        best = [values.index(max(values))]
    else:
        best = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    return [(i, round(values[i], 6)) for i in best]


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method that does not keep its object. What is in no cycle is freed when the last request lets go of it,
    also where the garbage collector does not look any more (gc.freeze)."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        if bound is None:  # every request that waited for it has gone
            raise Unavailable("the model is not served any more")
        return bound(*arguments)

    return call
