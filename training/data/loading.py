"""A name, an `.npz` file or a folder -> a data set: the way into this room."""

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.data.arrays import read_npz
from training.data.dataset import Dataset, DatasetError
from training.data.files import Form, read_files
from training.data.listing import Listing, list_folder, some
from training.data.named import NAMED
from training.data.pictures import RESIZES, resized
from training.data.table import FOUND, Columns, list_csv

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
    columns: Columns = FOUND,
    grouped: bool = True,
    form: Form | None = None,
    resize: str = "squash",
) -> Dataset:
    """The data set NAME, or the `.npz` file, CSV or folder of pictures DATA (named NAME, or its stem).

    `labels` gives the classes in index order: names for numbers, or another order of the names there are.
    `image_size` resizes to that many pixels square; `origin` says in the card where the data is from. The training
    split of a file or folder is permuted with `seed`; mnist and cifar10 keep the order of their files. `strict`
    refuses damaged pictures, `store` is the folder for those that are too many for memory. `columns` are those of a
    CSV; `grouped` keeps pictures that belong together in one split. `form` is that of a published model, which is to be
    measured: pictures are brought to it, and none need be there to train on. `resize` is how pictures of other
    proportions become square ones, a name of RESIZES. Raises DatasetError.
    """
    if data is not None:
        path = Path(data)
        listing = _listed(path, seed, columns, grouped, measured=form is not None)
        _check_form(path, columns, grouped)
        called = name or name_of(path)
        if listing is None:
            dataset = read_npz(path, called, seed, measured=form is not None)
        else:
            origin_of = f"folder {path.resolve().name}" if path.is_dir() else f"file {path.name}"
            options: dict[str, Any] = {"image_size": image_size, "strict": strict, "store": store, "form": form}
            dataset = read_files(listing, called, origin_of, convention=RESIZES[resize], **options)
    elif name is not None and name in NAMED:
        _check_form(None, columns, grouped)
        dataset = NAMED[name](seed)
    else:
        raise DatasetError(f"unknown data set {name!r}: choose from {', '.join(NAMED)}, or pass --data PATH")
    if labels is not None:
        dataset = _relabelled(dataset, labels, "the model's labels" if form else "--labels")
    if image_size is not None and not (form and dataset.files) and dataset.input_shape[:2] != (image_size,) * 2:
        dataset = replace(
            dataset, x_train=resized(dataset.x_train, image_size), x_test=resized(dataset.x_test, image_size)
        )
    return replace(dataset, origin=origin) if origin else dataset


def with_note_of_few(dataset: Dataset) -> Dataset:
    """The data set with a note of its classes that have no image to train on, or few."""
    counts = np.bincount(dataset.y_train, minlength=len(dataset.labels))
    classes = list(zip(dataset.labels, counts, strict=True))
    none, few = [label for label, n in classes if not n], [f"{label} ({n})" for label, n in classes if 0 < n < FEW]
    notes = [f"no image to train on: {some(none)}"] if none else []
    notes += [f"few images to train on: {some(few)}"] if few else []
    return replace(dataset, notes=(*dataset.notes, *notes))


def _relabelled(dataset: Dataset, labels: tuple[str, ...], option: str) -> Dataset:
    """The same images with their classes in the order of `labels`: by name where they have names."""
    labels = tuple(unicodedata.normalize("NFC", label) for label in labels)
    if len(labels) < len(dataset.labels) or len(set(labels)) < len(labels):
        raise DatasetError(
            f"{option} must name at least {len(dataset.labels)} different classes, got {len(labels)}: "
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


def _check_form(path: Path | None, columns: Columns, grouped: bool) -> None:
    """Raise DatasetError where an option is for another form of data, and would be passed over. None: data by name."""
    got = f"--data {path} is" if path else "without --data there is"
    form = (
        "a folder" if path and path.is_dir() else "an .npz file" if path and path.suffix.lower() == ".npz" else "none"
    )
    if path and form == "none":  # a CSV
        return
    for option, given in columns._asdict().items():
        if given is not None:
            raise DatasetError(f"--{option}-column names a column of a CSV; {got} {form}")
    if not grouped and form != "a folder":
        raise DatasetError(f"--no-groups is for picture files, in a folder or a CSV; {got} {form}")


def _listed(path: Path, seed: int, columns: Columns, grouped: bool, measured: bool) -> Listing | None:
    """The pictures of a folder or a CSV; None where `path` is an .npz file."""
    if not path.exists():
        raise DatasetError(f"--data {path}: no such file or folder")
    if path.suffix.lower() == ".npz":
        return None
    if path.is_dir():
        return list_folder(path, seed, grouped, measured)
    if path.suffix.lower() in (".csv", ".tsv"):
        return list_csv(path, seed, columns, grouped, measured)
    hint = "; unpack the archive first" if path.suffix.lower() in ARCHIVES else ""
    raise DatasetError(f"--data {path}: expected an .npz file, a CSV (file,label) or a folder of images{hint}")
