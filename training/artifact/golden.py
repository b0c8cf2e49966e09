"""Seeded pictures that the project draws itself -> the golden inputs of an artifact.

Rendered digits, shapes, gradients and noise, never images of a data set. Knows a model only as a function from images
to probabilities.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.artifact.exactness import STEADY
from training.data.dataset import batch_for

COUNT = 32
CLASSES = 5  # the top-1 answers must cover this many, so that a swapped output cannot go unseen
_POOL = 640
_CANDIDATES = 128  # whose answers are computed again, to find those that rounding does not move
_MARGIN = 1e-3  # a golden answer that flips on rounding would test nothing: ties are left out


class Golden(NamedTuple):
    """32 images (32, H, W, C) uint8, their probabilities (32, K), and how far rounding moves those: (32,)."""

    images: np.ndarray
    probabilities: np.ndarray
    spread: np.ndarray


def golden_inputs(
    input_shape: tuple[int, int, int],
    predict: Callable[[np.ndarray], np.ndarray],
    spread: Callable[[np.ndarray], np.ndarray] = lambda images: np.zeros(len(images)),
    seed: int = 0,
    pool: int = _POOL,
) -> Golden:
    """32 pictures with the model's answers, the top-1 as varied as the model allows.

    `predict` maps (N, H, W, C) uint8 to (N, K), `spread` to how far rounding moves the answers, (N,). They are
    chosen from `pool` pictures: fewer do for a network that takes long. A model that answers every picture alike (after
    one epoch, say) yields fewer than 5 classes; the caller decides what that means.
    """
    drawn = pictures(input_shape, pool, seed)
    # In parts: all at once would take 15 GB for a network of 224x224 images.
    part = batch_for(input_shape)
    probabilities = np.concatenate([predict(np.stack(drawn[i : i + part])) for i in range(0, pool, part)])

    def moves(indices: Sequence[int]) -> np.ndarray:
        return spread(np.stack([drawn[i] for i in indices]))

    indices, spreads = chosen(probabilities, moves)
    return Golden(np.stack([drawn[i] for i in indices]), probabilities[indices], spreads)


def warning_of_few(probabilities: np.ndarray) -> str | None:
    """Where the answers (N, K) to drawn pictures are of few classes: what that means for a comparison with them."""
    count, classes = probabilities.shape
    covered = len(np.unique(probabilities.argmax(axis=1)))
    if covered >= min(CLASSES, classes):
        return None
    return (
        f"warning: to {count} drawn pictures, with which what is published is compared, the model answers only "
        f"{covered} of its {classes} classes: this comparison proves less. It says nothing of accuracy"
    )


def pictures(input_shape: tuple[int, int, int], count: int, seed: int = 0) -> list[np.ndarray]:
    """The first `count` pictures (H, W, C) uint8 of the pool: the same ones however many are asked for."""
    rng = np.random.default_rng(seed)
    return [_draw(i, input_shape, rng) for i in range(count)]


def chosen(probabilities: np.ndarray, spread: Callable[[Sequence[int]], np.ndarray]) -> tuple[list[int], np.ndarray]:
    """COUNT of the pool's pictures by their answers (N, K), and how far rounding moves each of them.

    `spread` says that of the pictures whose indices it is given.
    """
    pool = len(probabilities)
    ordered = np.sort(probabilities, axis=1)
    clear = np.flatnonzero(ordered[:, -1] - ordered[:, -2] > _MARGIN)
    top = probabilities.argmax(axis=1)
    # Round-robin over the classes, each in the pool's order: kinds of pictures and classes both stay mixed.
    rounds = {int(i): int((top[clear[: k + 1]] == top[i]).sum()) for k, i in enumerate(clear)}
    candidates = sorted(rounds, key=rounds.__getitem__) + [i for i in range(pool) if i not in rounds]
    # Far from what it has learnt, a network can answer 1 in one runtime and 0 in the next, both of them correct: such a
    # picture proves nothing. The next candidates take its place.
    spreads: dict[int, float] = {}
    steady: list[int] = []
    for start in range(0, _CANDIDATES, COUNT):
        asked = candidates[start : start + COUNT]
        spreads |= dict(zip(asked, spread(asked).tolist(), strict=True))
        steady += [i for i in asked if spreads[i] <= STEADY]
        if len(steady) >= COUNT:
            break
    unsteady = sorted((i for i in spreads if i not in steady), key=spreads.__getitem__)
    taken = sorted((steady + unsteady)[:COUNT])
    return taken, np.array([spreads[i] for i in taken])


def _draw(index: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    height, width, channels = shape
    draw = (_digit, _digit, _shapes, _gradient, _noise)[index % 5]
    image = draw(index // 5, width, height, rng)
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(shape)


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(low, high, 3))
    return red, green, blue


def _digit(index: int, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A digit of Pillow's own font, light on black in half of the pictures, in colours otherwise."""
    image = Image.new("RGB", (width, height), "black" if index % 2 else _colour(rng, 0, 100))
    size = min(width, height) * rng.uniform(0.6, 1.0)
    centre = (width / 2 + rng.uniform(-2, 2), height / 2 + rng.uniform(-2, 2))
    ImageDraw.Draw(image).text(
        centre,
        str(index % 10),
        fill="white" if index % 2 else _colour(rng, 120, 256),
        font=ImageFont.load_default(size),
        anchor="mm",
    )
    return image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)


def _shapes(index: int, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (width, height), _colour(rng, 0, 256))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        x0, x1 = sorted(rng.uniform(0, width, 2))
        y0, y1 = sorted(rng.uniform(0, height, 2))
        fill = _colour(rng, 0, 256)
        (draw.ellipse, draw.rectangle)[int(rng.integers(2))]([x0, y0, x1, y1], fill=fill)
    return image


def _gradient(index: int, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    angle, (first, last) = rng.uniform(0, 2 * np.pi), rng.uniform(0, 255, (2, 3))
    y, x = np.mgrid[0:height, 0:width]
    t = np.cos(angle) * x / width + np.sin(angle) * y / height
    t = ((t - t.min()) / max(float(np.ptp(t)), 1e-9))[..., None]
    return Image.fromarray((first + (last - first) * t).astype(np.uint8))


def _noise(index: int, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Noise at a random scale: from single pixels to a few blobs."""
    cells = int(rng.integers(2, max(3, min(width, height))))
    small = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
