"""A folder of pictures -> which file belongs to which class and split. Opens no picture.

A folder holds one folder per class, or `train`, `valid` and `test` of such folders. A class may hold folders of its
own: the pictures in one of them stay in one split. Names of classes are in Unicode's composed form (NFC).
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.dataset import DatasetError
from training.data.groups import STATE, Group, by_folder, by_name, split_groups
from training.data.splits import TEST_FRACTION, spread

File = tuple[Path, int]  # and the index of its class

SPLITS = {"train": ("train", "training"), "valid": ("valid", "val", "validation", "dev"), "test": ("test", "testing")}
# What operating systems and tools leave beside pictures; hidden files and folders are skipped too.
_TOOLS = {"__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini"}
# Pictures that Pillow does not read: they are told of, not passed over.
CAMERA = (".heic", ".heif")
_FILMS = {"MPEG"}  # formats of which Pillow reads the header alone
_SHOWN = 20  # names in a note
_TOO_FEW = (
    "warning: too few groups are left to hold some out for validation: pictures of one group are learnt from and "
    "validated on, so that the validation figures are too good; add groups"
)


@dataclass
class Listing:
    """The files of each split in the order of training, their classes' names, and what was left out and why."""

    labels: tuple[str, ...]
    train: list[File]
    valid: list[File]
    test: list[File]
    notes: list[str] = field(default_factory=list)
    set_aside: bool = False  # whether `test` was taken from the training pictures
    groups: dict[Path, str] = field(default_factory=dict)  # of the files that stay together with others


def list_folder(path: Path, seed: int, grouped: bool = True, measured: bool = False) -> Listing:
    """The pictures in `path`. Without a test split a fifth of each class is set aside with `seed`.

    `grouped` keeps the pictures of a folder inside of a class together, or those of a film by their names. `measured`
    asks for pictures to measure with: one class is enough, and none need be there to train on.
    """
    while not _split_folders(path) and len(inside := _folders(path)) == 1 and _folders(inside[0]):
        path = inside[0]  # an archive that was unpacked into a folder of its own name
    splits = _split_folders(path)
    notes: list[str] = []
    least = 1 if measured else 2
    if "train" not in splits:
        classes = _classes(path, notes, least)
        notes += _note_of_inner_folders(classes, path)
        parts = {"train": _files(path, list(classes), classes, notes)}
    else:
        if "test" not in splits and "valid" not in splits and not measured:
            train = splits["train"].name
            hint = f"add one, or give {train}/ itself: a fifth of it is then set aside for testing"
            raise DatasetError(f"{path}: has {train}/ but no test/ or val/ beside it; {hint}")
        classes = _classes(splits["train"], notes, least)
        parts = {}
        for name, folder in splits.items():
            inside_it = _classes(folder, notes, 1 if measured else 2)
            if extra := set(inside_it) - set(classes):
                raise DatasetError(f"{folder}: classes that train/ lacks: {', '.join(sorted(extra))}")
            parts[name] = _files(folder, list(classes), inside_it, notes)
            classes = {label: [*folders, *inside_it.get(label, [])] for label, folders in classes.items()}
        if "test" not in parts and "valid" in parts:
            parts["test"] = parts.pop("valid")
            notes.append(f"there is no test/: {splits['valid'].name}/ is the test split")
    notes += note_of_alike(tuple(classes), str(path))
    groups = _groups(parts, list(classes.values()), notes) if grouped else {}
    return arrange(tuple(classes), parts, seed, notes, str(path), groups, measured=measured)


def _groups(parts: Mapping[str, list[File]], classes: Sequence[Sequence[Path]], notes: list[str]) -> dict[Path, str]:
    files = [file for part in parts.values() for file in part]
    folder_groups = by_folder(files, classes)
    foldered = {label for (_, label), group in zip(files, folder_groups, strict=True) if group}
    groups = {file: group for (file, _), group in zip(files, folder_groups, strict=True) if group}
    if groups:
        notes.append(_note_of_groups("lie in one folder", groups))
    return groups | grouped_by_name([file for file in files if file[1] not in foldered], notes)


def grouped_by_name(files: Sequence[File], notes: list[str]) -> dict[Path, str]:
    """The groups that the names of `files` tell; a note of them, and a warning of what looks like more of them."""
    name_groups, left = by_name(files)
    groups = {file: group for (file, _), group in zip(files, name_groups, strict=True) if group}
    if groups:
        notes.append(_note_of_groups("have the same name but for a number", groups))
    if left:
        notes.append(
            f"warning: these names look like films, of which a class has too few to split: {some(left)}. Frames of "
            f"one film may be on both sides of the split, and then the accuracy is too high; {STATE}"
        )
    return groups


def _note_of_groups(what: str, groups: Mapping[Path, str]) -> str:
    count = len(set(groups.values()))
    return (
        f"pictures that {what} stay together in one split, as frames of one film must: {count} groups "
        "(--no-groups splits them too)"
    )


def _note_of_inner_folders(classes: Mapping[str, Sequence[Path]], path: Path) -> list[str]:
    """A note where all classes hold folders of the same names, as `2023/cat` and `2024/cat`: which are the classes?"""
    inside = [{folder.name for parent in folders for folder in _folders(parent)} for folders in classes.values()]
    shared = sorted(set.intersection(*inside)) if len(inside) > 1 else []
    if len(shared) < 2:
        return []
    return [
        f"{path}: the classes {some(list(classes))} all hold the folders {some(shared)}. If those are the classes, put "
        "each one's pictures into one folder, or name the label of each picture in a CSV"
    ]


def note_of_alike(labels: Sequence[str], where: str) -> list[str]:
    """A note of labels that differ in capitals or spaces alone."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault("".join(label.casefold().split()), []).append(label)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return [f"{where}: these classes differ in capitals or spaces only; are they one? {some(pairs)}"] if pairs else []


def arrange(
    labels: tuple[str, ...],
    parts: Mapping[str, list[File]],
    seed: int,
    notes: list[str],
    where: str,
    groups: dict[Path, str],
    measured: bool = False,
) -> Listing:
    """The listing of `parts`, by a name of SPLITS: in the order of training, with a test split that is set aside where
    there is none. Raises DatasetError where nothing is left to train on or to test on."""
    train, valid, test = (parts.get(name, []) for name in SPLITS)

    def set_aside(files: list[File], seed: int) -> tuple[list[File], list[File]]:
        of: list[Group] = [groups.get(file) for file, _ in files]
        kept, aside = split_groups(np.array([label for _, label in files], int), of, seed)
        return [files[i] for i in kept], [files[i] for i in aside]

    given = bool(test)
    if not given:
        train, test = set_aside(train, seed)
    elif not groups:
        targets = np.array([label for _, label in train], int)
        train = [train[i] for i in spread(targets, np.random.default_rng(seed))]
    if groups and not valid:
        kept, aside = set_aside(train, seed + 1)
        if 2 * len(aside) >= TEST_FRACTION * len(train):
            train, valid = kept, aside
        elif not measured:
            notes = [*notes, _TOO_FEW]
    if not measured and (not train or not test):
        lines = "".join(f"\n  {note}" for note in notes)
        counts = f"found {len(train)} and {len(test)}"
        raise DatasetError(
            f"{where}: needs images for training and for testing, two of a class at least, {counts}{lines}"
        )
    return Listing(labels, train, valid, test, notes, not given, groups)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not _skipped(p.name))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name in _TOOLS


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders of `path` that are named as a split, in any case, and hold folders of classes.

    One that holds pictures itself is a class: `train` may be the picture of a locomotive.
    """
    folders = _folders(path)
    inside = {p.name.lower(): p for p in folders if _folders(p) and not _holds_pictures(p)}
    folders_of = {split: [inside[name] for name in names if name in inside] for split, names in SPLITS.items()}
    if len(inside) == 1 and any(_holds_pictures(p) for p in folders):
        return {}  # one class among others whose pictures lie in folders
    return {split: folders[0] for split, folders in folders_of.items() if folders} if folders_of["train"] else {}


def _holds_pictures(folder: Path) -> bool:
    known = _endings() - {""}
    return any(p.suffix.lower() in known and not _skipped(p.name) and not p.is_dir() for p in folder.iterdir())


def _classes(path: Path, notes: list[str], least: int) -> dict[str, list[Path]]:
    """The names of the folders that hold files, sorted, and the folders of each."""
    folders = _folders(path)
    full = [p for p in folders if next(_walk(p, _above(p)), None)]
    if empty := [p.name for p in folders if p not in full]:
        notes.append(f"{path}: empty folders are no classes: {', '.join(empty)}")
    if beside := [p.name for p in sorted(path.iterdir()) if p.is_file() and not _skipped(p.name)]:
        notes.append(f"{path}: left out, since they are in no class' folder: {some(beside)}")
    if unnamed := [ascii(p.name) for p in full if p.name.encode(errors="replace").decode() != p.name]:
        raise DatasetError(f"{path}: the names of these folders are not UTF-8, rename them: {some(unnamed)}")
    folders_of: dict[str, list[Path]] = {}
    for folder in full:  # macOS and Linux write an accent in two ways, and both may lie side by side
        folders_of.setdefault(unicodedata.normalize("NFC", folder.name), []).append(folder)
    if len(folders_of) < least:
        needed = "at least two folders, one per class" if least > 1 else "a folder for each class"
        raise DatasetError(f"{path}: needs {needed}, found {len(folders_of)}")
    return dict(sorted(folders_of.items()))


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


def _endings() -> set[str]:
    """The endings of pictures that Pillow reads, or that are told of; and none at all."""
    endings = Image.registered_extensions()  # loads all of Pillow's plugins, which fill Image.OPEN
    readable = {*Image.OPEN} - _FILMS
    return {ending for ending, form in endings.items() if form in readable} | {*CAMERA, ""}


def _files(path: Path, labels: Sequence[str], classes: Mapping[str, Sequence[Path]], notes: list[str]) -> list[File]:
    """Every picture of every class, by its file's name; what else lies there goes into `notes`."""
    pictures, others, known = [], [], _endings()
    for index, label in enumerate(labels):
        for folder in classes.get(label, ()):
            for file in _walk(folder, _above(folder)):
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
