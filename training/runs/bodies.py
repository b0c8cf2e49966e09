"""Pictures of one's own, and several pretrained networks -> the one that suits them.

Each network is asked at its own size of pictures: a linear classifier on its fixed features is cross-fitted to a sample
of the training pictures. A larger one is taken only where luck hardly explains its lead. Features are kept, so that the
training that follows finds them.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.artifact.body import Body
from training.data.dataset import Dataset, DatasetError
from training.data.pictures import RESIZES, decode
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.runs.features import features_of, pretrained_body
from training.runs.linear import by_luck, cross_fitted, folds_of

BEST = "best"  # in place of a network's name
BODIES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")  # the cheapest first
SAMPLE = 600  # training pictures, at most
LEAST = 40  # pictures, under which too few answers differ to tell
CHANCE = 0.05  # a larger network costs more in every answer: luck alone must be as much better in fewer cases
TIMED, ROUNDS = 16, 3  # images of a run that is timed, and its repetitions


class Compared(NamedTuple):
    """What is known of one network: the share of pictures that are right by folds, and its cost."""

    network: str
    accuracy: float
    images_per_second: float  # features by ONNX Runtime on all cores, without decoding
    macs: int


class Choice(NamedTuple):
    """A name of BODIES, and what was found of each of them on so many pictures."""

    network: str
    compared: tuple[Compared, ...]
    pictures: int

    @property
    def stated(self) -> dict[str, Any]:
        """The card's `bodies`."""
        return {
            "chosen": self.network,
            "accuracy": {one.network: round(one.accuracy, 4) for one in self.compared},
            "pictures": self.pictures,
        }

    @property
    def summary(self) -> str:
        """What the user reads."""
        least = self.compared[0]
        lines = [f"  {'network':<20} {'right by folds':>14} {'training time':>14} {'images/s':>9}"]
        lines += [
            f"  {one.network:<20} {one.accuracy:>14.1%} {one.macs / least.macs:>13.1f}x {one.images_per_second:>9,.0f}"
            for one in self.compared
        ]
        why = "the most accurate" if self.network != least.network else "no larger one is better by more than luck"
        lines.append("  training time: by arithmetic; images/s: ONNX Runtime in float32 on all cores, without decoding")
        return "\n".join([*lines, f"network: {self.network}, {why}"])


def suited_body(recipes: Sequence[Recipe], data: Dataset, resize: str, runs: Path, side: int | None = None) -> Choice:
    """Which of the networks of `recipes`, the cheapest first, suits the training pictures of `data`.

    `data` was read for the first of them; `resize` is a name of RESIZES. `side` is that of all pictures, by default
    each network's own. Raises DatasetError where there are no files, or fewer than LEAST pictures to ask.
    """
    if not data.files:
        raise DatasetError("--network best compares picture files; name a NETWORK for arrays")
    if len(data.x_train) < LEAST:
        raise DatasetError(
            f"--network best needs at least {LEAST} training pictures to compare networks by, got {len(data.x_train)}; "
            f"name a NETWORK, such as {recipes[0].network}"
        )
    chosen = np.sort(np.random.default_rng(recipes[0].seed).permutation(len(data.x_train))[:SAMPLE])
    targets = data.y_train[chosen]
    groups = [data.groups[i] for i in chosen] if data.groups else ()
    folds, every = folds_of(targets, groups, recipes[0].seed), np.ones(len(chosen), bool)
    bodies: list[tuple[Body, np.ndarray]] = []  # and some images to time it by
    accuracies: list[float] = []
    best, right = recipes[0].network, np.zeros(0, bool)
    for recipe in recipes:
        images = _images(recipe, data, chosen, resize, side)
        body = pretrained_body(recipe, images.shape[1:], runs)
        answers, _ = cross_fitted(
            features_of(body, images), targets, len(data.labels), folds, every, recipe.class_weights
        )
        hits = answers.argmax(axis=1) == targets
        if not len(right) or (hits.sum() > right.sum() and by_luck(right, hits, groups) < CHANCE):
            best, right = recipe.network, hits
        bodies.append((body, images[:TIMED]))
        accuracies.append(float(hits.mean()))
        print(f"{recipe.network}: {hits.mean():.1%} of {len(chosen):,} pictures right", flush=True)
    compared = [
        Compared(recipe.network, accuracy, 1 / seconds, body.macs)
        for recipe, accuracy, seconds, (body, _) in zip(recipes, accuracies, _seconds(bodies), bodies, strict=True)
    ]
    return Choice(best, tuple(compared), len(chosen))


def _images(recipe: Recipe, data: Dataset, chosen: np.ndarray, resize: str, side: int | None) -> np.ndarray:
    """The chosen training pictures (N, H, W, C) as large as the recipe's network wants them."""
    height, width, channels = data.input_shape
    height = width = side or NETWORKS[recipe.network].image_size or height
    if (height, width) == data.input_shape[:2]:
        return data.x_train[chosen]
    mode = "L" if channels == 1 else "RGB"
    return np.stack([decode(data.files[i], mode, (width, height), RESIZES[resize]) for i in chosen])


def _seconds(bodies: Sequence[tuple[Body, np.ndarray]]) -> list[float]:
    """Of an image for each: the least of some rounds, in turn, so that what else the machine does meets them alike."""
    taken: list[list[float]] = [[] for _ in bodies]
    for _ in range(ROUNDS):
        for (body, images), durations in zip(bodies, taken, strict=True):
            began = time.perf_counter()
            list(body.features(images, range(len(images))))
            durations.append((time.perf_counter() - began) / len(images))
    return [min(durations) for durations in taken]
