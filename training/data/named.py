"""Data sets by name: `mnist` and `cifar10` through keras.datasets, `digits` from scikit-learn without any network."""

from collections.abc import Callable
from functools import cache

import numpy as np

from training.data.arrays import NPZ_KEYS
from training.data.dataset import CIFAR10, DIGITS, Dataset, DatasetError, checked, first_line
from training.data.pictures import centred, resized
from training.data.splits import split


def _keras(name: str, labels: tuple[str, ...], convention: str) -> Callable[[int], Dataset]:
    def fetch(seed: int) -> Dataset:
        import keras

        try:
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        except Exception as err:  # keras raises bare Exception for a failed download
            raise DatasetError(
                f"could not get {name}: it is not in ~/.keras/datasets and keras.datasets.{name}.load_data() failed "
                f"({first_line(err)}). Without a connection pass --data {name}.npz (keys {', '.join(NPZ_KEYS)}), "
                "or use --dataset digits, which needs no network"
            ) from err
        arrays = (x_train, y_train, x_test, y_test)
        named = labels is not DIGITS
        return checked(name, f"keras.datasets.{name}", arrays, labels=labels, convention=convention, named=named)

    return fetch


def _digits(seed: int) -> Dataset:
    """Scikit-learn's 1,797 handwritten 8x8 digits (UCI, Alpaydin & Kaynak 1998), enlarged to 28x28."""
    images, targets = _enlarged_digits()
    train, test = split(targets, seed)
    return checked(
        "digits",
        "scikit-learn load_digits (UCI optical recognition of handwritten digits), enlarged to 28x28",
        (images[train], targets[train], images[test], targets[test]),
        labels=DIGITS,
        named=False,
        convention="light_on_dark_centred",
    )


@cache  # centring them takes longer than an epoch; the splits are copies
def _enlarged_digits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 28, 28, 1) uint8 and their targets (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)[..., None]
    # As the service centres what is posted: a network must be trained on what it will see.
    return centred(resized(small, 28)), bunch.target


NAMED: dict[str, Callable[[int], Dataset]] = {
    "mnist": _keras("mnist", DIGITS, "light_on_dark_centred"),
    "cifar10": _keras("cifar10", CIFAR10, "plain"),
    "digits": _digits,
}
