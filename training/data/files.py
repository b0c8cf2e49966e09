"""A listing of picture files -> a data set: every file decoded once, to memory or, if that is much, to a memory map.

Damaged files are told of and skipped up to a share. The memory map lies under a folder of the caller's and is used
again, or gone on with, while the files are the same.
"""

import fcntl
import hashlib
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from training.data.dataset import NOTED, Array, Dataset, DatasetError, checked, let_go, note_of
from training.data.listing import CAMERA, Listing
from training.data.pictures import decode, header
from training.data.twins import with_twins

DEFAULT_SIZES = (32, 64)  # pixels, square: for pictures of several sizes, small and large ones
LARGE = 128  # pixels of the shorter side in the middle of all pictures, from which they count as large
MOST_PIXELS = 224  # of a common side; a larger one is for a network that asks for it, or --image-size
COMMON = 0.9  # share of pictures that must have the common size
MOST_DAMAGED = 0.1  # share of files that may be skipped
IN_MEMORY = 64 << 20  # bytes; what is trained on is copied once more
_AT_ONCE = 256  # files between two records of how far the memory map is


@dataclass(frozen=True)
class Form:
    """What a published model makes of pictures: its input's shape (H, W, C), and how they are brought to it."""

    shape: tuple[int, int, int]
    preparation: dict[str, Any]  # arguments of pictures.decode

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> "Form":
        height, width, channels = card["input_shape"]
        preparation = {"convention": card["input_convention"], "resample": card.get("resample", "bilinear")}
        fitted = {"resize_to": card.get("resize_to"), "fill": card.get("pad_fill", 0)}
        return cls((height, width, channels), {**preparation, **fitted})


def read_files(
    listing: Listing,
    name: str,
    origin: str,
    *,
    image_size: int | None,
    strict: bool,
    store: Path | None,
    form: Form | None = None,
    convention: str = "plain",
) -> Dataset:
    """The data set of `listing`, resized to `image_size` pixels square or to the size that suits the pictures; or in
    the `form` that a published model takes, to measure it.

    `convention` is how pictures of other proportions are brought to it, one of RESIZES. `strict` refuses any damaged
    file. `store` is the folder for a memory map; without one all stays in memory.
    """
    damaged: dict[Path, str] = {}
    headers = dict(_headers([file for part in _parts(listing) for file, _ in part], damaged))
    _refuse_damaged(damaged, listing, strict, store, name)
    files = [[(file, label) for file, label in part if file in headers] for part in _parts(listing)]
    if form:
        size, grey = (form.shape[1], form.shape[0]), form.shape[2] == 1
    else:
        size = (image_size, image_size) if image_size else common_size([size for size, _ in headers.values()])
        grey = all(mode in ("1", "L") or mode.startswith("I") for _, mode in headers.values())
    paths = [file for part in files for file, _ in part]
    preparation: dict[str, Any] = (
        form.preparation if form else {"convention": convention} if convention != "plain" else {}
    )
    images, kept = decoded(paths, "L" if grey else "RGB", size, store and store / name, damaged, preparation)
    _refuse_damaged(damaged, listing, strict, store, name)

    ends = np.cumsum([len(part) for part in files])
    train, valid, test = (kept[(kept >= end - len(part)) & (kept < end)] for part, end in zip(files, ends, strict=True))
    own = tuple(paths[i] for i in kept)
    targets = np.array([label for part in files for _, label in part], int)[kept]
    count = len(train) + len(valid)
    lines = [*listing.notes, *_damage_notes(damaged, store, name)]
    if form:
        if not len(kept):
            raise DatasetError(f"{origin}: no readable picture is left")
        arrays = (images[:count], targets[:count], images[count:], targets[count:])
        data = Dataset(name, origin, listing.labels, str(preparation["convention"]), *arrays)
    elif not len(train) or not len(test):
        raise DatasetError(f"{origin}: no readable picture is left for training or for testing")
    else:
        arrays = (images[:count], targets[:count], images[count:], targets[count:])
        data = checked(name, origin, arrays, labels=listing.labels, convention=convention, where=f"{origin}: ")
        lines += _in_two_classes(data, own)
    notes = tuple(note.encode(errors="backslashreplace").decode() for note in lines)  # names of files may be no text
    data = replace(
        data,
        validation=len(valid),
        notes=notes,
        set_aside=listing.set_aside,
        files=own,
        groups=tuple(listing.groups.get(file, "") for file in own) if listing.groups else (),
    )
    return data if form else with_twins(data)


def _parts(listing: Listing) -> tuple[list[tuple[Path, int]], ...]:
    return listing.train, listing.valid, listing.test


def common_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) that nearly all pictures have, if it is not large; else a square that suits their middle."""
    size, count = Counter(sizes).most_common(1)[0]
    if count >= COMMON * len(sizes) and max(size) <= MOST_PIXELS:
        return size
    side = DEFAULT_SIZES[int(np.median([min(size) for size in sizes]) >= LARGE)]
    return side, side


def _headers(files: list[Path], damaged: dict[Path, str]) -> Iterator[tuple[Path, tuple[tuple[int, int], str]]]:
    for file in files:
        try:
            yield file, header(file)
        except DatasetError as err:
            damaged[file] = str(err)


def decoded(
    files: list[Path],
    mode: str,
    size: tuple[int, int],
    store: Path | None,
    damaged: dict[Path, str],
    preparation: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Array, Array]:
    """All readable files as (N, H, W, C) uint8, and their places in `files`; reasons of the others go to `damaged`."""
    shape = (size[1], size[0], 1 if mode == "L" else 3)
    row = int(np.prod(shape))
    if store is None or len(files) * row <= IN_MEMORY:
        arrays = []
        for i, array in enumerate(_arrays(files, mode, size, damaged, preparation)):
            if array is not None:
                arrays.append((i, array))
            if sys.stdout.isatty():
                _progress(i + 1, len(files))
        images = np.stack([array for _, array in arrays]) if arrays else np.empty((0, *shape), np.uint8)
        return images, np.array([i for i, _ in arrays], int)
    folder = store.with_name(f"{store.name}-{_key(files, mode, size, preparation)}")
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    with (folder / "images").open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # another training on the same files waits, and then uses what is there
        done, kept, reasons = json.loads(state.read_text()) if state.exists() else (0, [], {})
        file.truncate(len(kept) * row)
        damaged.update({Path(path): reason for path, reason in reasons.items()})
        for start in range(done, len(files), _AT_ONCE):
            part = files[start : start + _AT_ONCE]
            for i, array in enumerate(_arrays(part, mode, size, damaged, preparation), start):
                if array is not None:
                    file.write(np.ascontiguousarray(array).data)
                    kept.append(i)
            file.flush()
            reasons = {str(path): reason for path, reason in damaged.items()}
            state.with_suffix(".partial").write_text(json.dumps((start + len(part), kept, reasons)))
            state.with_suffix(".partial").replace(state)
            _progress(start + len(part), len(files))
    if not kept:
        return np.empty((0, *shape), np.uint8), np.array([], int)
    return np.memmap(folder / "images", np.uint8, "r", shape=(len(kept), *shape)), np.array(kept)


def _arrays(
    files: list[Path], mode: str, size: tuple[int, int], damaged: dict[Path, str], preparation: Mapping[str, Any]
) -> Iterator[Array | None]:
    """Each file's array in turn, None for a damaged one; two are decoded at a time."""

    def attempt(file: Path) -> Array | None:
        try:
            return decode(file, mode, size, **preparation)
        except DatasetError as err:
            damaged[file] = str(err)
            return None

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(attempt, files)


def _key(files: list[Path], mode: str, size: tuple[int, int], preparation: Mapping[str, Any]) -> str:
    """Another for other files, other contents by their dates, another order or another form."""
    stats = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([stats, mode, size, *preparation.items()]).encode()).hexdigest()[:16]


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    if sys.stdout.isatty() or done == total:
        print(f"decoded {done:,} of {total:,} pictures", end=end, flush=True)


def _refuse_damaged(damaged: dict[Path, str], listing: Listing, strict: bool, store: Path | None, name: str) -> None:
    total = sum(len(part) for part in _parts(listing))
    if len(damaged) > (0 if strict else MOST_DAMAGED * total):
        allowed = "--strict allows none" if strict else f"at most {MOST_DAMAGED:.0%} may be skipped"
        lines = "".join(f"\n  {line}" for line in _damage_notes(damaged, store, name)[1:])
        raise DatasetError(f"{len(damaged)} of {total} files cannot be read; {allowed}:{lines}")


def _damage_notes(damaged: dict[Path, str], store: Path | None, name: str) -> list[str]:
    """The first of the damaged files, and where all are listed: in `store`, or the folder for temporary files."""
    if not damaged:
        return []
    notes = [f"skipped {len(damaged)} files that cannot be read:", *list(damaged.values())[:NOTED]]
    if (more := len(damaged) - NOTED) > 0:
        folder = store or Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        whole = folder / f"{name}-unreadable.txt"
        whole.write_text("\n".join([*damaged.values(), ""]), errors="backslashreplace")
        notes.append(f"and {more:,} more; all are listed in {whole}")
    if any(file.suffix.lower() in CAMERA for file in damaged):
        notes.append("HEIC pictures: save them as JPEG first, for example with `mogrify -format jpg *.heic`")
    return notes


def _in_two_classes(data: Dataset, files: Sequence[Path]) -> list[str]:
    """A note of pictures that are the very same in two classes: one of the two labels must be wrong."""
    first: dict[bytes, tuple[Path, int]] = {}
    pairs = []
    rows = itertools.chain(data.x_train, data.x_test)
    for i, (image, file, label) in enumerate(zip(rows, files, [*data.y_train, *data.y_test], strict=True)):
        other, of = first.setdefault(hashlib.sha256(np.ascontiguousarray(image).data).digest(), (file, label))
        if of != label:
            pairs.append(f"{file} ({data.labels[label]}) = {other} ({data.labels[of]})")
        if i % _AT_ONCE == 0:
            let_go(image)
    return note_of(f"{len(pairs)} pictures are in two classes, and one of the labels is wrong:", pairs)
