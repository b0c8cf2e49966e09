"""One served version of a model: a picture or an array in, an `Answer` out, through its decoder and its queue.

Knows nothing of HTTP or JSON, nor that there are other models. Every way of asking, and every size of picture, goes
through `ServedModel.predict`.
"""

import asyncio
import contextlib
import functools
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from serving.engine.admission import Permit
from serving.engine.batching import Batcher, Job
from serving.engine.selection import Model
from serving.errors import Unavailable
from serving.images.picture import Decoded, Picture
from serving.images.png import plain_png
from serving.operations.metrics import Meter
from serving.processes import step_back
from serving.repository.answers import Answer, Outcome, Ranking, answer, rank, threshold_of
from serving.repository.cache import AnswerCache, Cancellable, key_of
from serving.repository.decoding import Decoder, OnThread
from serving.repository.residency import Residency
from serving.repository.runner import Faster, Load, Lost, Runner, stay
from serving.repository.unsure import UnsurePictures
from serving.settings import Settings

Done = Callable[[Outcome], None]
T = TypeVar("T")


class ServedModel:
    """One version, ready.

    If its execution provider fails, what was computed is answered 503 and `load` finds another (or the same again); if
    there is none, or if it hangs, `lost` is called. `faster` finds a faster one. Where `residency` bounds what is in
    memory, `load` also brings it back; `resident` is whether it is there at first. In the `background` it computes on a
    thread of low priority, and never on the event loop.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        load: Load,
        faster: Faster = lambda model: model,
        lost: Lost = stay,
        cache: AnswerCache | None = None,
        unsure: UnsurePictures | None = None,
        residency: Residency | None = None,
        resident: bool = True,
        background: bool = False,
    ):
        self.artifact = model.artifact if residency is None else model.artifact.without_contents()
        self._cache = cache
        self._unsure = unsure
        self._bounded = residency is not None
        self.max_pixels = settings.max_pixels
        # Where another version is to be asked too, once this one has answered (shadow.Shadow.after).
        self.after: Callable[[Done, bytes | None], Done] | None = None
        self._identity = f"{self.artifact.name}/{self.artifact.version} {self.artifact.identity}"
        self._meter = Meter(
            self.artifact.name,
            self.artifact.version,
            self.artifact.labels,
            self.artifact.card.get("reference"),
            self.artifact.unfamiliarity_threshold,
            bounded=residency is not None,
        )
        self.runner = Runner(model, self._meter, load, faster, lost, residency, resident)
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix=model.name, initializer=step_back if background else None
        )
        self.batcher = self.runner.batcher = Batcher(
            model.rows,
            self._executor,
            self._meter,
            image_seconds=model.image_seconds,
            queue=settings.queue,
            deadline_seconds=settings.deadline_ms / 1000,
            stuck=_weakly(self.runner.stuck),
            failed=_weakly(self.runner.failed),
            wake=_weakly(self.runner.wanted),
            inline=not background,
        )
        if not resident:
            self.batcher.sleep()
        self.decoder = Decoder(self.artifact, self._meter, settings.max_pixels, settings.queue, settings.deadline_ms)
        # Places for pictures, before the cost of decoding them: `check` only looks, `admit` reserves them. Both raise
        # Overloaded or Unavailable.
        self.check: Callable[..., None] = self.batcher.check
        self.admit: Callable[..., Permit] = self.batcher.admit

    @property
    def model(self) -> Model:
        """By which it computes now."""
        return self.runner.model

    @property
    def computes(self) -> bool:
        return self.runner.computes

    @property
    def resident(self) -> bool:
        """Whether it is in memory, or will be loaded when somebody asks."""
        return self.runner.resident

    def start(self) -> None:
        """It is served from now on."""
        model = self.model
        self._meter.loaded(model.provider, model.backend.precision, self.batcher, model.measuring)
        if self._bounded:
            self._meter.resident(self.resident)

    def retire(self) -> None:
        """It is not served any more."""
        self._meter.retired()

    def take_faster(self) -> None:
        """Move to the fastest backend. It may take seconds: for a thread of its own."""
        self.runner.take_faster()

    def in_background(self, call: Callable[[], T]) -> "Future[T]":
        """Call it on the thread that computes, between two batches."""
        return self._executor.submit(call)

    def predict(
        self, data: bytes, done: Done, permit: Permit | None = None, min_probability: float | str | None = None
    ) -> Cancellable:
        """`compute`, or the answer that another request got for the same picture, where answers are kept."""
        if self._cache is None:
            return self.compute(data, done, permit, min_probability)
        threshold = None if min_probability is None else threshold_of(self.artifact.card, min_probability)
        key = key_of(self._identity, threshold, data)
        return self._cache.predict(key, done, lambda keep: self.compute(data, keep, permit, min_probability))

    def compute(
        self, data: bytes, done: Done, permit: Permit | None = None, min_probability: float | str | None = None
    ) -> "Job | Decoding":
        """Decode an upload and queue it; `done` is called on the event loop with what came of it, exactly once, unless
        `cancelled` was set on what is returned.

        It uses a place of `permit`, whatever comes of it, or one of its own. A less exact backend computes again what
        is close to `min_probability`, which is as for `rank`. Raises what images.decode_image raises, Overloaded, or
        Unavailable; then `done` is not called. A large picture's failure comes by `done`.
        """
        asked = time.perf_counter()
        if self.after is not None:
            done = self.after(done, data)
        if self._unsure is not None:
            done = self._unsure.after(done, data, min_probability)
        if permit is None:
            self.check()  # nothing else runs until a small picture is queued, so that its place need not be reserved
        artifact = self.artifact
        try:
            array = plain_png(data, artifact.input_shape, artifact.input_convention, artifact.resize_to)
            doubt = None
            if array is None:
                decoded = self.decoder.now(data)
                if not isinstance(decoded, Decoded):
                    permit = permit or self.admit()
                    return Decoding(self, data if decoded is None else decoded, done, permit, asked, min_probability)
                array, doubt = decoded
        except BaseException:
            if permit is not None:
                permit.use()
            raise
        self._meter.decoded(time.perf_counter() - asked)
        if permit is not None:
            permit.use()
        threshold = None if min_probability is None else threshold_of(artifact.card, min_probability)
        return self.batcher.enqueue(Job(array, functools.partial(self._answered, done, doubt), asked, threshold))

    def submit(
        self,
        image: np.ndarray,
        done: Done,
        permit: Permit | None = None,
        *,
        asked: float | None = None,
        doubt: str | None = None,
        min_probability: float | str | None = None,
    ) -> Job:
        """`predict` for an array of the model's input, (H, W, C) uint8, which needs no decoding."""
        threshold = None if min_probability is None else threshold_of(self.artifact.card, min_probability)
        return self.batcher.submit(image, functools.partial(self._answered, done, doubt), permit, asked, threshold)

    def _answered(self, done: Done, doubt: str | None, job: Job) -> None:
        row = job.answer
        if not isinstance(row, Exception):
            moments = (job.asked, job.queued, job.taken, job.computed)
            try:
                done(answer(self.artifact, row, doubt, job.image, moments))
                return
            except ArithmeticError as err:
                row = err
        done(row)

    async def answer(
        self, data: bytes, permit: Permit | None = None, min_probability: float | str | None = None
    ) -> Answer:
        """`compute` for who awaits it: raises whatever went wrong. What nobody awaits any more is not computed."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        pending = self.compute(data, future.set_result, permit, min_probability)
        try:
            outcome = await future
        finally:
            pending.cancelled = True
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    def rank(self, answer: Answer, top_k: int, min_probability: float | str | None = None) -> Ranking:
        """answers.rank, and what was answered is counted."""
        ranking = rank(answer, top_k, min_probability)
        self._meter.answered(*ranking.best[0], answer.unfamiliarity)
        if ranking.unsure is not None:
            self._meter.unsure(ranking.unsure)
        return ranking


class Decoding:
    """A large picture that waits for a decoder, then for its answer. Its place is a permit's until it is queued."""

    large = True

    def __init__(
        self,
        served: ServedModel,
        upload: bytes | Picture,
        done: Done,
        permit: Permit,
        asked: float,
        min_probability: float | str | None,
    ):
        self._min_probability = min_probability
        self._served: ServedModel | None = served
        self._done: Done | None = done
        self._permit = permit
        self._asked = asked
        self._job: Job | None = None
        self._loop = asyncio.get_running_loop()
        self._future: Future[OnThread] | None = served.decoder.later(upload, asked)
        self._future.add_done_callback(self._wake)

    def _wake(self, future: "Future[OnThread]") -> None:
        """On the decoder's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._decoded, future)

    def _decoded(self, future: "Future[OnThread]") -> None:
        served, done = self._served, self._done
        self._served = self._done = self._future = None  # what is in no cycle needs no garbage collector
        if served is None or done is None or future.cancelled():
            return
        decoded = served.decoder.finished(future, self._asked)
        if isinstance(decoded, Exception):
            self._permit.use()
            done(decoded)
        else:
            self._job = served.submit(
                decoded.array,
                done,
                self._permit,
                asked=self._asked,
                doubt=decoded.unsure,
                min_probability=self._min_probability,
            )

    @property
    def cancelled(self) -> bool:
        return self._done is None and (self._job is None or self._job.cancelled)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        """Nobody waits any more."""
        if self._job is not None:
            self._job.cancelled = True
        elif self._done is not None:
            self._served = self._done = None
            self._permit.use()
            if self._future is not None:
                self._future.cancel()


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method that does not keep its object. What is in no cycle is freed when the last request lets go of it,
    also where the garbage collector does not look any more (gc.freeze)."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        if bound is None:  # every request that waited for it has gone
            return Unavailable("the model is not served any more")
        return bound(*arguments)

    return call
