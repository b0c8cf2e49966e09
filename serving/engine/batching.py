"""Dynamic batching with no queue delay: while one batch runs, the next gathers; many waiting requests -> one run.

There is no timer: a lone image runs at once, and load makes the batches grow. A batch that costs less than a client
would notice runs on the event loop itself, a longer one on a thread. Bounded and deadline-aware: the queue holds no
more than can be computed in time at the pace of the last batches and refuses the rest at once, and an image that would
miss its deadline even so is dropped before it costs compute. Knows the model as a function only.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeAlias

import numpy as np

from serving.engine.admission import Permit, ServiceTime
from serving.errors import ClassifyError, DeadlineExceeded, Overloaded, Unavailable

log = logging.getLogger("shortcut")

MAX_BATCH = 32  # larger ones gain nothing on a CPU and only add wait
# Waking a thread and sharing the interpreter with it costs up to a millisecond on a busy core; a batch shorter than a
# few of them is sooner done than handed over, and holds up the loop no longer than decoding a photo would.
INLINE_SECONDS = 0.010
# Fraction of the deadline that the queue may last: even if computing becomes half as fast before an image's turn
# comes, it is answered in time.
DEADLINE_SHARE = 0.5
BATCH_SHARE = 0.125  # fraction of the deadline that one batch may take, since others wait for it
STUCK_SECONDS = 30.0  # a batch that has run for longer than this and than three deadlines will not end


Rows: TypeAlias = "np.ndarray | Sequence[Exception]"  # of a batch: the answer of each image, or what went wrong


Compute: TypeAlias = Callable[..., np.ndarray]


class Job:
    """One image (H, W, C) that waits for its batch; `done` is called with the job once `answer` is there: its row of
    what the model computed, or what went wrong. Moments are by time.perf_counter()."""

    large = False  # it needs no decoder of its own
    __slots__ = ("answer", "asked", "cancelled", "computed", "done", "image", "queued", "taken", "threshold")
    answer: np.ndarray | Exception
    taken: float  # when its batch began
    computed: float  # and ended

    def __init__(
        self,
        image: np.ndarray,
        done: Callable[["Job"], None],
        asked: float | None = None,
        threshold: float | None = None,
    ):
        self.image = image
        self.threshold = threshold  # by which its best probability will be judged, if by any
        self.done = done
        self.queued = time.perf_counter()
        self.asked = self.queued if asked is None else asked  # what its deadline counts from
        self.cancelled = False  # set it when nobody waits any more: the image is not computed, `done` is not called


class Meter(Protocol):
    """What is told of a batcher's work."""

    def waited(self, seconds: float, /) -> None: ...
    def computed(self, images: int, seconds: float, /) -> None: ...
    def rejected(self, images: int, /) -> None: ...
    def expired(self, /) -> None: ...


class Batcher:
    """One model's queue in one worker. `run` maps (N, H, W, C) uint8 to N rows of float32 and may block. Where an image
    has a threshold, it is also given those of the batch: (N,), NaN for none.

    Belongs to the event loop it is used on. `image_seconds` is what an image of a batch costs; a batch of more than
    INLINE_SECONDS is called on `executor`. One batch runs at a time. `failed` turns what a run raised into what its
    images are answered. `stuck` is told if a batch does not end, after how many seconds, and gives what to answer.
    `wake` is called where an image waits and what computes is not in memory (`sleep`). Without `inline` every batch is
    called on `executor`.
    """

    def __init__(
        self,
        run: Compute,
        executor: ThreadPoolExecutor,
        meter: Meter,
        *,
        image_seconds: float = float("inf"),
        queue: int = 512,
        deadline_seconds: float = 10.0,
        stuck: Callable[[float], Exception] | None = None,
        failed: Callable[[Exception], Exception] = lambda err: err,
        wake: Callable[[], None] | None = None,
        inline: bool = True,
    ):
        self.reserved = 0  # places of permits, whose images are still being decoded
        self.used = 0.0  # when the last batch began, by time.perf_counter()
        self.unavailable = ""  # why nothing can be computed now: what waits and what comes is answered so
        self._executor = executor
        self._meter = meter
        self._service_time = ServiceTime(queue, DEADLINE_SHARE * deadline_seconds)
        self._deadline_seconds = deadline_seconds
        self._waiting: deque[Job] = deque()
        self._busy = False  # a batch runs, or a turn of the loop that will start one is due
        self._swept = False  # of cancelled jobs, since the last batch began
        self._stuck = stuck
        self._failed = failed
        self._on_thread: list[Job] = []  # the batch that runs there
        self._watch: asyncio.TimerHandle | None = None
        self._wake = wake
        self._may_inline = inline
        self._asleep = False  # what computes is not in memory
        self._held: asyncio.AbstractEventLoop | None = None  # on which images wait for it
        self.compute_by(run, image_seconds)

    def compute_by(self, run: Compute, image_seconds: float) -> None:
        """What computes from the next batch on, and what an image costs then. From any thread."""
        self._run = run
        self._inline = int(min(INLINE_SECONDS / max(image_seconds, 1e-9), MAX_BATCH)) if self._may_inline else 0
        self._service_time.set(image_seconds if image_seconds < float("inf") else 0.0)
        self._asleep = False
        self._go_on()

    def sleep(self) -> None:
        """What computes is not in memory any more, until `compute_by`. The next image calls `wake`, on the event loop;
        it and those that follow wait for that, and none beyond its deadline. From any thread."""
        self._asleep = True  # first: `_next` looks at it after it has taken `_run`
        self._run = _not_in_memory

    def refuse(self, reason: str, seconds: float) -> None:
        """What computes could not be loaded: answer so for so many seconds, then try again. From any thread, after
        `wake` was called."""
        loop = self._held
        self.unavailable = reason
        self._go_on()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(loop.call_later, seconds, self._forgive, reason)

    def _forgive(self, reason: str) -> None:
        if self.unavailable == reason:
            self.unavailable = ""

    def _go_on(self) -> None:
        loop, self._held = self._held, None
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._next, loop)

    def _hold(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is in memory to compute with: what waits goes on when there is (`_busy` stays), or is told so at its
        deadline."""
        self._held = loop
        if self._watch is None:
            self._watch = loop.call_later(self._deadline_seconds, self._look, loop)
        if self._wake is not None:
            self._wake()

    def __len__(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no image waits and none is computed."""
        return not self._busy

    @property
    def room(self) -> int:
        """How many may wait."""
        return self._service_time.room

    def admit(self, count: int = 1) -> Permit:
        """Reserve places for `count` images before the cost of decoding them: who has the permit submits them, and
        releases what is left. Raises Overloaded where there is no room, or Unavailable."""
        self.check(count)
        return Permit(self, count)

    def check(self, count: int = 1) -> None:
        """Raises what `admit` would raise now, and reserves nothing."""
        if self.unavailable:
            raise Unavailable(self.unavailable)
        if len(self._waiting) + self.reserved + count > self._service_time.room:
            self._make_room(count)

    def _make_room(self, count: int) -> None:
        """Raises Overloaded unless clients that went away have left enough places."""
        if not self._swept:
            self._swept = True
            self._drop_cancelled()
        waiting = len(self._waiting) + self.reserved
        # A request for more than there will ever be room for has its chance when nothing else waits.
        if waiting + count > max(self._service_time.room, 0 if waiting else count):
            self._meter.rejected(count)
            raise Overloaded(
                f"{waiting} images are waiting; the limit is {self._service_time.room}{self._service_time.why}"
            )

    def _drop_cancelled(self) -> int:
        """How many images are left."""
        self._waiting = deque(job for job in self._waiting if not job.cancelled)
        return len(self._waiting)

    def submit(
        self,
        image: np.ndarray,
        done: Callable[[Job], None],
        permit: Permit | None = None,
        asked: float | None = None,
        threshold: float | None = None,
    ) -> Job:
        """Queue one image on a place of `permit`, or on one of its own; `done` is called on the event loop. Its
        deadline counts from `asked`, by default from now. Raises what `admit` raises, where there is no permit."""
        if permit is None:
            self.check()
        else:
            permit.use()
        return self.enqueue(Job(image, done, asked, threshold))

    def enqueue(self, job: Job) -> Job:
        """`submit`, where it was made sure in this same turn of the loop that there is room (`check`)."""
        self._waiting.append(job)
        if not self._busy:
            # After this turn of the loop, so that requests which are read together run together.
            self._busy = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._next, loop)
        return job

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        run = self._run
        if self._asleep and not self.unavailable and self._drop_cancelled():
            self._hold(loop)
            return
        batch = self._gather()
        if not batch:
            self._busy = False
            self._service_time.ended(0, 0.0, 0.0, more_wait=False)  # all that waited was dropped, if anything did
            return
        answers: Rows
        try:
            if self.unavailable:
                raise Unavailable(self.unavailable)
            if len(batch) == 1 and batch[0].threshold is None:  # nearly always, where the service is not busy
                inputs: tuple[np.ndarray, ...] = (batch[0].image[None].copy(),)
            else:
                inputs = _inputs(batch)
            if len(batch) > self._inline and self._run_on_thread(run, inputs, batch, loop):
                return
            answers = run(*inputs)
        except Exception as err:  # whatever the runtime raises fails this batch, never the queue
            answers = self._failures(err, batch)
        self._settle(batch, answers, time.perf_counter())
        loop.call_soon(self._next, loop)  # not at once: the loop reads and answers between two batches

    def _failures(self, err: Exception, batch: list[Job]) -> list[Exception]:
        """What each image of a batch is answered that failed with `err`."""
        err.__traceback__ = None  # its frames hold the batch, which holds the error: only a collector would free them
        return [err if isinstance(err, ClassifyError) else self._failed(err)] * len(batch)

    def _run_on_thread(
        self, run: Compute, inputs: tuple[np.ndarray, ...], batch: list[Job], loop: asyncio.AbstractEventLoop
    ) -> bool:
        """Whether a thread computes the batch now; False where none can be started."""
        try:
            running = self._executor.submit(run, *inputs)
        except RuntimeError as err:  # the process has all that it may have
            log.error("no thread for a batch, which is computed on the event loop: %s", err)
            return False
        self._on_thread = batch
        if self._watch is None:
            self._watch = loop.call_later(self._deadline_seconds, self._look, loop)
        running.add_done_callback(lambda finished: loop.call_soon_threadsafe(self._finish, loop, batch, finished))
        return True

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[Job], finished: "Future[np.ndarray]") -> None:
        now = time.perf_counter()
        self._on_thread = []
        answers: Rows
        try:
            answers = finished.result()
        except Exception as err:
            answers = self._failures(err, batch)
        threaded = len(self._waiting) > self._inline
        if threaded:
            self._next(loop)  # first, so that the thread has work while the answers are written
        self._settle(batch, answers, now)
        if not threaded:
            self._next(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """While a batch runs on the thread, or what computes is being loaded: what waits for that longer than the
        deadline is told so, and what runs too long is given up."""
        self._watch = None
        if not self._on_thread and self._held is None:
            return
        now = time.perf_counter()
        while self._waiting and self._waiting[0].asked < now - self._deadline_seconds:
            self._expire(self._waiting.popleft())
        if not self._on_thread:
            left = self._waiting[0].asked + self._deadline_seconds - now if self._waiting else self._deadline_seconds
            self._watch = loop.call_later(max(left, 0.0), self._look, loop)
            return
        ran = now - self._on_thread[0].taken
        if self._stuck is not None and ran > max(STUCK_SECONDS, 3 * self._deadline_seconds):
            answer = self._stuck(ran)
            for job in (*self._on_thread, *self._waiting):
                if not job.cancelled:
                    _tell(job, answer)
            self._waiting.clear()
            return
        self._watch = loop.call_later(self._deadline_seconds / 2, self._look, loop)

    def _expire(self, job: Job) -> None:
        if job.cancelled:
            return
        self._meter.expired()
        within = f"within {self._deadline_seconds * 1000:.0f} ms"
        if self._held is not None:
            _tell(job, Unavailable(f"the model is not in memory, and was not loaded {within}", retry_after=1))
        else:
            _tell(job, DeadlineExceeded(f"not computed {within}"))

    def _gather(self) -> list[Job]:
        batch: list[Job] = []
        now = time.perf_counter()
        seconds = self._service_time.seconds
        most = int(min(MAX_BATCH, max(BATCH_SHARE * self._deadline_seconds / max(seconds, 1e-9), 1)))
        computing = seconds * min(len(self._waiting), most)
        # Whatever it costs, an image that has not waited gets its chance, and the pace is measured again.
        latest = now + min(computing, DEADLINE_SHARE * self._deadline_seconds) - self._deadline_seconds
        self._swept = False
        self.used = now
        while self._waiting and len(batch) < most:
            job = self._waiting.popleft()
            if job.cancelled:
                continue
            if job.asked < latest:
                self._expire(job)
                continue
            job.taken = now
            self._meter.waited(now - job.queued)
            batch.append(job)
        return batch

    def _settle(self, batch: list[Job], answers: Rows, now: float) -> None:
        if len(answers) != len(batch):
            answers = [ValueError(f"{len(answers)} answers to {len(batch)} images")] * len(batch)
        if isinstance(answers[0], Exception):
            self._service_time.ended(0, 0.0, now, bool(self._waiting))  # how soon it failed says nothing
        else:
            self._meter.computed(len(batch), now - batch[0].taken)
            self._service_time.ended(len(batch), batch[0].taken, now, bool(self._waiting))
        for job, answer in zip(batch, answers, strict=True):
            if job.cancelled:
                continue
            job.computed = now
            job.answer = answer
            try:  # as _tell does
                job.done(job)
            except Exception:
                log.exception("an answer could not be given")


def _not_in_memory(*arguments: np.ndarray) -> np.ndarray:
    raise Unavailable("the model is not in memory")


def _inputs(batch: list[Job]) -> tuple[np.ndarray, ...]:
    """The images of a batch, and their thresholds where one of them has any."""
    images = np.concatenate([job.image for job in batch])  # in less than half the time of np.stack
    images = images.reshape(len(batch), *batch[0].image.shape)
    if all(job.threshold is None for job in batch):
        return (images,)
    return images, np.array([np.nan if job.threshold is None else job.threshold for job in batch])


def _tell(job: Job, answer: np.ndarray | Exception) -> None:
    job.answer = answer
    try:
        job.done(job)
    except Exception:  # one client's answer must not cost the others theirs
        log.exception("an answer could not be given")
