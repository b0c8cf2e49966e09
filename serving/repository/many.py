"""Many pictures or arrays of one request -> an answer or an error for each, in order.

They take the same way as a lone picture, and others have their turn between them. Knows nothing of the protocol that
brought them.
"""

import asyncio
import functools
import time
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, overload

import numpy as np

from serving.artifacts import Artifact
from serving.engine.admission import Permit
from serving.errors import ClassifyError, DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from serving.repository.answers import Answer, Outcome
from serving.repository.cache import Cancellable
from serving.repository.served import Done, ServedModel

SLICE_SECONDS = 0.005  # of the event loop that the pictures of a request may take before others have their turn
MAX_LARGE = 2  # pictures of one request that may be with the decoders
SERVICE_FAILURES = (Overloaded, Unavailable, DeadlineExceeded)  # no picture is at fault

Pictures = Sequence[bytes] | np.ndarray


@overload
async def predict_many(
    served: ServedModel,
    pictures: Pictures,
    *,
    partial: Literal[False],
    permit: Permit | None = None,
    min_probability: float | str | None = None,
    asked: float | None = None,
    real: bool = True,
) -> list[Answer]: ...
@overload
async def predict_many(
    served: ServedModel,
    pictures: Pictures,
    *,
    partial: Literal[True] = True,
    permit: Permit | None = None,
    min_probability: float | str | None = None,
    asked: float | None = None,
    real: bool = True,
) -> list[Answer | ClassifyError]: ...
async def predict_many(
    served: ServedModel,
    pictures: Pictures,
    *,
    partial: bool = True,
    permit: Permit | None = None,
    min_probability: float | str | None = None,
    asked: float | None = None,
    real: bool = True,
) -> Any:
    """`pictures` are files, or an array (N, H, W, C) uint8 of the model's own H, W and C. An answer for each, in order.

    With `partial`, a picture that cannot be decoded has its error in its place; without, the first one is raised.
    Raises what is no picture's fault (Overloaded, Unavailable, DeadlineExceeded, and whatever nobody expected) as soon
    as it is known, and then no further picture is tried. If the task is cancelled, since the client has gone, what is
    left is not computed.

    `permit` has a place for each, and is released by whoever made it; without one, places are reserved here.
    `min_probability` is as for `ServedModel.predict`. `asked` is when an array's deadline began, by
    time.perf_counter(); by default now. Arrays that are not `real` are nobody's pictures: no shadow is asked.
    """
    if isinstance(pictures, np.ndarray):
        check_array(pictures, served.artifact)
    if len(pictures) == 0:
        return []
    if permit is not None:
        return await _Request(served, pictures, partial, permit, min_probability, asked, real).outcomes()
    with served.admit(len(pictures)) as own:
        return await _Request(served, pictures, partial, own, min_probability, asked, real).outcomes()


def check_array(images: np.ndarray, artifact: Artifact) -> None:
    """Raises InvalidRequest where the model does not take it."""
    if images.dtype != np.uint8 or images.shape[1:] != artifact.input_shape:
        wanted, given = ("x".join(map(str, shape)) for shape in (artifact.input_shape, images.shape))
        raise InvalidRequest(f"{artifact.name} takes Nx{wanted} of uint8, got {given} of {images.dtype}")


class _Request:
    """The pictures of one request on their way."""

    def __init__(
        self,
        served: ServedModel,
        pictures: Pictures,
        partial: bool,
        permit: Permit,
        min_probability: float | str | None,
        asked: float | None,
        real: bool,
    ):
        self._real = real
        self._min_probability = min_probability
        self._served, self._pictures, self._partial, self._permit = served, pictures, partial, permit
        self._asked = time.perf_counter() if asked is None else asked
        self._outcomes: list[Answer | ClassifyError | None] = [None] * len(pictures)
        self._left = len(pictures)
        self._pending: list[Cancellable] = []
        self._large: set[int] = set()  # those that wait for a decoder or were decoded on one, and have no answer yet
        self._progress = asyncio.Event()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def outcomes(self) -> Any:
        try:
            await self._start()
            await self._finished
            # A failure's traceback leads to a frame that holds this object, which must not lead back to the failure.
            outcomes, self._outcomes = self._outcomes, []
            return outcomes
        finally:
            for pending in self._pending:
                pending.cancelled = True
            self._pending.clear()
            if self._finished.done() and not self._finished.cancelled():
                self._finished.exception()  # it was raised above, or an earlier one was

    async def _start(self) -> None:
        """Send each picture on its way. Small ones are decoded at once: others have their turn between them. Of the
        large ones a few at a time, so that one request does not take all the room there is for them."""
        resumed = time.perf_counter()
        for index, picture in enumerate(self._pictures):
            if time.perf_counter() - resumed > SLICE_SECONDS:
                await asyncio.sleep(0)
                resumed = time.perf_counter()
            if self._finished.done():  # it has failed: what was not started yet need not be
                return
            self._start_one(index, picture)
            while len(self._large) > MAX_LARGE and not self._finished.done():
                self._progress.clear()
                await self._progress.wait()

    def _start_one(self, index: int, picture: bytes | np.ndarray) -> None:
        done: Done = functools.partial(self._done, index)
        try:
            if isinstance(picture, np.ndarray):
                if self._real and self._served.after is not None:
                    done = self._served.after(done, None)
                job = self._served.submit(
                    picture, done, self._permit, asked=self._asked, min_probability=self._min_probability
                )
                self._pending.append(job)
                return
            pending = self._served.predict(picture, done, self._permit, self._min_probability)
        except Exception as err:
            self._done(index, err)
            return
        self._pending.append(pending)
        if pending.large:
            self._large.add(index)

    def _done(self, index: int, outcome: Outcome) -> None:
        self._large.discard(index)
        self._progress.set()
        if self._finished.done():
            return
        if isinstance(outcome, Answer) or (self._partial and _of_picture(outcome)):
            self._outcomes[index] = outcome
            self._left -= 1
            if self._left == 0:
                self._finished.set_result(None)
        else:
            self._finished.set_exception(self._named(index, outcome))

    def _named(self, index: int, failure: BaseException) -> BaseException:
        """A picture's own failure says which of several it was."""
        count = len(self._pictures)
        if count == 1 or not _of_picture(failure):
            return failure
        return type(failure)(f"picture {index + 1} of {count}: {failure}")


def _of_picture(outcome: object) -> TypeGuard[ClassifyError]:
    """Whether it is a failure that lies in the picture, so that the others may be answered."""
    return isinstance(outcome, ClassifyError) and not isinstance(outcome, SERVICE_FAILURES)
