"""Features of pictures -> a linear classifier, and what it answers to pictures that it did not learn from.

Cross-fitting (k folds): each picture is answered by a classifier that learnt the other folds alone, so that every
picture can both be learnt from and be measured with. Knows features and labels, neither pictures nor networks.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from training.data.dataset import named

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)  # inverse L2 penalties of the classifier; held-out pictures choose
FOLDS = 5
MISSING = -10.0  # the bias of a class without a picture to learn from
STEPS = 100  # of its optimizer: near enough


class Linear(NamedTuple):
    """softmax(features @ kernel + bias): kernel (D, K), bias (K,)."""

    kernel: np.ndarray
    bias: np.ndarray

    def answers(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (N, K) of features (N, D)."""
        logits = features @ self.kernel + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def fitted(features: np.ndarray, targets: np.ndarray, classes: int, strength: float, balanced: bool) -> Linear:
    """The classifier of features (N, D) and targets (N,); `balanced` lets every class count alike."""
    kernel, bias = np.zeros((features.shape[1], classes)), np.full(classes, MISSING)
    present = np.unique(targets)
    if len(present) < 2:
        bias[present] = 0
        return Linear(kernel, bias)
    linear = LogisticRegression(C=strength, max_iter=STEPS, class_weight="balanced" if balanced else None)
    centre = features.mean(axis=0)  # around it a third of the steps do
    # One thread: the products are small, and threads that wait for each other took twenty times as long.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear.fit(features - centre, targets)
    rows = linear.coef_
    offsets = linear.intercept_ - rows @ centre
    if len(present) == 2:  # one row for both
        rows, offsets = np.concatenate([-rows / 2, rows / 2]), np.concatenate([-offsets / 2, offsets / 2])
    kernel[:, present], bias[present] = rows.T, offsets
    return Linear(kernel, bias)


def folds_of(targets: np.ndarray, groups: Sequence[str], seed: int, count: int = FOLDS) -> np.ndarray:
    """The fold (N,) in [0, count) of each picture: alike many of each class in all, and a group in one alone.

    `groups` names those of the pictures that belong together; "" stands alone. It may be empty.
    """
    rng = np.random.default_rng(seed)
    names = [groups[i] if len(groups) and groups[i] else f"\0{i}" for i in range(len(targets))]
    index = np.unique(names, return_inverse=True)[1]
    order = np.argsort(index, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
    sizes = np.zeros((count, int(targets.max()) + 1))
    folds = np.zeros(len(targets), int)
    for at in sorted(rng.permutation(len(members)), key=lambda at: -len(members[at])):
        label = int(np.bincount(targets[members[at]]).argmax())
        fold = int(np.lexsort((sizes.sum(axis=1), sizes[:, label]))[0])
        folds[members[at]] = fold
        sizes[fold, label] += len(members[at])
    return folds


def lost_and_won(before: np.ndarray, after: np.ndarray, groups: Sequence[str]) -> tuple[int, int]:
    """In how many cases answers that were right `before` (N,) bool are wrong `after`, and the other way round.

    A case is a picture, or a group of pictures whose answers got worse, or better, on the whole: the frames of a film
    change together. `groups` (N,) is as in `folds_of`.
    """
    change = np.bincount(np.unique(named(groups, len(before)), return_inverse=True)[1], after.astype(float) - before)
    return int((change < 0).sum()), int((change > 0).sum())


def by_luck(before: np.ndarray, after: np.ndarray, groups: Sequence[str]) -> float:
    """In what share of cases luck alone makes answers `after` as much better than `before` as they are (sign test)."""
    lost, won = lost_and_won(before, after, groups)
    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def parts_of(folds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each fold the pictures (bool) to learn from and those to answer, where there are both."""
    for fold in np.unique(folds):
        asked = folds == fold
        if not asked.all():
            yield ~asked, asked


def cross_fitted(
    features: np.ndarray, targets: np.ndarray, classes: int, folds: np.ndarray, counted: np.ndarray, balanced: bool
) -> tuple[np.ndarray, float]:
    """Each picture's answer (N, K) by a classifier that did not learn from its fold, and the strength that was chosen.

    That is the one whose answers to the `counted` pictures (N,) bool have the least loss.
    """
    best, chosen, chosen_answers = np.inf, STRENGTHS[0], np.full((len(targets), classes), 1 / classes, np.float32)
    counted = counted if counted.any() else np.ones(len(targets), bool)
    for strength in STRENGTHS:
        answers = np.full((len(targets), classes), 1 / classes, np.float32)
        for learnt, asked in parts_of(folds):
            linear = fitted(features[learnt], targets[learnt], classes, strength, balanced)
            answers[asked] = linear.answers(features[asked])
        given = answers[np.arange(len(targets)), targets][counted]
        loss = float(-np.log(np.maximum(given, 1e-12)).mean())
        if loss < best:
            best, chosen, chosen_answers = loss, strength, answers
    return chosen_answers, chosen
