"""A name, an `.npz` file or a folder -> a data set: the way into this room."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.data.arrays import read_npz
from training.data.dataset import Dataset, DatasetError
from training.data.files import read_files
from training.data.listing import list_csv, list_folder, some
from training.data.named import NAMED
from training.data.pictures import resized

FEW = 5  # images of a class
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def load(
    name: str | None = None,
    data: Path | None = None,
    *,
    seed: int = 0,
    labels: tuple[str, ...] | None = None,
    image_size: int | None = None,
    origin: str | None = None,
    strict: bool = False,
    store: Path | None = None,
) -> Dataset:
    """The data set NAME, or the `.npz` file, CSV or folder of pictures DATA (named NAME, or its stem).

    `labels` gives the classes in index order: names for numbers, or another order of the names there are.
    `image_size` resizes to that many pixels square; `origin` says in the card where the data is from. The training
    split of a file or folder is permuted with `seed`; mnist and cifar10 keep the order of their files. `strict`
    refuses damaged pictures, `store` is the folder for those that are too many for memory. Raises DatasetError.
    """
    if data is not None:
        dataset = _from_path(Path(data), name, seed, image_size, strict, store)
    elif name is not None and name in NAMED:
        dataset = NAMED[name](seed)
    else:
        raise DatasetError(f"unknown data set {name!r}: choose from {', '.join(NAMED)}, or pass --data PATH")
    if labels is not None:
        dataset = _relabelled(dataset, labels)
    if image_size is not None and dataset.input_shape[:2] != (image_size, image_size):
        dataset = replace(
            dataset, x_train=resized(dataset.x_train, image_size), x_test=resized(dataset.x_test, image_size)
        )
    return replace(dataset, origin=origin) if origin else dataset


def told_of_few(dataset: Dataset) -> Dataset:
    """The data set with a note of its classes that have no image to train on, or few."""
    counts = np.bincount(dataset.y_train, minlength=len(dataset.labels))
    classes = list(zip(dataset.labels, counts, strict=True))
    none, few = [label for label, n in classes if not n], [f"{label} ({n})" for label, n in classes if 0 < n < FEW]
    notes = [f"no image to train on: {some(none)}"] if none else []
    notes += [f"few images to train on: {some(few)}"] if few else []
    return replace(dataset, notes=(*dataset.notes, *notes))


def _relabelled(dataset: Dataset, labels: tuple[str, ...]) -> Dataset:
    """The same images with their classes in the order of `labels`: by name where they have names."""
    if len(labels) < len(dataset.labels) or len(set(labels)) < len(labels):
        raise DatasetError(
            f"--labels must name at least {len(dataset.labels)} different classes, got {len(labels)}: "
            + ",".join(labels)
        )
    if not dataset.named:
        return replace(dataset, labels=labels, named=True)
    if missing := [label for label in dataset.labels if label not in labels]:
        raise DatasetError(
            f"the data has classes {', '.join(missing)}, which are not among the labels {', '.join(labels)}: "
            "classes are matched by name"
        )
    index = np.array([labels.index(label) for label in dataset.labels])
    return replace(dataset, labels=labels, y_train=index[dataset.y_train], y_test=index[dataset.y_test])


def name_of(path: Path) -> str:
    """The name of a data set that is not given one: the folder's, or the file's without its ending."""
    return path.resolve().name if path.is_dir() else path.stem


def _from_path(
    path: Path, name: str | None, seed: int, image_size: int | None, strict: bool, store: Path | None
) -> Dataset:
    if not path.exists():
        raise DatasetError(f"--data {path}: no such file or folder")
    name = name or name_of(path)
    if path.suffix.lower() == ".npz":
        return read_npz(path, name, seed)
    if path.is_dir():
        listing, origin = list_folder(path, seed), f"folder {path.resolve().name}"
    elif path.suffix.lower() in (".csv", ".tsv"):
        listing, origin = list_csv(path, seed), f"file {path.name}"
    else:
        told = "; unpack the archive first" if path.suffix.lower() in ARCHIVES else ""
        raise DatasetError(f"--data {path}: expected an .npz file, a CSV (file,label) or a folder of images{told}")
    return read_files(listing, name, origin, image_size=image_size, strict=strict, store=store)
