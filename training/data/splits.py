"""Which images are for training and which for testing, where the data does not say, and in which order."""

import numpy as np

from training.data.dataset import Array

TEST_FRACTION = 0.2


def split(targets: Array, seed: int) -> tuple[Array, Array]:
    """Indices to train on and to test on: TEST_FRACTION of each class, at least one where it has two.

    `targets` (N,) are class indices. The training indices are in the order of `spread`.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    test = np.zeros(len(targets), bool)
    for k in np.unique(targets):
        members = order[targets[order] == k]
        test[members[: max(len(members) > 1, round(len(members) * TEST_FRACTION))]] = True
    train = order[~test[order]]
    return train[spread(targets[train], rng)], order[test[order]]


def spread(targets: Array, rng: np.random.Generator) -> Array:
    """A random order in which every stretch holds the classes in about the proportions of the whole."""
    place = np.empty(len(targets))
    for k in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == k))
        place[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    return np.argsort(place, kind="stable")
