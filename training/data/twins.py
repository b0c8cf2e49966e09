"""Test pictures that are near-identical with training pictures, as frames of one film are: they flatter the accuracy.

Found by thumbnails, and told of with the files' names. Whoever changes a split looks for them again.
"""

from dataclasses import replace

import numpy as np

from training.data.dataset import Array, Dataset, let_go, note_of

THUMBNAIL = 8  # pixels
_AT_ONCE = 32  # pictures that are floats at once
_ALIKE = 3.0  # levels of 255 by which thumbnails of near-identical pictures differ at most, on average
_ALIKE_SHARE = 0.2  # and as a share of what varies in one: line drawings on white are nearly white all over


def with_twins(data: Dataset) -> Dataset:
    """`data`, a set of files, with the number of its twins and a note of them in place of an older one."""
    found = _twins(data)
    known = _note([""] * data.twins)
    start = data.notes.index(known[0]) if known else len(data.notes)
    notes = (*data.notes[:start], *_note(found), *data.notes[start + len(known) :])
    return replace(data, twins=len(found), notes=notes)


def _note(found: list[str]) -> list[str]:
    return note_of(f"{len(found)} test pictures are near-identical with training pictures:", found)


def _twins(data: Dataset) -> list[str]:
    train, test = _thumbnails(data.x_train), _thumbnails(data.x_test)
    found = []
    squares = (train**2).sum(axis=1)
    for i, thumbnail in enumerate(test):
        distances = squares - 2 * train @ thumbnail + (thumbnail**2).sum()
        nearest = int(distances.argmin())
        apart = float(np.sqrt(np.square(train[nearest] - thumbnail).mean()))
        # What varies counts, not the paper: drawings of few lines are alike as sheets, and not as drawings.
        if apart <= min(_ALIKE, _ALIKE_SHARE * float(thumbnail.std())):
            pair = f"{data.files[len(train) + i]} = {data.files[nearest]}"
            found.append(pair.encode(errors="backslashreplace").decode())  # names of files may be no text
    return found


def _thumbnails(images: Array) -> Array:
    """(N, H, W, C) uint8 -> (N, D) float32: each image averaged over a grid of at most 8x8 cells."""
    rows, columns = (np.linspace(0, side, min(side, THUMBNAIL) + 1).astype(int)[:-1] for side in images.shape[1:3])
    cells = []
    for i in range(0, len(images), _AT_ONCE):
        let_go(images)
        part = np.add.reduceat(np.add.reduceat(images[i : i + _AT_ONCE].astype(np.float32), rows, 1), columns, 2)
        heights, widths = np.diff([*rows, images.shape[1]]), np.diff([*columns, images.shape[2]])
        cells.append((part / (heights[:, None] * widths)[..., None]).reshape(len(part), -1))
    return np.concatenate(cells)
