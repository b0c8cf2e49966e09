"""How far correct float32 evaluations of one network differ -> the limit that every form of it must keep.

Two kernels round differently, and a deep network amplifies that. A computed product of matrices is the exact product
of slightly different ones (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.5), so the
answers are computed again with weights that were moved by a rounding's size. Knows arrays and weights, no framework.

The card states what came of it as `exactness`:

- `float32_limit`: how far a probability may be from `golden.npz` in float32; 1e-4 where the key is absent. The service
  holds its float32 backends to it (`serving/artifacts.py`).
- `spread`: how far the answers to the golden pictures moved with the weights. The limit is twice that, from 1e-4 to
  1e-2.
- `difference`: the largest difference between the forms that were compared before publishing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

LEAST = 1e-4  # the limit of a network that amplifies nothing
MOST = 1e-2  # a limit above this would let wrong graphs pass
FACTOR = 2
STEADY = 1e-3  # a golden picture's answers move less than this, where there are enough such pictures
DRAWS = 8
# Units in the last place by which a weight is moved at most. It was tried with EfficientNetB0, on one machine, with a
# few kernels: with two units the answers moved 1 to 7 times as far as the kernels differed. With one unit, one in ten
# pictures that these disagreed on was missed. Two are no proof: a few draws can miss a picture, and another processor
# may round in another way. FACTOR allows for that.
UNITS = 2

Predict = Callable[[np.ndarray], np.ndarray]


class Weight(Protocol):
    """A variable of Keras or TensorFlow, or anything else that can be read as an array and set."""

    def assign(self, value: np.ndarray) -> Any: ...


def spread_of(
    images: np.ndarray, predict: Predict, weights: Sequence[Weight], precision: str = "float32"
) -> np.ndarray:
    """How far the probabilities of each image (N, H, W, C) move when `weights` do: (N,) in [0, 1], inf if one is no
    number.

    `predict` maps images to (N, K) and computes with `weights`, which are as before afterwards. `precision` is the
    coarsest one that it rounds to: float32, float16 or bfloat16.
    """
    reference, widest = predict(images), np.zeros(len(images))
    for _ in moved(weights, precision):
        widest = np.maximum(widest, difference(predict(images), reference))
    return widest


def moved(weights: Sequence[Weight], precision: str = "float32") -> Iterator[int]:
    """Let `weights` be moved by a rounding's size, once for each of DRAWS draws; afterwards they are as before."""
    step = UNITS * {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[precision]
    before = [np.array(weight) for weight in weights]
    try:
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            for weight, values in zip(weights, before, strict=True):
                if np.issubdtype(values.dtype, np.floating):
                    away = values * (1 + step * rng.uniform(-1, 1, values.shape))
                    weight.assign(away.astype(values.dtype))
            yield draw
    finally:
        for weight, values in zip(weights, before, strict=True):
            weight.assign(values)


def limit_for(spread: np.ndarray) -> float:
    """The float32 limit for pictures whose answers move by `spread` (N,), from LEAST to MOST.

    Answers that move by more than MOST are no proof of anything.
    """
    return float(np.clip(FACTOR * spread.max(), LEAST, MOST))


def agreement(answer: np.ndarray, reference: np.ndarray, limit: float) -> tuple[float, int]:
    """The largest difference of a probability, and the images whose best class differs though its lead is clear: above
    `limit`. Both arrays are (N, K)."""
    ordered = np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > limit
    changed = answer.argmax(axis=1) != reference.argmax(axis=1)
    return float(difference(answer, reference).max()), int((changed & clear).sum())


def difference(answer: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The largest difference of a probability of each row: (N, K) and (N, K) -> (N,), inf where one is no number."""
    return np.nan_to_num(np.abs(answer - reference).max(axis=1), nan=np.inf)
