"""Test images -> the same images moved, noised or with less contrast, and a model's accuracy on each kind.

Nothing is downloaded: the shifts are generated, seeded, at three strengths each, in the manner of Hendrycks &
Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", section 4.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


def moved(images: Array, pixels: float, rng: np.random.Generator) -> Array:
    """Each image moved by `pixels` in one of four directions; the edge is repeated."""
    step = int(pixels)
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (step, step), (step, step), (0, 0)), mode="edge")
    corners = [(0, step), (2 * step, step), (step, 0), (step, 2 * step)]
    chosen = rng.integers(len(corners), size=len(images))
    return np.stack(
        [wide[i, y : y + height, x : x + width] for i, (y, x) in enumerate(corners[choice] for choice in chosen)]
    )


def noised(images: Array, deviation: float, rng: np.random.Generator) -> Array:
    """Gaussian noise of `deviation` levels of 255 on every value, clipped to 0..255."""
    noise = rng.normal(0.0, deviation, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def flattened(images: Array, contrast: float, rng: np.random.Generator) -> Array:
    """`contrast` times the distance of every value from its image's mean."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return np.clip(np.rint(mean + contrast * (images - mean)), 0, 255).astype(np.uint8)


Shift = Callable[[Array, float, np.random.Generator], Array]

SHIFTS: dict[str, tuple[Shift, float]] = {
    "moved 1 pixel": (moved, 1),
    "moved 2 pixels": (moved, 2),
    "moved 4 pixels": (moved, 4),
    "noise 8": (noised, 8),
    "noise 16": (noised, 16),
    "noise 32": (noised, 32),
    "contrast 3/4": (flattened, 0.75),
    "contrast 1/2": (flattened, 0.5),
    "contrast 1/4": (flattened, 0.25),
}


def shift(name: str, images: Array, seed: int = 0) -> Array:
    """`images` (N, H, W, C) uint8 under the shift `name`: the same pictures for every model that is measured."""
    change, strength = SHIFTS[name]
    return change(images, strength, np.random.default_rng((seed, list(SHIFTS).index(name))))


def accuracy_by_shift(predict: Callable[[Array], Array], images: Array, targets: Array) -> dict[str, Any]:
    """Accuracy on the images as they are and under each of SHIFTS; `predict` maps uint8 images to (N, K)."""

    def accuracy(pictures: Array) -> float:
        return float((predict(pictures).argmax(axis=1) == targets).mean())

    return {
        "accuracy": accuracy(images),
        "shifted": {name: accuracy(shift(name, images)) for name in SHIFTS},
        "images": len(images),
    }
