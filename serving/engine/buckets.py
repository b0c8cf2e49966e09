"""Batches of any size on runs that are prepared for a few sizes: filled up or cut, whichever was measured to be faster.

Knows arrays and seconds only.
"""

from collections.abc import Callable, Mapping

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]

SIZES = (1, 4, 16)  # what may be prepared; twice as many gain 10 % at most, and cost twice the memory
FORMED = (1, 2, 4, 8, 16, 32)  # the batches that a service forms between idle and saturated
GAIN = 1.1  # times as long must some batch take without a size, for that size to be worth its memory

Plan = tuple[float, tuple[int, ...]]  # the seconds that a batch takes, and the sizes of the runs that compute it


def plans(seconds: Mapping[int, float], most: int) -> list[Plan]:
    """The fastest plan for each number of images from 0 to `most`; `seconds` is what a run of each size takes."""
    found: list[Plan] = [(0.0, ())]
    for count in range(1, most + 1):
        rests = [(size, taken, found[max(count - size, 0)]) for size, taken in seconds.items()]
        found.append(min((taken + rest[0], (size, *rest[1])) for size, taken, rest in rests))
    return found


def worthwhile(seconds: Mapping[int, float]) -> dict[int, float]:
    """The sizes to prepare, of those that were measured."""
    kept, most = dict(seconds), max(seconds)
    best = plans(seconds, most)[1:]
    for size in sorted(seconds, reverse=True):
        rest = {other: taken for other, taken in kept.items() if other != size}
        if rest and all(a <= GAIN * b for (a, _), (b, _) in zip(plans(rest, most)[1:], best, strict=True)):
            kept = rest
    return kept


def images_per_second(seconds: Mapping[int, float]) -> float:
    """The geometric mean over FORMED of the rate at which a batch of that size is computed."""
    found = plans(seconds, max(FORMED))
    return float(np.exp(np.mean([np.log(size / found[size][0]) for size in FORMED])))


def in_buckets(runs: Mapping[int, Run], seconds: Mapping[int, float] | None = None) -> Run:
    """A run for any batch size, of `runs` for one size each. Where it is not known what each takes, batches are filled
    up to the next size."""
    most = max(runs)
    known = {size: (seconds or {}).get(size, 1.0 + size / 1000) for size in runs}
    table = [sizes for _, sizes in plans(known, most)]

    def run(images: np.ndarray) -> np.ndarray:
        count = len(images)
        if count in runs:
            return runs[count](images)
        answers, start = [], 0
        for size in (most,) * (count // most) + table[count % most]:
            part = images[start : start + size]
            start += size
            missing = size - len(part)
            if missing:
                filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
                answers.append(runs[size](filled)[:-missing])
            else:
                answers.append(runs[size](part))
        return np.concatenate(answers)

    return run
