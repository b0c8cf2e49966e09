"""Which images of a data set a recipe trains on, and which choose the epoch."""

import numpy as np

from training.data.dataset import Dataset
from training.recipes.recipe import Recipe

# Images (N, H, W, C) uint8 and labels (N,) int64; or in place of images what a frozen layer makes of them, float16,
# which may hold several views of each image, one whole round after another.
Part = tuple[np.ndarray, np.ndarray]


class RunError(RuntimeError):
    """The run cannot start or continue; the message says why."""


def splits(recipe: Recipe, data: Dataset) -> tuple[Part, Part]:
    """(images, labels) to train on and to validate on: as the data says, else as the recipe does. Raises RunError."""
    if recipe.validation == "test" and not data.validation:
        return (data.x_train, data.y_train), (data.x_test, data.y_test)
    held_out = data.validation or int(len(data.x_train) * float(recipe.validation))
    if not 0 < held_out < len(data.x_train):
        raise RunError(f"{len(data.x_train)} training images are too few to hold out {recipe.validation:.0%} of them")
    return (data.x_train[:-held_out], data.y_train[:-held_out]), (data.x_train[-held_out:], data.y_train[-held_out:])
