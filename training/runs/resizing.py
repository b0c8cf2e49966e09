"""Pictures that are not square, and a network that takes squares -> how the ones become the others.

Squashing keeps all of a picture and bends its shapes, padding keeps both and makes them smaller, cropping loses the
edges. Which one suits is asked of a linear classifier on fixed features, by folds.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.data.dataset import Dataset, DatasetError
from training.data.pictures import RESIZES, decode, header
from training.recipes.recipe import Recipe
from training.runs.features import features_of, pretrained_body
from training.runs.linear import by_luck, cross_fitted, folds_of

SAMPLE = 240  # pictures that the question is asked of, at most
LEAST = 40  # pictures, under which too few answers differ to tell
BENT = 1.1  # a picture whose proportions differ from the network's by less is hardly bent
SHARE = 0.2  # of pictures that are bent: of fewer no question is asked
CHANCE = 0.1  # another way than squashing is taken where luck alone would be as much better in less than this share


class Resize(NamedTuple):
    """A name of RESIZES, and the card's `resize`: the accuracies by folds, empty where nothing was asked."""

    name: str
    stated: dict[str, Any]

    @property
    def summary(self) -> str:
        """What the user reads."""
        shares = ", ".join(f"{name} {accuracy:.0%}" for name, accuracy in self.stated["accuracy"].items())
        return f"resize: {self.name} (right by folds on {self.stated['pictures']} pictures: {shares}); --resize sets it"


def suited_resize(recipe: Recipe, data: Dataset, runs: Path) -> Resize:
    """The way that suits the pictures of `data`, which were squashed. Nothing is asked of arrays, of pictures that are
    hardly bent, of fewer than LEAST, or for a network that begins with nothing."""
    squashed = Resize("squash", {})
    if not data.files or not recipe.weights:
        return squashed
    count = len(data.files)
    chosen = np.sort(np.random.default_rng(recipe.seed).permutation(count)[:SAMPLE])
    height, width, channels = data.input_shape
    bent = 0
    try:
        for i in chosen:
            (wide, high), _ = header(data.files[i])
            ratio = wide * height / (high * width)
            bent += max(ratio, 1 / ratio) > BENT
        if len(chosen) < LEAST or bent < SHARE * len(chosen):
            return squashed
        body = pretrained_body(recipe, data.input_shape, runs)
        targets = np.concatenate([data.y_train, data.y_test])[chosen]
        groups = [data.groups[i] for i in chosen] if data.groups else ()
        folds, every = folds_of(targets, groups, recipe.seed), np.ones(len(chosen), bool)
        right: dict[str, np.ndarray] = {}
        for name, convention in RESIZES.items():
            mode, size = "L" if channels == 1 else "RGB", (width, height)
            images = np.stack([decode(data.files[i], mode, size, convention) for i in chosen])
            features = features_of(body, images)
            answers, _ = cross_fitted(features, targets, len(data.labels), folds, every, recipe.class_weights)
            right[name] = answers.argmax(axis=1) == targets
    except DatasetError:  # a picture that went away meanwhile
        return squashed
    best = "squash"
    for name, hits in right.items():
        if by_luck(right["squash"], hits, groups) < CHANCE and hits.sum() > right[best].sum():
            best = name
    accuracies = {name: round(float(hits.mean()), 4) for name, hits in right.items()}
    return Resize(best, {"chosen": best, "accuracy": accuracies, "pictures": len(chosen)})
