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
# A camera that moves shifts all thumbnails, so that pictures whose thumbnails are less alike are laid on each other.
# Pictures of CIFAR-10 differ then by 0.23 at least, but for copies. Small grey ones are not laid: some 1s of MNIST,
# which nobody has filmed, differ by 0.11.
_NEAR_SHARE = 0.4
_LAID_SHARE = 0.12
_LAID = (32, 64)  # pixels of pictures that are laid on each other: some shifts are whole pixels of one of them
_SHIFT = 3  # of those pixels


def with_twins(data: Dataset) -> Dataset:
    """`data` with the number of its twins and a note of them in place of an older one."""
    twins = _twins(data)
    known = _note([""] * data.twins)
    start = data.notes.index(known[0]) if known else len(data.notes)
    notes = (*data.notes[:start], *_note(twins), *data.notes[start + len(known) :])
    return replace(data, twins=len(twins), notes=notes)


def _note(twins: list[str]) -> list[str]:
    return note_of(f"{len(twins)} test pictures are near-identical with training pictures:", twins)


def _twins(data: Dataset) -> list[str]:
    train, test = _thumbnails(data.x_train), _thumbnails(data.x_test)
    twins = []
    squares = (train**2).sum(axis=1)
    filmed = data.x_test.shape[3] > 1 or max(data.x_test.shape[1:3]) > _LAID[0]
    for start in range(0, len(test), _AT_ONCE):
        part = test[start : start + _AT_ONCE]
        nearest = (squares - 2 * part @ train.T).argmin(axis=1)
        for i, (k, thumbnail) in enumerate(zip(nearest.tolist(), part, strict=True), start):
            apart, varies = float(np.sqrt(np.square(train[k] - thumbnail).mean())), float(thumbnail.std())
            # What varies counts, not the paper: drawings of few lines are alike as sheets, and not as drawings.
            alike = apart <= min(_ALIKE, _ALIKE_SHARE * varies)
            if alike or (
                filmed and apart <= _NEAR_SHARE * varies and _laid(data.x_train[k], data.x_test[i]) <= _LAID_SHARE
            ):
                pair = _pair(data, i, k)
                twins.append(pair.encode(errors="backslashreplace").decode())  # names of files may be no text
    return twins


def _pair(data: Dataset, test: int, train: int) -> str:
    if not data.files:
        return f"x_test[{test}] = x_train[{train}]"
    return f"{data.files[len(data.x_train) + test]} = {data.files[train]}"


def _laid(one: Array, other: Array) -> float:
    """How far two images (H, W, C) differ where they are laid on each other best, as a share of what varies in one."""
    return min(_apart(_blurred(one, side), _blurred(other, side)) for side in _LAID)


def _blurred(image: Array, side: int) -> Array:
    """Noise and hard edges weigh less: of pictures that differ in them alone, hardly anything is left."""
    blurred = _averaged(image[None], side)[0]
    blurred = blurred[1:] + blurred[:-1] if len(blurred) > 1 else blurred
    return blurred[:, 1:] + blurred[:, :-1] if blurred.shape[1] > 1 else blurred


def _apart(one: Array, other: Array) -> float:
    height, width = one.shape[:2]
    least = min(
        float(
            np.square(
                one[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
                - other[max(-y, 0) : height + min(-y, 0), max(-x, 0) : width + min(-x, 0)]
            ).mean()
        )
        for y in range(-min(_SHIFT, height - 1), min(_SHIFT, height - 1) + 1)
        for x in range(-min(_SHIFT, width - 1), min(_SHIFT, width - 1) + 1)
    )
    return float(np.sqrt(least)) / max(float(other.std()), 1e-6)


def _thumbnails(images: Array) -> Array:
    """(N, H, W, C) uint8 -> (N, D) float32: each image averaged over a grid of at most 8x8 cells."""
    parts = []
    for i in range(0, len(images), _AT_ONCE):
        let_go(images)
        parts.append(_averaged(images[i : i + _AT_ONCE], THUMBNAIL).reshape(len(images[i : i + _AT_ONCE]), -1))
    return np.concatenate(parts)


def _averaged(images: Array, side: int) -> Array:
    """(N, H, W, C) uint8 -> float32 of at most `side` cells each way."""
    rows, columns = (np.linspace(0, size, min(size, side) + 1).astype(int)[:-1] for size in images.shape[1:3])
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, 1), columns, 2)
    heights, widths = np.diff([*rows, images.shape[1]]), np.diff([*columns, images.shape[2]])
    return np.asarray(sums / (heights[:, None] * widths)[..., None], np.float32)
