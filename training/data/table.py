"""A CSV of pictures' names and labels -> a listing. Opens no picture.

The columns are called `file` and `label`, or as data sets elsewhere call them, or as the caller says; one column for
each class, with a single 1 in each row, will do as well. `split` and `group` may stand beside them.
"""

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from training.data.dataset import DatasetError
from training.data.listing import SPLITS, File, Listing, arrange, grouped_by_name, note_of_alike, some

FILE = ("file", "filename", "file_name", "path", "filepath", "file_path", "image", "image_id", "image_name")
FILE_TOO = ("image_path", "img", "id")
LABEL = ("label", "class", "class_name", "category", "breed", "species", "target", "diagnosis", "variety")
GROUP = ("group",)
ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG", ".bmp", ".gif", ".tif", ".tiff")


class Columns(NamedTuple):
    """The columns that the caller names; None is found by its name."""

    file: str | None = None
    label: str | None = None
    group: str | None = None


FOUND = Columns()


def list_csv(path: Path, seed: int, columns: Columns = FOUND, grouped: bool = True, measured: bool = False) -> Listing:
    """The pictures that a CSV names, relative to its own folder. Raises DatasetError.

    `grouped` keeps the pictures of one `group` together, or those of a film by their names. `measured` asks for
    pictures to measure with: one class is enough, and none need be there to train on.
    """
    names, numbers, rows = _read(path)
    file = _column(path, names, columns.file, (*FILE, *FILE_TOO), "--file-column")
    group = _column(path, names, columns.group, GROUP, "--group-column", needed=False)
    others = [name for name in names if name not in (file, group, "split")]
    label = _column(path, names, columns.label, LABEL, "--label-column", needed=False)
    if label is None and len(others) == 1:
        label = others[0]
    given = [row[label] if label else _hot(row, others) for row in rows]
    if file is None or not rows or not (label or any(given)):
        contents = f"found {', '.join(names)[:200] or 'nothing'} and {len(rows)} rows"
        raise DatasetError(
            f"{path}: expected the columns file,label in its first line and a row per picture, {contents}; "
            "--file-column and --label-column name others"
        )
    for number, row, value in zip(numbers, rows, given, strict=True):
        if not row[file] or not value:
            raise DatasetError(f"{path}, line {number}: expected a file and a label")
    labels = tuple(sorted({_plain(value) for value in given}))
    if len(labels) < (1 if measured else 2):
        raise DatasetError(f"{path}: needs at least two different labels, found {len(labels)}")
    parts: dict[str, list[File]] = {}
    groups: dict[Path, str] = {}
    find = _Finder(path.parent)
    seen, again = set(), 0
    for number, row, value in zip(numbers, rows, given, strict=True):
        wanted = (row.get("split") or "train").strip().lower()
        part = next((name for name, synonyms in SPLITS.items() if wanted in synonyms), None)
        if part is None:
            raise DatasetError(f"{path}, line {number}: split is train, valid or test, got {wanted!r}")
        picture = find(row[file].strip())
        entry = picture, labels.index(_plain(value))
        if (part, entry) in seen:  # twice, it could be learnt from and tested with
            again += 1
            continue
        seen.add((part, entry))
        parts.setdefault(part, []).append(entry)
        if grouped and group and row[group]:
            groups[picture] = row[group].strip()
    notes = note_of_alike(labels, str(path))
    if grouped and not group:
        groups = grouped_by_name([entry for part in parts.values() for entry in part], notes)
    if again:
        notes.append(f"{path}: {again} rows say again what a row above says, and count once")
    return arrange(labels, parts, seed, notes, str(path), groups, measured=measured)


def _read(path: Path) -> tuple[list[str], list[int], list[dict[str, str]]]:
    """The columns' names, and the number of each row's line and the row. Rows without any text are left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path}: not a readable CSV file ({err}); save it as UTF-8") from err
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        # in lower case where nothing is lost by it: names of classes are columns, too
        lower = [name.lower() for name in names]
        known = {*FILE, *FILE_TOO, *LABEL, *GROUP, "split"}
        names = reader.fieldnames = [low if low in known else name for name, low in zip(names, lower, strict=True)]
        rows = [
            (number, row)
            for number, row in enumerate(reader, start=2)
            if any((row[name] or "").strip() for name in names)
        ]
        return list(names), [number for number, _ in rows], [row for _, row in rows]
    except csv.Error as err:
        raise DatasetError(f"{path}, after line {reader.line_num}: not a readable CSV file ({err})") from err


def _column(
    path: Path, names: Sequence[str], asked: str | None, known: Sequence[str], option: str, needed: bool = True
) -> str | None:
    """The column that was asked for, or the first known one. Raises DatasetError if what was asked for is not there."""
    if asked is not None:
        column = next((name for name in names if name.lower() == asked.strip().lower()), None)
        if column is None:
            raise DatasetError(f"{path}: has no column {asked!r} ({option}); its columns are {some(list(names))}")
        return column
    return next((name for name in known if name in names), None)


def _hot(row: dict[str, str], columns: Sequence[str]) -> str:
    """The one column of several that holds a 1 where all others hold a 0; "" where it is not so."""
    try:
        values = [float(row[name] or 0) for name in columns]
    except (TypeError, ValueError):
        return ""
    ones = [name for name, value in zip(columns, values, strict=True) if value == 1]
    return ones[0] if len(ones) == 1 and len(columns) > 1 and set(values) <= {0.0, 1.0} else ""


def _plain(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip())


class _Finder:
    """Names in a CSV -> files. Many a CSV leaves out the ending, or the folder beside it that holds the pictures."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._places: list[tuple[Path, str]] | None = None

    def __call__(self, name: str) -> Path:
        file = self._folder / name
        if file.is_file():
            return file
        if "\\" in name and (turned := self._folder / name.replace("\\", "/")).is_file():  # written on Windows
            return turned
        if self._places is None:
            inside = sorted(p for p in self._folder.iterdir() if p.is_dir() and not p.name.startswith("."))
            self._places = [(place, ending) for ending in ENDINGS for place in (self._folder, *inside)]
        for i, (place, ending) in enumerate(self._places):
            if (candidate := place / f"{name}{ending}").is_file():
                self._places.insert(0, self._places.pop(i))  # the next one is most likely there too
                return candidate
        return file
