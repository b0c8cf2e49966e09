"""Batches of any size on runs that are prepared for a few sizes: filled up or cut, whichever was measured to be faster.

Knows arrays and seconds only.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Outputs(NamedTuple):
    """What a network answers to N images."""

    probabilities: np.ndarray  # (N, K) float32
    # (N,) float32, higher is stranger; None where the network does not say
    unfamiliarity: np.ndarray | None = None

    def first(self, count: int) -> "Outputs":
        return Outputs(self.probabilities[:count], None if self.unfamiliarity is None else self.unfamiliarity[:count])


Run = Callable[[np.ndarray], Outputs]


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The answers to several batches as those to one."""
    strange = [part.unfamiliarity for part in parts if part.unfamiliarity is not None]
    return Outputs(np.concatenate([part.probabilities for part in parts]), np.concatenate(strange) if strange else None)


SIZES = (1, 4, 16)  # what may be prepared; twice as many gain 10 % at most, and cost twice the memory
FORMED = (1, 2, 4, 8, 16, 32)  # the batches that a service forms between idle and saturated
GAIN = 1.1  # times as long must some batch take without a size, for that size to be worth its memory

Plan = tuple[float, tuple[int, ...]]  # the seconds that a batch takes, and the sizes of the runs that compute it


def plans(seconds: Mapping[int, float], most: int) -> list[Plan]:
    """The fastest plan for each number of images from 0 to `most`; `seconds` is what a run of each size takes."""
    cheapest: list[Plan] = [(0.0, ())]
    for count in range(1, most + 1):
        rests = [(size, taken, cheapest[max(count - size, 0)]) for size, taken in seconds.items()]
        cheapest.append(min((taken + rest[0], (size, *rest[1])) for size, taken, rest in rests))
    return cheapest


def worthwhile(seconds: Mapping[int, float]) -> dict[int, float]:
    """The sizes to prepare, of those that were measured."""
    kept, most = dict(seconds), max(seconds)
    best = plans(seconds, most)[1:]
    for size in sorted(seconds, reverse=True):
        rest = {other: taken for other, taken in kept.items() if other != size}
        if rest and all(a <= GAIN * b for (a, _), (b, _) in zip(plans(rest, most)[1:], best, strict=True)):
            kept = rest
    return kept


def batch_seconds(seconds: Mapping[int, float]) -> dict[int, float]:
    """What a batch of each size of FORMED takes; `seconds` is what a run of each prepared size takes."""
    cheapest = plans(seconds, max(FORMED))
    return {size: cheapest[size][0] for size in FORMED}


def with_recomputing(fast: Mapping[int, float], exact: Mapping[int, float], share: float) -> dict[int, float]:
    """What a batch of each size takes if each of its images is computed again with probability `share`: the run of the
    whole batch, and on average the run of those images. `exact` is what a batch of some sizes takes when it is computed
    again; between them the time grows evenly."""
    sizes, taken = [0, *sorted(exact)], [0.0, *(exact[size] for size in sorted(exact))]

    def again(count: int) -> float:
        chances = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
        return float(np.dot(chances, np.interp(range(count + 1), sizes, taken)))

    return {size: seconds + again(size) for size, seconds in fast.items()}


def images_per_second(seconds: Mapping[int, float]) -> float:
    """The geometric mean over FORMED of the rate at which a batch of that size is computed."""
    return float(np.exp(np.mean([np.log(size / seconds[size]) for size in FORMED])))


def in_buckets(runs: Mapping[int, Run], seconds: Mapping[int, float] | None = None) -> Run:
    """A run for any batch size, of `runs` for one size each. Where it is not known what each takes, batches are filled
    up to the next size."""
    most = max(runs)
    known = {size: (seconds or {}).get(size, 1.0 + size / 1000) for size in runs}
    table = [sizes for _, sizes in plans(known, most)]

    def run(images: np.ndarray) -> Outputs:
        count = len(images)
        if count in runs:
            return runs[count](images)
        answers: list[Outputs] = []
        start = 0
        for size in (most,) * (count // most) + table[count % most]:
            part = images[start : start + size]
            start += size
            missing = size - len(part)
            if missing:
                filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
                answers.append(runs[size](filled).first(len(part)))
            else:
                answers.append(runs[size](part))
        return joined(answers)

    return run
