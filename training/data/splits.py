"""Which images are for training and which for testing, where the data does not say."""

import numpy as np

from training.data.dataset import Array

TEST_FRACTION = 0.2


def split(count: int, seed: int) -> tuple[Array, Array]:
    order = np.random.default_rng(seed).permutation(count)
    test = round(count * TEST_FRACTION)
    return order[test:], order[:test]
