"""A picture and its model -> where the model looked: an occlusion map.

After Zeiler and Fergus 2014 (arXiv 1311.2901), section 3.3: the picture is computed again and again, each time with a
square covered that slides over it, and the map says how far the probability of the best class falls. It asks the model
as any request does, so that it works with each network and execution provider. Knows nothing of HTTP.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np

from serving.engine.batching import Job
from serving.images.picture import Decoded
from serving.repository.served import Outcome, ServedModel

# Covered pictures that are with the model at once: others wait for no more than these, and as a batch they make good
# use of a CPU. The rest is neither made nor queued before.
WAVE = 8


class Explanation(NamedTuple):
    """`job` is the picture as the network saw it, with its answer. `falls` has a row for each row of parts, from the
    top: how far the probability (0 to 1) of the best class falls, below 0 where it rises. `seconds` is what that
    took."""

    job: Job
    falls: list[list[float]]
    seconds: float


async def explain(served: ServedModel, data: bytes, grid: int) -> Explanation:
    """Classify an upload, and again with each of `grid` x `grid` parts covered (of as many as there are pixels in a
    side, where that is less).

    All these pictures count in admission, and each has the deadline of the request. Raises what `ServedModel.classify`
    raises. If the task is cancelled, what is left is not computed.
    """
    asked = time.perf_counter()
    height, width, _ = served.artifact.input_shape
    rows, columns = min(grid, height), min(grid, width)
    served.admit(1 + rows * columns)
    outcome = await served.answer_of(data, admitted=True)
    probabilities = outcome.probabilities()
    job = cast(Job, outcome)  # any other raises
    began = time.perf_counter()
    best = int(probabilities.argmax())
    pictures = covered(job.image, rows, columns)
    left: list[float] = []
    while wave := list(itertools.islice(pictures, WAVE)):
        left += [float(answer[best]) for answer in await _compute(served, wave, asked)]
    falls = (probabilities[best] - np.array(left)).round(6).reshape(rows, columns)
    return Explanation(job, falls.tolist(), time.perf_counter() - began)


def covered(image: np.ndarray, rows: int, columns: int) -> Iterator[np.ndarray]:
    """Copies of `image` (H, W, C) uint8, row by row: one part and its neighbours in the picture's mean colour.

    A square of three parts by three, moved by one: covered alone, a part of a digit rarely changes the answer (it did
    for 28 of 100 of MNIST's digits, this square for 95).
    """
    height, width, _ = image.shape
    mean = image.mean(axis=(0, 1)).round().astype(np.uint8)
    for row in range(rows):
        top, bottom = height * max(row - 1, 0) // rows, height * min(row + 2, rows) // rows
        for column in range(columns):
            left, right = width * max(column - 1, 0) // columns, width * min(column + 2, columns) // columns
            copy = image.copy()
            copy[top:bottom, left:right] = mean
            yield copy


async def _compute(served: ServedModel, images: list[np.ndarray], asked: float) -> list[np.ndarray]:
    """The probabilities of pictures that were admitted."""
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in images]
    jobs: list[Job] = []
    try:
        for image, answer in zip(images, answers, strict=True):
            jobs.append(served.submit(Decoded(image), answer.set_result, asked, admitted=True))
        return [(await answer).probabilities() for answer in answers]
    finally:
        for job in jobs:
            job.cancelled = True
