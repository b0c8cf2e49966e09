"""A row that the model computed -> an answer; an answer -> which classes, in which order, and whether to rely on it.

Pure functions, the same for every protocol. `rank` is for one picture, `rank_all` states the same rules in columns for
many; a test holds them against each other. Knows neither HTTP nor JSON, nor how the row was computed.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from serving.artifacts import Artifact
from serving.operations.metrics import Stage

DIGITS = 6  # to which a ranked probability is rounded: what float32 has, and what people compare
NO_MOMENTS = (0.0, 0.0, 0.0, 0.0)


class Answer(NamedTuple):
    """What one version of a model says of one picture.

    `probabilities` is (K,) float32, one for each of `labels`. `unfamiliarity` is how far the picture is from what the
    model was trained on, None where the artifact has no such output. `doubt` says why the answer should not be relied
    on whatever its probability is: `no_figure` or `several_figures` (the decoder's words), or `unfamiliar`. `image` is
    (H, W, C) uint8, as the network saw the picture.
    """

    artifact: Artifact
    probabilities: np.ndarray
    unfamiliarity: float | None
    doubt: str | None
    image: np.ndarray
    moments: tuple[float, float, float, float] = NO_MOMENTS  # asked, queued, taken and computed, by perf_counter()

    @property
    def model(self) -> str:
        return self.artifact.name

    @property
    def version(self) -> int:
        return self.artifact.version

    @property
    def labels(self) -> tuple[str, ...]:
        return self.artifact.labels

    @property
    def stages(self) -> list[Stage]:
        """Where its time went; empty where nobody waited for it in a queue."""
        if self.moments is NO_MOMENTS:
            return []
        asked, queued, taken, computed = self.moments
        return [Stage("decode", asked, queued), Stage("queue", queued, taken), Stage("compute", taken, computed)]


Outcome: TypeAlias = Answer | Exception  # of one picture; a ClassifyError, or what nobody thought of


def answer(
    artifact: Artifact,
    row: np.ndarray,
    doubt: str | None,
    image: np.ndarray,
    moments: tuple[float, float, float, float] = NO_MOMENTS,
) -> Answer:
    """`row` is (K,) float32, or (K + 1,) where the artifact computes `unfamiliarity`, which comes last. Raises
    ArithmeticError where the model gave no numbers."""
    unfamiliarity = None
    classes = len(artifact.labels)
    if len(row) > classes:
        row, unfamiliarity = row[:classes], float(row[classes])
        threshold = unfamiliar_above(artifact.card)
        if doubt is None and threshold is not None and not unfamiliarity <= threshold:  # NaN is unfamiliar
            doubt = "unfamiliar"
    if row[0] != row[0]:  # NaN, which no protocol can say; a softmax has it everywhere or nowhere
        raise ArithmeticError("the model's probabilities are not numbers")
    return Answer(artifact, row, unfamiliarity, doubt, image, moments)


def unfamiliar_above(card: dict[str, Any]) -> float | None:
    """The card's threshold; None where it has none, and nothing is unfamiliar."""
    threshold = (card.get("unfamiliarity") or {}).get("threshold")
    return None if threshold is None else float(threshold)


class Ranking(NamedTuple):
    """`best` are (index, probability), the most probable first; `unsure` says why not to rely on them, if so."""

    best: list[tuple[int, float]]
    unsure: str | None


def rank(answer: Answer, top_k: int, min_probability: float | str | None = None) -> Ranking:
    """The `top_k` most probable classes, ties by index (all, where there are not so many), rounded to DIGITS digits.

    `min_probability` is a number from 0 to 1, or "card" for the threshold that the model's card names: an answer whose
    best class is less probable is `low_probability`, unless there is another reason for doubt.
    """
    values = answer.probabilities.tolist()
    if top_k == 1:
        order = [values.index(max(values))]
    else:
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    best = [(i, round(values[i], DIGITS)) for i in order]
    unsure = answer.doubt
    if (
        unsure is None
        and min_probability is not None
        and best[0][1] < threshold_of(answer.artifact.card, min_probability)
    ):
        unsure = "low_probability"
    return Ranking(best, unsure)


class Rankings(NamedTuple):
    """The rankings of N pictures. `classes` and `probabilities` are (N, top_k), the most probable first; `unsure` is
    (N,) of str or None."""

    classes: np.ndarray
    probabilities: np.ndarray
    unsure: np.ndarray


def rank_all(
    artifact: Artifact,
    rows: np.ndarray,
    doubts: Sequence[str | None],
    top_k: int,
    min_probability: float | str | None = None,
) -> Rankings:
    """What `answer` and then `rank` say of each of `rows`, which are (N, K) or (N, K + 1) float32 as for `answer`.

    `doubts` are the decoder's. Raises ArithmeticError where the model gave no numbers.
    """
    classes = len(artifact.labels)
    values = rows[:, :classes]
    if np.isnan(values[:, 0]).any():
        raise ArithmeticError("the model's probabilities are not numbers")
    # Stable, so that ties stay in the order of their indices.
    order = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
    # A float32 times 10⁶ is exact in float64, so that this rounds as Python's round() does.
    best = np.rint(np.take_along_axis(values, order, axis=1).astype(np.float64) * 10**DIGITS) / 10**DIGITS
    unsure = np.array(doubts, object)
    sure = np.array([doubt is None for doubt in doubts], bool)
    threshold = unfamiliar_above(artifact.card)
    if rows.shape[1] > classes and threshold is not None:
        familiar = rows[:, classes].astype(np.float64) <= threshold  # NaN is unfamiliar
        unsure[sure & ~familiar] = "unfamiliar"
        sure &= familiar
    if min_probability is not None:
        unlikely = best[:, 0] < threshold_of(artifact.card, min_probability)
        unsure[sure & unlikely] = "low_probability"
    return Rankings(order, best, unsure)


def threshold_of(card: dict[str, Any], min_probability: float | str) -> float:
    """Below which a best probability is `low_probability`."""
    if min_probability != "card":
        return float(min_probability)
    threshold = card.get("threshold", {})  # None where none was found: then nothing is sure
    return math.inf if threshold is None else float(threshold.get("probability", 0.0))
