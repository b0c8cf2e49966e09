"""A picture and its model -> where the model looked: an occlusion map.

After Zeiler and Fergus 2014 (arXiv 1311.2901), section 3.3: the picture is computed again and again, each time with a
square covered that slides over it, and the map says how far the probability of the best class falls. It asks the model
as any request does, so that it works with each network and execution provider. Knows nothing of HTTP.
"""

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from serving.repository.answers import Answer
from serving.repository.many import predict_many
from serving.repository.served import ServedModel

# Covered pictures that are with the model at once: others wait for no more than these, and as a batch they make good
# use of a CPU. The rest is neither made nor queued before.
WAVE = 8


class Explanation(NamedTuple):
    """`answer` is the picture's, as it is without an explanation. `falls` has a row for each row of parts, from the
    top: how far the probability (0 to 1) of the best class falls, below 0 where it rises. `seconds` is what that
    took."""

    answer: Answer
    falls: list[list[float]]
    seconds: float


async def explain(
    served: ServedModel, data: bytes, grid: int, min_probability: float | str | None = None
) -> Explanation:
    """Classify an upload, and again with each of `grid` x `grid` parts covered (of as many as there are pixels in a
    side, where that is less).

    All these pictures count in admission, and each has the deadline of the request. Raises what `ServedModel.predict`
    raises. If the task is cancelled, what is left is not computed.
    """
    asked = time.perf_counter()
    height, width, _ = served.artifact.input_shape
    rows, columns = min(grid, height), min(grid, width)
    with served.admit(1 + rows * columns) as permit:
        answer = await served.answer(data, permit, min_probability)
        began = time.perf_counter()
        best = int(answer.probabilities.argmax())
        pictures = covered(answer.image, rows, columns)
        left: list[float] = []
        while wave := list(itertools.islice(pictures, WAVE)):
            answers = await predict_many(served, np.stack(wave), partial=False, permit=permit, asked=asked, real=False)
            left += [float(one.probabilities[best]) for one in answers]
    falls = (answer.probabilities[best] - np.array(left)).round(6).reshape(rows, columns)
    return Explanation(answer, falls.tolist(), time.perf_counter() - began)


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
