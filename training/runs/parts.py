"""Which images of a data set a recipe trains on, and which choose the epoch."""

import numpy as np

from training.data.dataset import Dataset
from training.recipes.drawn import LABEL, flagged_ones
from training.recipes.recipe import Recipe

# Images (N, H, W, C) uint8 and labels (N,) int64; or in place of images what a frozen layer makes of them, float16,
# which may hold several views of each image, one whole round after another.
Part = tuple[np.ndarray, np.ndarray]


class RunError(RuntimeError):
    """The run cannot start or continue; the message says why."""


def validation_groups(data: Dataset, held_out: int) -> tuple[str, ...]:
    """What each of the `held_out` validation images belongs to, "" for none; empty where no image has a group."""
    count = len(data.x_train)
    return data.groups[count - held_out : count]


def splits(recipe: Recipe, data: Dataset) -> tuple[Part, Part]:
    """(images, labels) to train on and to validate on: as the data says, else as the recipe does. Raises RunError."""
    if recipe.validation == "test" and not data.validation:
        return (data.x_train, data.y_train), (data.x_test, data.y_test)
    held_out = data.validation or int(len(data.x_train) * float(recipe.validation))
    if not 0 < held_out < len(data.x_train):
        raise RunError(f"{len(data.x_train)} training images are too few to hold out {recipe.validation:.0%} of them")
    train = data.x_train[:-held_out], data.y_train[:-held_out]
    return _with_drawn(train, recipe, data), (data.x_train[-held_out:], data.y_train[-held_out:])


def _with_drawn(train: Part, recipe: Recipe, data: Dataset) -> Part:
    """`train` and after it the ones that the recipe draws."""
    if not recipe.drawn_ones:
        return train
    height, width, channels = data.input_shape
    if height != width or channels != 1 or LABEL not in data.labels:
        raise RunError(f"the recipe {recipe.name} draws ones: it needs grey, square images and a class {LABEL!r}")
    drawn = flagged_ones(recipe.drawn_ones, height, recipe.seed)
    targets = np.full(len(drawn), data.labels.index(LABEL), train[1].dtype)
    return np.concatenate([train[0], drawn]), np.concatenate([train[1], targets])
