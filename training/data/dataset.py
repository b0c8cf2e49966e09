"""A data set: uint8 images and integer labels, split in train and test, and the checks that make arrays into one.

Knows neither files nor networks nor recipes.
"""

import hashlib
import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray

MAX_CLASSES = 100_000  # a larger label is no class index but damage, and would ask for as many outputs

_AT_ONCE = 64  # images that are read at once

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Arrays of a known name get that data set's labels and convention, if their number of channels is this.
_KNOWN = {
    "mnist": (DIGITS, "light_on_dark_centred", 1),
    "digits": (DIGITS, "light_on_dark_centred", 1),
    "cifar10": (CIFAR10, "plain", 3),
}


class DatasetError(ValueError):
    """The data cannot be used; the message says what was tried and what would help."""


def named(groups: Sequence[str | None], count: int) -> list[str]:
    """Of each of `count` pictures its group, or a name of its own where it stands alone: where its group is None or
    "", and where `groups` is empty."""
    return [groups[i] or f"\0{i}" for i in range(count)] if len(groups) else [f"\0{i}" for i in range(count)]


def independent(groups: Sequence[str | None]) -> int:
    """How many things were seen, in pictures of these `groups`: one film counts once."""
    return len(set(named(groups, len(groups))))


NOTED = 20  # things that a note names


def note_of(head: str, lines: Sequence[str]) -> list[str]:
    """`head` and the first of what was found, a line each; empty where nothing was."""
    more = [f"and {len(lines) - NOTED} more"] if lines[NOTED:] else []
    return [head, *lines[:NOTED], *more] if lines else []


@dataclass(frozen=True)
class Dataset:
    """Images (N, H, W, C) uint8 with C 1 or 3; labels (N,) int64 in [0, len(labels)).

    The last `validation` training images are for validation by the data's own wish. `notes` say what was left out and
    what is odd, for the user. `named` is whether the labels are names that came with the images, not mere numbers;
    `set_aside` whether the data had no test split, so that one was set aside with the seed. `files` are the pictures'
    where they came from files: those of the training images, then those of the test images.
    """

    name: str
    origin: str
    labels: tuple[str, ...]
    input_convention: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    validation: int = 0
    notes: tuple[str, ...] = ()
    named: bool = True
    set_aside: bool = False
    files: tuple[Path, ...] = ()
    groups: tuple[str, ...] = ()  # of the files: what those that belong together share, "" for one that stands alone
    twins: int = 0  # test pictures that are near-identical with training pictures

    @property
    def input_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def test_groups(self) -> int:
        """How many groups the test pictures make, where some belong together; 0 where each stands alone."""
        groups = self.groups[len(self.x_train) :]
        return independent(groups) if any(groups) else 0

    def fingerprint(self) -> str:
        """A SHA-256 over all arrays: equal only for the same images and labels in the same order."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(str(array.shape).encode())
            for start in range(0, len(array), _AT_ONCE):
                digest.update(np.ascontiguousarray(array[start : start + _AT_ONCE]).data)
                let_go(array)
        if self.validation:
            digest.update(f"validation {self.validation}".encode())
        return digest.hexdigest()


def checked(
    name: str,
    origin: str,
    arrays: Iterable[Array],
    *,
    labels: tuple[str, ...] | None = None,
    convention: str = "plain",
    named: bool = True,
    where: str = "",
) -> Dataset:
    """A Dataset of canonical shapes and types, or DatasetError naming the first array that is wrong and how."""
    x_train, y_train, x_test, y_test = arrays
    x_train, x_test = _images(x_train, f"{where}x_train"), _images(x_test, f"{where}x_test")
    y_train, y_test = _targets(y_train, f"{where}y_train"), _targets(y_test, f"{where}y_test")
    for split, images, targets in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(images) != len(targets):
            raise DatasetError(f"{where}x_{split} has {len(images)} images but y_{split} {len(targets)} labels")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DatasetError(f"{where}x_train is {x_train.shape[1:]} per image but x_test {x_test.shape[1:]}")
    notes: tuple[str, ...] = ()
    if labels is None:
        first, last = int(min(y_train.min(), y_test.min())), int(max(y_train.max(), y_test.max()))
        known, known_convention, channels = _KNOWN.get(name, ((), "plain", 0))
        if last < len(known) and x_train.shape[-1] == channels:
            labels, convention, named = known, known_convention, known is not DIGITS
        else:  # labels from 1 would leave a class 0 without images
            labels, named = tuple(str(i) for i in range(first, last + 1)), False
            y_train, y_test = y_train - first, y_test - first
            notes = (f"labels start at {first}: class 0 of the model is label {first}",) if first else ()
    if len(labels) < 2:
        raise DatasetError(f"{where}needs images of at least two classes, found {len(labels)}")
    return Dataset(name, origin, tuple(labels), convention, x_train, y_train, x_test, y_test, 0, notes, named)


def _images(array: Array, what: str) -> Array:
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DatasetError(f"{what}: expected images (N, H, W), (N, H, W, 1) or (N, H, W, 3), got shape {array.shape}")
    if array.dtype != np.uint8:
        raise DatasetError(f"{what}: expected uint8 values 0..255, got {array.dtype}")
    return array


def _targets(array: Array, what: str) -> Array:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":  # issubdtype would let time differences pass
        raise DatasetError(f"{what}: expected integer labels (N,) or (N, 1), got {array.dtype} {array.shape}")
    if len(array) and array.min() < 0:
        raise DatasetError(f"{what}: labels start at 0, got {array.min()}")
    if len(array) and array.max() >= MAX_CLASSES:
        raise DatasetError(f"{what}: labels are class indices below {MAX_CLASSES:,}, got {array.max()}")
    return array.astype(np.int64)


def batch_for(shape: tuple[int, ...]) -> int:
    """Images (H, W, C) or features (C,) in a batch where nothing is trained: 256 of 32x32 pixels, 10 of 224x224."""
    return max(8, min(256, (1 << 19) // math.prod(shape[:2])))


def let_go(array: Array) -> None:
    """Unmap what was read of a memory map: it stays in the system's cache, but is no longer this process' memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {err}".splitlines()[0][:300]
