"""MNIST's digits -> figures of the same pens that are no digits, and blurred digits, to teach a detector the shapes.

Mirrored, turned and written over one another, a digit is none, though its strokes are those of a digit. Knows arrays,
no network.
"""

import numpy as np
from PIL import Image

# Which digits are none any more when they are mirrored, turned by 90 degrees, by 180 degrees, or upside down.
_MIRRORED, _QUARTER, _HALF, _FLIPPED = (3, 4, 6, 7, 9), (2, 3, 4, 5, 7), (3, 4, 7), (4, 6, 7, 9)


def spoilt(images: np.ndarray, targets: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, side, side, 1) uint8 of digits (N, side, side, 1) and which they are, (N,)."""
    rng = np.random.default_rng(seed)
    of = {digit: np.flatnonzero(targets == digit) for digit in np.unique(targets)}

    def one(digits: tuple[int, ...]) -> np.ndarray:
        there = np.concatenate([of[digit] for digit in digits if digit in of] or [np.arange(len(images))])
        return images[there[rng.integers(len(there))], :, :, 0]

    made = []
    for _ in range(count):
        way = rng.random()
        if way < 0.3:
            figure = one(_MIRRORED)[:, ::-1]
        elif way < 0.55:
            figure = np.rot90(one(_QUARTER), rng.choice([1, 3]))
        elif way < 0.7:
            figure = one(_HALF)[::-1, ::-1]
        elif way < 0.8:
            figure = one(_FLIPPED)[::-1]
        else:  # two over one another, a little apart
            figure = np.maximum(*(np.roll(one(()), rng.integers(-3, 4, 2), (0, 1)) for _ in range(2)))
        made.append(_centred(figure))
    return np.stack(made)[..., None]


def coarse(images: np.ndarray, seed: int) -> np.ndarray:
    """(N, side, side, 1) uint8 as if of a third to two thirds of the pixels, enlarged again."""
    rng, side = np.random.default_rng(seed), images.shape[1]
    found = []
    for image in images[..., 0]:
        small = int(rng.integers(side // 3, 2 * side // 3 + 1))
        figure = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
        found.append(np.asarray(figure.resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(found)[..., None]


def noise(count: int, side: int, seed: int) -> np.ndarray:
    """(count, side, side, 1) uint8: noise from single pixels to blobs, every third one grey and without a figure."""
    rng, images = np.random.default_rng(seed), []
    for k in range(count):
        cells = int(rng.integers(2, side + 1)) if k % 3 else 1
        small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        images.append(np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(images)[..., None]


def _centred(figure: np.ndarray) -> np.ndarray:
    """The same with its centre of mass in the middle, as MNIST's figures stand."""
    mass = figure.astype(np.float64)
    middle = (figure.shape[0] - 1) / 2
    at = [float(mass.sum(axis=1 - axis) @ np.arange(figure.shape[axis])) / max(mass.sum(), 1) for axis in (0, 1)]
    return np.roll(figure, [round(middle - place) for place in at], (0, 1))
