"""A folder of pictures, one sub-folder per class -> a data set."""

from pathlib import Path

import numpy as np

from training.data.dataset import Dataset, DatasetError, checked
from training.data.pictures import common_form, decode
from training.data.splits import split


def read_folder(path: Path, name: str, seed: int, image_size: int | None) -> Dataset:
    """`train/<class>/*` and `test/<class>/*`, or one level of classes that is split with the seed."""
    if (path / "train").is_dir():
        if not (path / "test").is_dir():
            raise DatasetError(f"{path}: has train/ but no test/ beside it")
        labels = _classes(path / "train")
        extra = set(_classes(path / "test")) - set(labels)
        if extra:
            raise DatasetError(f"{path}/test: classes that train/ lacks: {', '.join(sorted(extra))}")
        train, test = _files(path / "train", labels), _files(path / "test", labels)
        order = np.random.default_rng(seed).permutation(len(train))
        train = [train[i] for i in order]
    else:
        labels = _classes(path)
        files = _files(path, labels)
        train_index, test_index = split(len(files), seed)
        train, test = [files[i] for i in train_index], [files[i] for i in test_index]
    if not train or not test:
        raise DatasetError(f"{path}: needs images for training and for testing, found {len(train)} and {len(test)}")
    size, mode = common_form([file for file, _ in train + test])
    if image_size:
        size = (image_size, image_size)
    arrays = []
    for part in (train, test):
        arrays.append(np.stack([decode(file, mode, size) for file, _ in part]))
        arrays.append(np.array([label for _, label in part]))
    return checked(name, f"folder {path.resolve().name}", arrays, labels=labels, where=f"{path}: ")


def _classes(path: Path) -> tuple[str, ...]:
    classes = tuple(sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(classes) < 2:
        raise DatasetError(f"{path}: needs at least two folders, one per class, found {len(classes)}")
    return classes


def _files(path: Path, labels: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Every file that is not hidden, with its class index, sorted: the same order on every machine."""
    return [
        (file, index)
        for index, label in enumerate(labels)
        if (path / label).is_dir()
        for file in sorted((path / label).iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name != "Thumbs.db"
    ]
