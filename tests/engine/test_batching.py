import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.engine.batching import INLINE_SECONDS, MAX_BATCH, Batcher, Job
from serving.errors import DeadlineExceeded, Overloaded


class Meter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.waits: list[float] = []
        self.refused = self.dropped = 0

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def computed(self, images: int, seconds: float) -> None:
        assert seconds >= 0
        self.batches.append(images)

    def rejected(self, images: int) -> None:
        self.refused += images

    def expired(self) -> None:
        self.dropped += 1


class Model:
    """Answers each image with its own sum; keeps the sizes of its batches; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, images: np.ndarray) -> np.ndarray:
        self.gate.wait(60)
        self.sizes.append(len(images))
        if (images == 255).all():
            raise RuntimeError("the runtime failed")
        return images.reshape(len(images), -1).sum(axis=1, keepdims=True)


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 1), value, np.uint8)


NO_THREADS = ThreadPoolExecutor(1)
NO_THREADS.shutdown()


def batcher(model: Model, meter: Meter | None = None, **options: float) -> Batcher:
    return Batcher(model.run, ThreadPoolExecutor(1), meter or Meter(), **options)  # type: ignore[arg-type]


async def classify(queue: Batcher, images: list[np.ndarray], asked: float | None = None) -> list[Job]:
    """The answered job of each image, in order; all are queued or none. Raises what the first one's answer is, if that
    is an error, and lets the others go."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Job]] = [loop.create_future() for _ in images]

    def setter(future: "asyncio.Future[Job]") -> Callable[[Job], None]:
        return lambda job: None if future.done() else future.set_result(job)

    permit = queue.admit(len(images))
    pairs = zip(images, futures, strict=True)
    jobs = [queue.submit(image, setter(future), permit, asked) for image, future in pairs]
    try:
        for future in futures:
            job = await future
            if isinstance(job.answer, Exception):
                raise job.answer
        return jobs
    finally:
        for job in jobs:
            job.cancelled = True


def row(job: Job) -> np.ndarray:
    assert isinstance(job.answer, np.ndarray)
    return job.answer


async def answers(queue: Batcher, images: list[np.ndarray]) -> list[list[float]]:
    return [row(job).tolist() for job in await classify(queue, images)]


def test_a_lone_image_runs_at_once_and_alone() -> None:
    model = Model()
    meter = Meter()
    assert asyncio.run(answers(batcher(model, meter), [image(3)])) == [[12]]
    assert (meter.batches, len(meter.waits)) == ([1], 1)
    assert model.sizes == [1]


def test_everyone_gets_their_own_answer_in_order() -> None:
    async def scenario() -> list[list[list[float]]]:
        queue = batcher(Model())
        return await asyncio.gather(*(answers(queue, [image(v), image(v + 1)]) for v in range(50)))

    assert asyncio.run(scenario()) == [[[4 * v], [4 * v + 4]] for v in range(50)]


def test_the_next_batch_gathers_while_one_runs() -> None:
    async def scenario(model: Model) -> None:
        queue = batcher(model)
        model.gate.clear()
        first = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(classify(queue, [image(2)])) for _ in range(MAX_BATCH + 5)]
        await asyncio.sleep(0.05)
        model.gate.set()
        await asyncio.gather(first, *others)

    model = Model()
    asyncio.run(scenario(model))
    assert model.sizes == [1, MAX_BATCH, 5]


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    async def scenario(model: Model) -> None:
        meter = Meter()
        queue = batcher(model, meter, queue=3)
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(classify(queue, [image(1)])) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 images are waiting; the limit is 3"):
            await classify(queue, [image(1)])
        assert (meter.refused, len(queue)) == (1, 3)
        model.gate.set()
        await asyncio.gather(running, *waiting)
        assert await answers(queue, [image(5)]) == [[20]]

    asyncio.run(scenario(Model()))


def test_what_clients_that_went_away_have_left_takes_no_place_in_the_queue() -> None:
    async def scenario(model: Model) -> None:
        queue = batcher(model, queue=3)
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(classify(queue, [image(2)] * 3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        waiting = asyncio.create_task(classify(queue, [image(3)] * 3))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(running, waiting)

    model = Model()
    asyncio.run(scenario(model))
    assert model.sizes == [1, 3]


def test_an_empty_queue_takes_a_request_larger_than_its_limit() -> None:
    assert len(asyncio.run(classify(batcher(Model(), queue=3), [image(1)] * 10))) == 10


def test_expired_work_is_dropped_before_it_costs_compute() -> None:
    async def scenario(model: Model) -> None:
        meter = Meter()
        queue = batcher(model, meter, deadline_seconds=0.05)
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.02)
        late = asyncio.create_task(classify(queue, [image(2)]))
        await asyncio.sleep(0.2)
        model.gate.set()
        await running
        with pytest.raises(DeadlineExceeded, match="50 ms"):
            await late
        assert meter.dropped == 1

    model = Model()
    asyncio.run(scenario(model))
    assert model.sizes == [1]


def test_a_failing_batch_fails_its_requests_and_nobody_else() -> None:
    async def scenario() -> None:
        queue = batcher(Model())
        with pytest.raises(RuntimeError, match="the runtime failed"):
            await classify(queue, [image(255), image(255)])
        assert await answers(queue, [image(1)]) == [[4]]

    asyncio.run(scenario())


def test_work_of_a_cancelled_request_is_not_computed() -> None:
    async def scenario(model: Model) -> None:
        queue = batcher(model)
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(classify(queue, [image(2), image(2)]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        model.gate.set()
        await running
        await classify(queue, [image(3)])

    model = Model()
    asyncio.run(scenario(model))
    assert model.sizes == [1, 1]


def test_cheap_batches_run_on_the_loop_and_requests_of_one_turn_run_together() -> None:
    async def scenario() -> list[list[list[float]]]:
        queue = Batcher(model.run, NO_THREADS, Meter(), image_seconds=INLINE_SECONDS / 100)
        return await asyncio.gather(*(answers(queue, [image(v)]) for v in range(MAX_BATCH + 3)))

    model = Model()
    assert asyncio.run(scenario()) == [[[4 * v]] for v in range(MAX_BATCH + 3)]
    assert model.sizes == [MAX_BATCH, 3]


def test_only_a_batch_that_takes_long_is_worth_a_thread() -> None:
    threads = []

    class Noting(Model):
        def run(self, images: np.ndarray) -> np.ndarray:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().run(images)

    async def scenario() -> None:
        queue = Batcher(Noting().run, ThreadPoolExecutor(1), Meter(), image_seconds=INLINE_SECONDS / 4)
        await classify(queue, [image(1)] * 4)
        await classify(queue, [image(1)] * 5)

    asyncio.run(scenario())
    assert threads == [True, False]


@pytest.mark.parametrize("seconds", [0.0, float("inf")])
def test_submitted_images_are_answered_by_callback_and_errors_too(seconds: float) -> None:
    async def scenario() -> list[Job]:
        queue = Batcher(Model().run, ThreadPoolExecutor(1), Meter(), image_seconds=seconds)
        done: list[Job] = []
        queue.submit(image(3), done.append)
        queue.submit(image(4), done.append).cancelled = True
        while len(done) < 1:
            await asyncio.sleep(0.01)
        queue.submit(image(255), done.append)
        while len(done) < 2:
            await asyncio.sleep(0.01)
        return done

    first, second = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert row(first).tolist() == [12]
    assert first.queued <= first.taken <= first.computed
    assert str(second.answer) == "the runtime failed"


def test_an_answer_that_cannot_be_given_costs_nobody_else_theirs() -> None:
    async def scenario() -> list[list[float]]:
        queue = batcher(Model())

        def fails(job: Job) -> None:
            raise RuntimeError("the connection is gone")

        queue.submit(image(1), fails)
        found = await answers(queue, [image(2)])
        queue.submit(image(1), fails)
        await asyncio.sleep(0.05)
        return [*found, *await answers(queue, [image(3)])]

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == [[8], [12]]


def test_no_images_need_no_run() -> None:
    model = Model()
    assert asyncio.run(classify(batcher(model), [])) == []
    assert model.sizes == []


def test_the_queue_is_no_longer_than_can_be_computed_in_time() -> None:
    async def scenario(model: Model) -> None:
        meter = Meter()
        queue = batcher(model, meter, image_seconds=0.1, deadline_seconds=1.0)  # half of the deadline: five images
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(classify(queue, [image(1)])) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="5 images are waiting; the limit is 5, what can be done in time"):
            queue.check()
        assert (meter.refused, len(queue)) == (1, 5)
        model.gate.set()
        await asyncio.gather(running, *waiting)
        for _ in range(40):  # much faster than was thought: the limit grows as that is seen
            await classify(queue, [image(1)])
        queue.check(100)

    asyncio.run(scenario(Model()))


def test_a_slow_spell_does_not_refuse_for_ever() -> None:
    async def scenario(model: Model) -> None:
        queue = batcher(model, image_seconds=10.0, deadline_seconds=0.05)  # far too slow, it is thought
        for _ in range(3):
            assert await answers(queue, [image(2)]) == [[8]]

    asyncio.run(scenario(Model()))


def test_what_could_not_be_ready_in_time_is_dropped_before_it_is_computed() -> None:
    async def scenario(model: Model) -> None:
        meter = Meter()
        queue = batcher(model, meter, image_seconds=0.02, deadline_seconds=0.2, queue=1000)
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(classify(queue, [image(2), image(3), image(4)]))
        await asyncio.sleep(0.19)  # within the deadline, but not with the 20 ms that each takes
        model.gate.set()
        await running
        with pytest.raises(DeadlineExceeded):
            await late
        assert (meter.dropped, model.sizes) == (3, [1])


def test_a_batch_is_short_beside_the_deadline() -> None:
    async def scenario(model: Model) -> None:
        queue = batcher(model, image_seconds=0.02, deadline_seconds=0.8)
        model.gate.clear()
        running = asyncio.create_task(classify(queue, [image(1)]))
        await asyncio.sleep(0.02)
        waiting = [asyncio.create_task(classify(queue, [image(2)])) for _ in range(10)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(running, *waiting)
        assert model.sizes[0] == 1
        assert 2 <= model.sizes[1] <= 5  # what takes an eighth of the deadline, at the pace of the first

    asyncio.run(scenario(Model()))


def test_a_wrong_number_of_answers_fails_its_batch_only() -> None:
    class Short(Model):
        def run(self, images: np.ndarray) -> np.ndarray:
            return super().run(images)[: 1 if len(images) > 2 else None]

    async def scenario(seconds: float) -> list[list[float]]:
        queue = batcher(Short(), image_seconds=seconds)
        with pytest.raises(ValueError, match="1 answers to 3 images"):
            await classify(queue, [image(1)] * 3)
        return await answers(queue, [image(2)])

    for seconds in (0.0, float("inf")):
        assert asyncio.run(asyncio.wait_for(scenario(seconds), 10)) == [[8]]


def test_where_no_thread_can_be_started_the_batch_is_computed_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    stuck: list[float] = []

    def never(seconds: float) -> Exception:
        stuck.append(seconds)
        return RuntimeError("stuck")

    async def scenario() -> None:
        queue = Batcher(Model().run, NO_THREADS, Meter(), image_seconds=1.0, deadline_seconds=0.2, stuck=never)
        for value in (1, 2):
            assert await answers(queue, [image(value)] * 3) == [[4 * value]] * 3
            await asyncio.sleep(0.5)

    asyncio.run(scenario())
    assert stuck == []
    assert "no thread for a batch" in caplog.text
