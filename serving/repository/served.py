"""One served version of a model: its decoder, its queue and its answers. Bytes -> image -> probabilities -> JSON.

Knows nothing of HTTP, nor that there are other models.
"""

import asyncio
import contextlib
import functools
import json
import logging
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from serving.engine import selection as runtime
from serving.engine.admission import ServiceTime
from serving.engine.batching import Batcher, Job
from serving.engine.fair_pool import FairPool
from serving.engine.providers import Backend, one_line
from serving.errors import ClassifyError, DeadlineExceeded, Overloaded, Unavailable
from serving.images.picture import Decoded, Picture, TakesLong
from serving.images.png import plain_png
from serving.operations.metrics import Meter, Stage
from serving.settings import Settings

log = logging.getLogger("shortcut")

Prediction = dict[str, Any]

INLINE_PIXELS = 128 * 128  # up to this, decoding costs less than waking a thread
INLINE_BYTES = 128 * 1024  # of a file; reading the header of a larger one may already take long
# Two, so that one enormous picture does not hold up all others; more would cost memory, up to 0.8 GB each, and there
# is a worker for every core.
_DECODERS = FairPool(2, "decode")
LAST_SECONDS = 1.0  # in which a worker that must end writes what it has to say
DECODE_SECONDS = 0.05  # of a large picture, before any was measured
DECODE_SHARE = 0.4  # of the deadline, that the wait for a decoder may last; the queue for the model has another half


class Failed:
    """The outcome of a picture that could not be decoded or queued."""

    unsure = None

    def __init__(self, err: BaseException):
        self._err = err

    def probabilities(self) -> np.ndarray:
        """Raises it, once; like Job's it must not be kept by the frames that its traceback holds."""
        err, self._err = self._err, RuntimeError("the error was raised before")
        try:
            raise err
        finally:
            del err


Outcome: TypeAlias = Job | Failed


class ServedModel:
    """One version, ready: bytes -> image -> probabilities -> ranked predictions.

    If its execution provider fails, what was computed is answered 503 and `load` finds another (or the same again); if
    there is none, or if it hangs, the process ends, to be replaced by a new one. `faster` finds a faster one.
    """

    def __init__(
        self,
        model: runtime.Model,
        settings: Settings,
        load: Callable[[Backend | None], runtime.Model],
        faster: Callable[[runtime.Model], runtime.Model] = lambda model: model,
    ):
        self.model = model
        self.computes = True
        self._load = load
        self._faster = faster
        self._moving = threading.Lock()  # held to replace `model`
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
        self._decoding = ServiceTime(settings.queue, DECODE_SHARE * settings.deadline_ms / 1000, DECODE_SECONDS)

    def start(self) -> None:
        """It is served from now on."""
        self._meter.loaded(self.model.provider, self.model.backend.precision, self.batcher, self.model.measuring)

    def admit(self, count: int = 1) -> None:
        """Raises Overloaded if `count` more images find no room, or Unavailable: known before the cost of decoding."""
        if not self.computes:
            raise self._unavailable()
        self.batcher.admit(count)

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"{self.model.name} cannot be computed at the moment")

    def classify(self, data: bytes, done: Callable[[Outcome], None], admitted: bool = False) -> "Job | Decoding":
        """Decode an upload and queue it; `done` is called on the event loop with what came of it, exactly once, unless
        `cancelled` was set on what is returned. The one backend for a picture of any size.

        Raises what images.decode_image raises, Overloaded, or Unavailable; a large picture's failure comes by `done`.
        `admitted` is a picture for which `admit` has found room, together with others.
        """
        asked = time.perf_counter()
        decoded = self._decode_now(data, asked)
        if isinstance(decoded, Decoded):
            return self.submit(decoded, done, asked, admitted)
        return Decoding(self, data if decoded is None else decoded, done, asked, admitted)

    def submit(self, decoded: Decoded, done: Callable[[Outcome], None], asked: float, admitted: bool = False) -> Job:
        job = self.batcher.submit(decoded.array, done, asked, admitted)
        job.unsure = decoded.unsure
        return job

    def _decode_now(self, data: bytes, began: float) -> Decoded | Picture | None:
        """A small upload decoded; a picture whose header has been read, where decoding it takes longer than waking a
        thread; None for what takes long even to look at."""
        if len(data) > INLINE_BYTES:
            return None
        artifact = self.artifact
        array = plain_png(data, artifact.input_shape, artifact.input_convention, artifact.resize_to)
        if array is not None:
            decoded = Decoded(array)
        else:
            try:
                picture = Picture.open(data, self._settings.max_pixels, quick=True)
                if picture.pixels > INLINE_PIXELS:
                    picture.take_time()
                    return picture
                decoded = self._to_array(picture)
            except TakesLong:
                return None
        self._meter.decoded(time.perf_counter() - began)
        return decoded

    def _to_array(self, picture: Picture) -> Decoded:
        artifact = self.artifact
        return picture.to_array(
            artifact.input_shape,
            artifact.input_convention,
            artifact.resample,
            artifact.resize_to,
            artifact.pad_fill,
        )

    def _decode_in_time(self, upload: bytes | Picture, asked: float) -> tuple[Decoded, float]:
        """On a decoder's thread: the picture, and when its decoding began."""
        began = time.perf_counter()
        if began - asked > self._settings.deadline_ms / 1000:
            raise DeadlineExceeded(f"not decoded within {self._settings.deadline_ms} ms")
        picture = upload if isinstance(upload, Picture) else Picture.open(upload, self._settings.max_pixels)
        return self._to_array(picture), began

    def queue_to_decode(self, upload: bytes | Picture, asked: float) -> "Future[tuple[Decoded, float]]":
        """Wait for a decoder. Raises Overloaded where too many do."""
        name, pace = self.artifact.name, self._decoding
        waiting = _DECODERS.waiting(name)
        if waiting >= pace.room:
            self._meter.rejected()
            raise Overloaded(f"{waiting} large pictures wait to be decoded; the limit is {pace.room}{pace.why}")
        return _DECODERS.submit(name, functools.partial(self._decode_in_time, upload, asked))

    def decoded(self, future: "Future[tuple[Decoded, float]]", asked: float) -> Decoded | Failed:
        """What a decoder made of a large picture, on the event loop."""
        ended = time.perf_counter()
        more_wait = _DECODERS.waiting(self.artifact.name) > 0
        err = future.exception()
        if err is not None:
            if isinstance(err, DeadlineExceeded):
                self._meter.expired()
            self._decoding.ended(0, 0.0, ended, more_wait)  # how soon it failed says nothing
            return Failed(err)
        decoded, began = future.result()
        self._decoding.ended(1, began, ended, more_wait)
        self._meter.decoded(ended - asked)
        return decoded

    async def answer_of(self, data: bytes, admitted: bool = False) -> Outcome:
        """`classify` for who awaits it."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        pending = self.classify(data, future.set_result, admitted)
        try:
            return await future
        finally:
            pending.cancelled = True

    def _compute(self, images: np.ndarray) -> np.ndarray:
        model = self.model
        if not self.computes:
            raise self._unavailable()
        try:
            return model.run(images)
        except Exception as err:  # a class of ONNX Runtime's per status code
            self._meter.failed()
            self.computes = False
            log.error("%s failed on %s: %s", model.name, model.backend, one_line(err))
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
            found = self._load(failed.backend)
        except Exception as err:  # StartError, or what nobody thought of: either way there is nothing to go on with
            log.critical("%s cannot be computed any more, this worker ends: %s", failed.name, one_line(err))
            os.kill(os.getpid(), signal.SIGINT)  # without the draining of SIGTERM, which would take new connections
            return
        # Nor is a faster one looked for: that would be the one that has failed.
        self._move(replace(found, measuring=False, reason=f"{failed.backend} failed ({why}); {found.reason}"))
        self.computes = True
        log.warning("%s", self.model)

    def _move(self, model: runtime.Model, before: runtime.Model | None = None) -> bool:
        """Compute by `model` from the next batch on; False where that is no longer `before`, by which it did."""
        with self._moving:
            if before is not None and (self.model is not before or not self.computes):
                return False
            self.model = model
            self.batcher.costs(model.image_seconds)
            self._meter.moved(model.provider, model.backend.precision, model.measuring)
            return True

    def take_faster(self) -> None:
        """Find out which backend is the fastest and compute by that. It may take seconds: for a thread of its own."""
        before = self.model
        found = self._faster(before)
        if self._move(found, before) and found.backend != before.backend:
            log.info("%s: %s from now on, %s images/s", found.name, found.backend, f"{1 / found.image_seconds:,.0f}")

    def answer(self, outcome: Outcome, top_k: int, min_probability: float | str | None = None) -> dict[str, Any]:
        """What an answer says of a picture: its `predictions`, and `unsure` where they should not be relied on.
        Raises what went wrong."""
        best = _best(outcome.probabilities(), top_k)
        labels = self.artifact.labels
        content: dict[str, Any] = {"predictions": [{"label": labels[i], "index": i, "probability": p} for i, p in best]}
        if unsure := self._unsure(outcome, best[0][1], min_probability):
            content["unsure"] = unsure
        return content

    def body(self, outcome: Outcome, top_k: int, min_probability: float | str | None = None) -> bytes:
        """The JSON of POST /classify: as json.dumps of `answer` would write it, in half the time."""
        best = _best(outcome.probabilities(), top_k)
        ranked = ",".join([f"{self._labels[i]}{p!r}}}" for i, p in best])
        unsure = self._unsure(outcome, best[0][1], min_probability)
        said = f',"unsure":"{unsure}"' if unsure else ""
        return f"{self._start}{ranked}]{said}}}".encode()

    def _unsure(self, outcome: Outcome, probability: float, least: float | str | None) -> str | None:
        reason = outcome.unsure
        if reason is None and least is not None:
            if least == "card":
                threshold = self.artifact.card.get("threshold", {})  # None where none was found: then nothing is sure
                least = math.inf if threshold is None else float(threshold.get("probability", 0.0))
            if probability < float(least):
                reason = "low_probability"
        if reason is not None:
            self._meter.unsure(reason)
        return reason

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
            "precision": self.model.backend.precision,
            "provider_reason": self.model.reason,
            "measuring": self.model.measuring,
            "images_per_second": round(1 / self.model.image_seconds, 1),
            "largest_deviation": self.model.deviation,
            "metrics": artifact.card.get("metrics"),
        }


def stages(outcome: Outcome) -> list[Stage]:
    """Where the time of an answered image went."""
    if not isinstance(outcome, Job):
        return []
    return [
        Stage("decode", outcome.began, outcome.queued),
        Stage("queue", outcome.queued, outcome.taken),
        Stage("compute", outcome.taken, outcome.computed),
    ]


class Decoding:
    """A large picture that waits for a decoder, then for its answer."""

    def __init__(
        self,
        served: ServedModel,
        upload: bytes | Picture,
        done: Callable[[Outcome], None],
        asked: float,
        admitted: bool,
    ):
        self._admitted = admitted
        self._served: ServedModel | None = served
        self._done: Callable[[Outcome], None] | None = done
        self._asked = asked
        self._job: Job | None = None
        self._loop = asyncio.get_running_loop()
        self._future: Future[tuple[Decoded, float]] | None = served.queue_to_decode(upload, asked)
        self._future.add_done_callback(self._wake)

    def _wake(self, future: "Future[tuple[Decoded, float]]") -> None:
        """On the decoder's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._decoded, future)

    def _decoded(self, future: "Future[tuple[Decoded, float]]") -> None:
        served, done = self._served, self._done
        self._served = self._done = self._future = None  # what is in no cycle needs no garbage collector
        if served is None or done is None or future.cancelled():
            return
        decoded = served.decoded(future, self._asked)
        if isinstance(decoded, Failed):
            done(decoded)
            return
        try:
            self._job = served.submit(decoded, done, self._asked, self._admitted)
        except ClassifyError as err:  # the queue has filled up meanwhile
            done(Failed(err))

    @property
    def cancelled(self) -> bool:
        return self._done is None and (self._job is None or self._job.cancelled)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        """Nobody waits any more."""
        if self._future is not None:
            self._future.cancel()
        if self._job is None:
            self._served = self._done = None
        else:
            self._job.cancelled = True


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
