"""Validation answers -> a temperature that calibrates them, and the probability from which they can be relied on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.artifact.metrics import calibration_error
from training.artifact.trust import wilson_interval
from training.data.dataset import independent

if TYPE_CHECKING:
    import keras

PRECISION = 0.95
ASSURED = 0.93  # the precision that chance in the validation images leaves of it
LEAST = 0.8  # the precision that chance leaves of it where they are few: 11 right answers
_ONE_SIDED = 1.645  # standard deviations that a normal variable stays above in 95 % of cases
_RANGE = (0.05, 20.0)  # of temperatures
_LIKELY = 3.84  # a chi-squared variable of one degree of freedom stays below it in 95 % of cases


def temperature(probabilities: np.ndarray, targets: np.ndarray, groups: Sequence[str] = ()) -> float:
    """The temperature nearest to 1 that the validation answers (N, K) do not speak against.

    Around the one that suits them best (Guo et al. 2017, section 4.2) lies the 95 % interval of those that suit them
    nearly as well (Wilks 1938). Its end towards 1 is taken, and 1 where it holds 1: validation images have also chosen
    the epoch and flatter, and the best one for 30 or 150 of them made other answers worse in up to half of the cases.
    It is 1, too, where the validation answers' calibration error does not fall. Where the surest answers err (wrong
    labels, for example) while others are too shy, the likelihood asks for a temperature that made nearly all worse.
    Where images belong together, as `groups` (N,) says, their likelihood counts as that of as many single ones.
    """
    from scipy.optimize import brentq, minimize_scalar  # a model from elsewhere is measured without SciPy

    share = independent(groups) / len(targets) if len(groups) else 1.0

    def surprise(log_temperature: float) -> float:
        answers = tempered(probabilities, np.exp(log_temperature))
        given = np.log(np.clip(answers[np.arange(len(targets)), targets], 1e-12, 1))
        return float(-given.sum(dtype=np.float64)) * share

    best = minimize_scalar(surprise, bounds=tuple(np.log(_RANGE)), method="bounded")

    def unlikely(log_temperature: float) -> float:
        return 2 * (surprise(log_temperature) - best.fun) - _LIKELY

    if unlikely(0.0) <= 0:
        return 1.0
    value = float(np.exp(brentq(unlikely, 0.0, best.x)))
    errors = calibration(probabilities, tempered(probabilities, value), targets, value)
    return value if errors["after"] < errors["before"] else 1.0


def tempered(probabilities: np.ndarray, divisor: float) -> np.ndarray:
    """The probabilities (N, K) that a softmax gives when its logits are divided by `divisor`."""
    if divisor == 1:
        return probabilities
    scaled = np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1)) / divisor
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(probabilities.dtype)


def put_inside(model: "keras.Model", divisor: float) -> None:
    """Divide the model's logits by `divisor`: its last layer, a softmax over a matrix product, takes it into itself."""
    last = model.layers[-1]
    last.set_weights([weights / divisor for weights in last.get_weights()])


def calibration(before: np.ndarray, after: np.ndarray, targets: np.ndarray, divisor: float) -> dict[str, float]:
    """The card's `calibration`: the temperature, and the calibration error of both answers to the same images."""
    errors = [calibration_error(p.max(axis=1), p.argmax(axis=1) == targets) for p in (before, after)]
    return {"temperature": divisor, "before": errors[0], "after": errors[1]}


def threshold(probabilities: np.ndarray, targets: np.ndarray, groups: Sequence[str] = ()) -> dict[str, Any] | None:
    """The card's `threshold`: the least probability from which the validation answers have PRECISION, and not by luck.

    Not by luck: the precision's lower bound (Wilson 1927, one-sided, 95 %) is at least ASSURED, as Geifman & El-Yaniv
    (2017, 1705.08500, section 3) bound the risk of what is answered. Without it the precision on other images was below
    ASSURED in 18 to 53 % of simulated draws of 45 or 150 validation images; with it in at most 8 %. It takes at least
    36 answers. Where no probability gives that, it is the one whose lower bound is highest, if that is LEAST or more,
    and the answers' own probabilities have PRECISION on average, too. In simulated draws of 36 and 48 images the
    precision on other images was in the `interval` in 98 %. It was below ASSURED in 1 % where probabilities were
    honest, and in 2 to 67 % where they were too sure.
    `coverage` is the share of answers that reach the probability, `interval` where the precision lies (95 %). None
    where no probability gives either. Images of one of the `groups` (N,), "" for none, count as one in these bounds.
    """
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    precision = np.cumsum(hits[order]) / np.arange(1, len(order) + 1)
    whole = np.append(confidence[1:] < confidence[:-1], True)  # equal probabilities are answered together
    candidates = np.flatnonzero(whole & (precision >= PRECISION))[::-1].tolist()
    seen = _seen([groups[i] for i in order] if len(groups) else [""] * len(order))
    bounds = [wilson_interval(precision[last], seen[last], _ONE_SIDED)[0] for last in candidates]
    sure = [last for last, bound in zip(candidates, bounds, strict=True) if bound >= ASSURED]
    if not sure:
        expected = np.cumsum(confidence) / np.arange(1, len(order) + 1)
        likely = [bound if expected[last] >= PRECISION else 0.0 for last, bound in zip(candidates, bounds, strict=True)]
        if max(likely, default=0.0) < LEAST:
            return None
        sure = [candidates[int(np.argmax(likely))]]
    last = sure[0]
    return {
        "probability": float(confidence[last]),
        "precision": float(precision[last]),
        "coverage": (last + 1) / len(order),
        "interval": wilson_interval(precision[last], seen[last]),
    }


def _seen(groups: Sequence[str]) -> list[int]:
    """How many different groups there are up to each place; "" is a group of its own each time."""
    known: set[str] = set()
    counts, count = [], 0
    for group in groups:
        count += not group or group not in known
        known.add(group)
        counts.append(count)
    return counts


def threshold_by_folds(
    probabilities: np.ndarray, targets: np.ndarray, folds: dict[str, Any], groups: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The card's `threshold` where validation answers (N, K) are too few to name a precise one; `groups` as above.

    `folds` is the threshold of cross-fitted answers to many more images, by a classifier on features that were not
    trained on them. It says which share of answers can be relied on. The trained network ranks its answers at least as
    well, so the same share of its answers is taken. None where they speak against it.
    """
    best, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    least = np.sort(best)[::-1][max(1, round(folds["coverage"] * len(best))) - 1]
    reached = best >= least
    precision = float(hits[reached].mean())
    count = independent([groups[i] for i in np.flatnonzero(reached).tolist()]) if len(groups) else int(reached.sum())
    interval = wilson_interval(precision, count)
    if interval[1] < PRECISION:
        return None
    return {
        "probability": float(least),
        "precision": precision,
        "coverage": float(reached.mean()),
        "interval": interval,
        "folds": folds,
    }
