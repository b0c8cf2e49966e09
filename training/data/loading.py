"""A name, an `.npz` file or a folder -> a data set: the way into this room."""

from dataclasses import replace
from pathlib import Path

from training.data.arrays import read_npz
from training.data.dataset import Dataset, DatasetError
from training.data.folders import read_folder
from training.data.named import NAMED
from training.data.pictures import resized


def load(
    name: str | None = None,
    data: Path | None = None,
    *,
    seed: int = 0,
    labels: tuple[str, ...] | None = None,
    image_size: int | None = None,
    origin: str | None = None,
) -> Dataset:
    """The data set NAME, or the `.npz` file or image folder DATA (named NAME, or its stem).

    `labels` names the classes in index order; `image_size` resizes to that many pixels square; `origin` says in the
    card where the data is from. The training split of a file or folder is permuted with `seed`; mnist and cifar10
    keep the order of their files. Raises DatasetError.
    """
    if data is not None:
        dataset = _from_path(Path(data), name, seed, image_size)
    elif name is not None and name in NAMED:
        dataset = NAMED[name](seed)
    else:
        raise DatasetError(f"unknown data set {name!r}: choose from {', '.join(NAMED)}, or pass --data PATH")
    if labels is not None:
        if len(labels) < len(dataset.labels) or len(set(labels)) < len(labels):
            raise DatasetError(
                f"--labels must name at least {len(dataset.labels)} different classes, got {len(labels)}: "
                + ",".join(labels)
            )
        dataset = replace(dataset, labels=labels)
    if image_size is not None and dataset.input_shape[:2] != (image_size, image_size):
        dataset = replace(
            dataset, x_train=resized(dataset.x_train, image_size), x_test=resized(dataset.x_test, image_size)
        )
    return replace(dataset, origin=origin) if origin else dataset


def _from_path(path: Path, name: str | None, seed: int, image_size: int | None) -> Dataset:
    if path.is_dir():
        return read_folder(path, name or path.resolve().name, seed, image_size)
    if not path.exists():
        raise DatasetError(f"--data {path}: no such file or folder")
    if path.suffix != ".npz":
        raise DatasetError(f"--data {path}: expected an .npz file or a folder of images")
    return read_npz(path, name or path.stem, seed)
