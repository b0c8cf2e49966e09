"""Dynamic batching with no queue delay: while one batch runs, the next gathers; many waiting requests -> one run.

There is no timer: a lone image runs at once, and load makes the batches grow. A model whose batch costs less than
waking a thread runs on the event loop itself. Bounded and deadline-aware: a full queue refuses, and an image whose
deadline has passed is dropped before it costs compute. Knows the model as a function only.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serving.errors import DeadlineExceeded, Overloaded

MAX_BATCH = 32  # larger ones gain nothing on a CPU and only add wait


class Batcher:
    """One model's queue in one worker. `run` maps (N, H, W, C) uint8 to (N, K) float32 and may block.

    Belongs to the event loop it is first used on; `run` is called on `executor`, one batch at a time, or without one on
    the event loop.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        executor: ThreadPoolExecutor | None,
        *,
        queue: int = 512,
        deadline_seconds: float = 10.0,
    ):
        self._run = run
        self._executor = executor
        self._limit = queue
        self._deadline_ms = deadline_seconds * 1000
        self._waiting: deque[tuple[np.ndarray, float, asyncio.Future[np.ndarray]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def classify(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Probabilities (K,) for each image (H, W, C), in order. All are queued or none.

        Raises Overloaded, or DeadlineExceeded if any of them waited too long.
        """
        if len(self._waiting) + len(images) > max(self._limit, len(images) if not self._waiting else 0):
            raise Overloaded(f"{len(self._waiting)} images are waiting; the limit is {self._limit}")
        loop = asyncio.get_running_loop()
        expires = time.monotonic() + self._deadline_ms / 1000
        futures = [loop.create_future() for _ in images]
        self._waiting.extend(zip(images, [expires] * len(futures), futures, strict=True))
        if self._task is None:
            self._task = loop.create_task(self._drain())
        try:
            return [await future for future in futures]
        finally:
            for future in futures:  # a client that went away, or a failed neighbour: nobody waits for the rest
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()

    async def _drain(self) -> None:
        """Run batches until nobody waits. Starts one turn of the loop late, so requests read together run together."""
        loop = asyncio.get_running_loop()
        try:
            while batch := self._next_batch():
                futures = [future for _, future in batch]
                try:
                    stacked = np.stack([image for image, _ in batch])
                    if self._executor is None:
                        answers = self._run(stacked)
                    else:
                        answers = await loop.run_in_executor(self._executor, self._run, stacked)
                except Exception as err:  # whatever the runtime raises fails this batch, never the queue
                    for future in futures:
                        if not future.done():
                            future.set_exception(err)
                    continue
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
                if self._executor is None:
                    await asyncio.sleep(0)  # let the loop read and answer between two batches
        finally:
            self._task = None

    def _next_batch(self) -> list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]:
        batch: list[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = []
        now = time.monotonic()
        while self._waiting and len(batch) < MAX_BATCH:
            image, expires, future = self._waiting.popleft()
            if future.done():
                continue
            if now > expires:
                future.set_exception(DeadlineExceeded(f"not computed within {self._deadline_ms:.0f} ms"))
                continue
            batch.append((image, future))
        return batch
