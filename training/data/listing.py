"""A folder of pictures, or a CSV of their names, -> which file belongs to which class and split. Opens no picture.

A folder holds one folder per class, or `train`, `valid` and `test` of such folders; a class may hold folders of its
own. A CSV has the columns `file` and `label`, and may have `split`.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.dataset import DatasetError
from training.data.splits import split, spread

File = tuple[Path, int]  # and the index of its class

SPLITS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test", "testing")}
# What operating systems and tools leave beside pictures; hidden files and folders are skipped too.
_TOOLS = {"__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini"}
# Pictures that Pillow does not read: they are told of, not passed over.
CAMERA = (".heic", ".heif")
_FILMS = {"MPEG"}  # formats of which Pillow reads the header alone
_SHOWN = 20  # names in a note


@dataclass
class Listing:
    """The files of each split in the order of training, their classes' names, and what was left out and why."""

    labels: tuple[str, ...]
    train: list[File]
    valid: list[File]
    test: list[File]
    notes: list[str] = field(default_factory=list)
    set_aside: bool = False  # whether `test` was taken from the training pictures


def list_folder(path: Path, seed: int) -> Listing:
    """The pictures in `path`. Without a test split a fifth of each class is set aside with `seed`."""
    while not _split_folders(path) and len(inside := _folders(path)) == 1 and _folders(inside[0]):
        path = inside[0]  # an archive that was unpacked into a folder of its own name
    found = _split_folders(path)
    notes: list[str] = []
    if "train" not in found:
        labels = _classes(path, notes)
        return _listing(labels, {"train": _files(path, labels, notes)}, seed, notes, str(path))
    if "test" not in found and "valid" not in found:
        train = found["train"].name
        told = f"add one, or give {train}/ itself: a fifth of it is then set aside for testing"
        raise DatasetError(f"{path}: has {train}/ but no test/ or val/ beside it; {told}")
    labels = _classes(found["train"], notes)
    parts = {}
    for name, folder in found.items():
        extra = set(_classes(folder, notes)) - set(labels)
        if extra:
            raise DatasetError(f"{folder}: classes that train/ lacks: {', '.join(sorted(extra))}")
        parts[name] = _files(folder, labels, notes)
    if "test" not in parts:
        parts["test"] = parts.pop("valid")
        notes.append(f"there is no test/: {found['valid'].name}/ is the test split")
    return _listing(labels, parts, seed, notes, str(path))


def list_csv(path: Path, seed: int) -> Listing:
    """The pictures that a CSV names, relative to its own folder. Raises DatasetError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path}: not a readable CSV file ({err}); save it as UTF-8") from err
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        columns = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        rows = list(reader)
    except csv.Error as err:
        raise DatasetError(f"{path}, after line {reader.line_num}: not a readable CSV file ({err})") from err
    if not rows or not {"file", "label"} <= set(columns):
        found = f"found {', '.join(columns)[:200] or 'nothing'} and {len(rows)} rows"
        raise DatasetError(f"{path}: expected the columns file,label in its first line and a row per picture, {found}")
    labels = tuple(sorted({row["label"].strip() for row in rows if row["label"]}))
    if len(labels) < 2:
        raise DatasetError(f"{path}: needs at least two different labels, found {len(labels)}")
    parts: dict[str, list[File]] = {}
    for number, row in enumerate(rows, start=2):
        if not row["file"] or not row["label"]:
            raise DatasetError(f"{path}, line {number}: expected a file and a label")
        given = (row.get("split") or "train").strip().lower()
        part = next((name for name, names in SPLITS.items() if given in names), None)
        if part is None:
            raise DatasetError(f"{path}, line {number}: split is train, valid or test, got {given!r}")
        file = path.parent / row["file"].strip()
        if "\\" in row["file"] and not file.exists():  # written on Windows
            file = path.parent / row["file"].strip().replace("\\", "/")
        parts.setdefault(part, []).append((file, labels.index(row["label"].strip())))
    return _listing(labels, parts, seed, [], str(path))


def _listing(labels: tuple[str, ...], parts: dict[str, list[File]], seed: int, notes: list[str], where: str) -> Listing:
    train, valid, test = (parts.get(name, []) for name in SPLITS)
    targets = np.array([label for _, label in train], int)
    given = bool(test)
    if given:
        train = [train[i] for i in spread(targets, np.random.default_rng(seed))]
    else:
        kept, aside = split(targets, seed)
        train, test = [train[i] for i in kept], [train[i] for i in aside]
    if not train or not test:
        told = "".join(f"\n  {note}" for note in notes)
        found = f"found {len(train)} and {len(test)}"
        raise DatasetError(
            f"{where}: needs images for training and for testing, two of a class at least, {found}{told}"
        )
    return Listing(labels, train, valid, test, notes, not given)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not _skipped(p.name))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name in _TOOLS


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders of `path` that are named as a split, in any case."""
    inside = {p.name.lower(): p for p in _folders(path)}
    found = {split: [inside[name] for name in names if name in inside] for split, names in SPLITS.items()}
    return {split: folders[0] for split, folders in found.items() if folders} if found["train"] else {}


def _classes(path: Path, notes: list[str]) -> tuple[str, ...]:
    """The names of the folders that hold files, sorted."""
    folders = _folders(path)
    full = tuple(p.name for p in folders if next(_walk(p, _above(p)), None))
    if empty := [p.name for p in folders if p.name not in full]:
        notes.append(f"{path}: empty folders are no classes: {', '.join(empty)}")
    if beside := [p.name for p in sorted(path.iterdir()) if p.is_file() and not _skipped(p.name)]:
        notes.append(f"{path}: left out, since they are in no class' folder: {some(beside)}")
    if unnamed := [ascii(name) for name in full if name.encode(errors="replace").decode() != name]:
        raise DatasetError(f"{path}: the names of these folders are not UTF-8, rename them: {some(unnamed)}")
    if len(full) < 2:
        raise DatasetError(f"{path}: needs at least two folders, one per class, found {len(full)}")
    return full


def _above(folder: Path) -> set[Path]:
    """The folders that `folder` lies in: a link to one of them would make it hold itself."""
    return set(folder.parent.resolve().parents) | {folder.parent.resolve()}


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The files below a folder, sorted: the same order on every machine. Each folder is read once, links included."""
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if not _skipped(path.name):
            if path.is_dir():
                yield from _walk(path, seen)
            elif path.is_file() or path.is_symlink():  # a link to nothing is told of as a damaged file
                yield path


def _files(path: Path, labels: Iterable[str], notes: list[str]) -> list[File]:
    """Every picture of every class, by its file's name; what else lies there goes into `notes`."""
    pictures, others = [], []
    endings = Image.registered_extensions()  # loads all of Pillow's plugins, which fill Image.OPEN
    readable = {*Image.OPEN} - _FILMS
    known = {ending for ending, form in endings.items() if form in readable} | {*CAMERA, ""}
    for index, label in enumerate(labels):
        for file in _walk(path / label, _above(path / label)) if (path / label).is_dir() else ():
            if file.suffix.lower() in known:
                pictures.append((file, index))
            else:
                others.append(str(file.relative_to(path)))
    if others:
        notes.append(f"{path}: no pictures by their names: {some(others)}")
    return pictures


def some(names: list[str]) -> str:
    """The first of them, for a note."""
    return ", ".join(names[:_SHOWN]) + (" …" if names[_SHOWN:] else "")
