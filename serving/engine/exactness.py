"""Whether a backend computes what Keras did, and how less exact ones are kept from changing answers.

Knows runs and an artifact's golden arrays; not which backend is the fastest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serving.artifacts import Artifact
from serving.engine import memory
from serving.engine.buckets import Outputs, Run
from serving.engine.providers import Backend, ProviderError, one_line

CLOSE = 0.03  # between the two best probabilities, or between the best one and a threshold, at least
MARGIN = 1.5  # times the memory that a batch should take: what allocates it takes more at once than it is asked for
OUTLIERS = 1 / 16  # of the golden images a less exact precision may be off by up to twice its tolerance
RULE = 5  # the number of golden_check's rule: what was measured under another one is measured again
MOST_RUNS = 4  # of each batch size, in a check; of a less exact precision as many as all golden images take
INEXACT_UNFAMILIARITY_LIMIT = 0.1  # as a fraction: it sums squares, and bfloat16 has 8 bits
CLOSE_UNFAMILIARITY = 0.02  # of the threshold, at least

# Maps (N, H, W, C) uint8, and optionally the thresholds (N,) that the best probabilities are judged by, to Outputs.
ServedRun = Callable[..., Outputs]


class Check(NamedTuple):
    """How far a backend is from the golden outputs, at most."""

    deviation: float  # of a probability
    margin: float  # of an image's best class over another one
    unfamiliarity: float = 0.0  # of an unfamiliarity, as a fraction of it


def golden_check(
    run: Run, backend: Backend, artifact: Artifact, sizes: Sequence[int] = (), every: bool = False
) -> Check:
    """Compare with the golden outputs, in batches of `sizes`, by default of every size that the backend is prepared
    for; `every` golden image, or a few in each size.

    Raises ProviderError if it is over the backend's tolerance, if a top-1 changes whose margin in the reference exceeds
    twice the tolerance, or if a run fails. In float32 the tolerance is the card's, since a deep network amplifies
    rounding. The golden images are hard ones, noise and shapes that no network has learnt: a sixteenth of them may
    take bfloat16 up to twice its tolerance away.
    """
    sizes = sizes or backend.checked
    count, exact = len(artifact.golden_images), backend.precision == "float32"
    tolerance = artifact.float32_limit if exact else backend.tolerance
    repeats = -(-max(sizes) // count)
    images = np.concatenate([artifact.golden_images] * repeats)
    reference = np.concatenate([artifact.golden_probabilities] * repeats)
    strange = _Unfamiliarity(artifact, exact, repeats)
    best, ordered = reference.argmax(axis=1), np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    largest_of, margin, flipped = np.zeros(len(images)), 0.0, 0
    room = _Room() if memory.short() else None
    for size in sizes:
        if room is not None:
            room.check(size)
        most = max(MOST_RUNS * size, count) if every or not exact else MOST_RUNS * size
        for start in range(0, min(len(images) - size + 1, most), size):
            part = slice(start, start + size)
            try:
                answer, unfamiliarity = run(images[part])
            except Exception as err:  # a class of ONNX Runtime's per status code, or one of OpenVINO's
                raise ProviderError(one_line(err)) from err
            change = answer - reference[part]
            difference = np.nan_to_num(np.abs(change).max(axis=1), nan=np.inf)
            largest_of[part] = np.maximum(largest_of[part], difference)
            margin = max(margin, float(np.abs(np.take_along_axis(change, best[part, None], axis=1) - change).max()))
            flipped += int((answer.argmax(axis=1) != best[part])[clear[part]].sum())
            strange.compare(unfamiliarity, part)
    deviation, outliers = float(largest_of.max()), np.mean(largest_of > tolerance)
    if outliers > (0 if exact else OUTLIERS) or deviation > 2 * tolerance or flipped:
        raise ProviderError(
            f"does not reproduce golden.npz: largest difference {deviation:.2g} (limit {tolerance:.2g}), "
            f"{outliers:.0%} of the images over it, {flipped} answers changed",
            lasting=True,
        )
    return Check(deviation, margin, strange.deviation())


class _Room:
    """Whether the next larger batch fits into the memory that is left: by what the batches before it have taken, as
    activations grow with the number of images."""

    def __init__(self) -> None:
        self._before, self._size = memory.own(), 0

    def check(self, size: int) -> None:
        """Before batches of `size`. Raises ProviderError."""
        left, taken = memory.left(), memory.own() - self._before
        needed = MARGIN * (size - self._size) * max(taken, 0) / self._size if self._size else 0
        if left is not None and needed > left:
            raise ProviderError(
                f"a batch of {size} images takes about {memory.megabytes(needed)} of memory; "
                f"{memory.megabytes(left)} are left"
            )
        self._size = max(size, self._size)


class _Unfamiliarity:
    """How far the second output is from the golden one. Where there is no golden one, it is not compared."""

    def __init__(self, artifact: Artifact, exact: bool, repeats: int):
        reference, self._exact = artifact.golden_unfamiliarity, exact
        self._limit = artifact.unfamiliarity_limit if exact else INEXACT_UNFAMILIARITY_LIMIT
        self._reference = None if reference is None else np.concatenate([reference] * repeats).astype(np.float64)
        if self._reference is not None:
            size = np.abs(self._reference)
            self._scale = np.maximum(size, max(float(np.median(size)), 1e-12))
            self._off = np.zeros(len(size))

    def compare(self, answer: np.ndarray | None, part: slice) -> None:
        """Raises ProviderError if there is nothing to compare."""
        if self._reference is None:
            return
        if answer is None:
            raise ProviderError("golden.npz holds `unfamiliarity`, and the graph has no such output", lasting=True)
        off = np.nan_to_num(np.abs(answer - self._reference[part]) / self._scale[part], nan=np.inf)
        self._off[part] = np.maximum(self._off[part], off)

    def deviation(self) -> float:
        """The largest, as a fraction. Raises ProviderError if it is over the limit."""
        if self._reference is None:
            return 0.0
        largest, outliers = float(self._off.max()), float(np.mean(self._off > self._limit))
        if outliers > (0 if self._exact else OUTLIERS) or largest > 2 * self._limit:
            raise ProviderError(
                f"does not reproduce golden.npz: unfamiliarity differs by {largest:.2g} of its size "
                f"(limit {self._limit:g}), {outliers:.0%} of the images over it",
                lasting=True,
            )
        return largest


@dataclass(frozen=True)
class CloseCalls:
    """Which answers of a less exact backend float32 decides, because the backend's error could change what is said.

    A close call is a best class within `margin` of the next one, a best probability within `probability` of the
    threshold that it is judged by, or an unfamiliarity within `unfamiliarity` of `strange_from`, as the card has it.
    """

    margin: float = CLOSE
    probability: float = CLOSE
    strange_from: float | None = None
    unfamiliarity: float = 0.0

    @classmethod
    def of(cls, check: Check, threshold: float | None = None) -> "CloseCalls":
        """As far as the backend has moved a golden image, and at least CLOSE; `threshold` is the card's, of
        unfamiliarity."""
        share = max(CLOSE_UNFAMILIARITY, check.unfamiliarity)
        return cls(max(CLOSE, check.margin), max(CLOSE, check.deviation), threshold, share * abs(threshold or 0.0))

    def among(self, outputs: Outputs, thresholds: np.ndarray | None = None) -> np.ndarray:
        """The indices of the close calls. `thresholds` (N,) is NaN for an answer that is judged by none."""
        ordered = np.partition(outputs.probabilities, -2, axis=1)
        close = ordered[:, -1] - ordered[:, -2] < self.margin
        if thresholds is not None:
            close |= np.abs(ordered[:, -1] - thresholds) < self.probability  # NaN is not less
        if self.strange_from is not None and outputs.unfamiliarity is not None:
            close |= np.abs(outputs.unfamiliarity - self.strange_from) < self.unfamiliarity
        return np.flatnonzero(close)


def deciding_close_calls(
    fast: Run, exact: Run, calls: CloseCalls = CloseCalls(), count: Callable[[int, int], None] | None = None
) -> ServedRun:
    """`fast`, but its close calls are computed again by `exact`. `count` is told of how many images, and how many of
    them those were.

    Nearly every answer that bf16 changes is such a one: of 6,000 on CIFAR-10, 14 without and 4 with it for
    `conv_resnet_deep`, which computes 1.5 % of the images twice; 46 and 4 for `resnet9`, with 1.9 %.
    """

    def run(images: np.ndarray, thresholds: np.ndarray | None = None) -> Outputs:
        outputs = fast(images)
        close = calls.among(outputs, thresholds)
        if count is not None:
            count(len(images), len(close))
        if len(close):
            again = exact(images[close])
            outputs.probabilities[close] = again.probabilities
            if outputs.unfamiliarity is not None:
                outputs.unfamiliarity[close] = again.unfamiliarity
        return outputs

    return run
