"""An `.npz` file with Keras' keys -> a data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.data.dataset import Dataset, DatasetError, checked, first_line
from training.data.twins import with_twins

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path, name: str, seed: int, measured: bool = False) -> Dataset:
    """The file's data set, its training images permuted with `seed`. `measured` asks for images to measure with."""
    try:
        # opened here: np.load leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise DatasetError(f"{path}: missing key {', '.join(missing)} (needs {', '.join(NPZ_KEYS)})")
            arrays = tuple(archive[key] for key in NPZ_KEYS)
    except DatasetError:
        raise
    except Exception as err:  # zip, header and dtype damage each raise a class of their own
        raise DatasetError(f"{path}: not a readable .npz file ({first_line(err)})") from err
    dataset = checked(name, f"file {path.name}", arrays, where=f"{path}: ")
    if not measured:
        dataset = with_twins(dataset)  # before the images are permuted: it names their places in the file
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))
    return replace(dataset, x_train=dataset.x_train[order], y_train=dataset.y_train[order])
