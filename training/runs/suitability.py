"""A recipe and the user's images -> the recipe without the augmentations that mix up the user's classes.

A mirrored arrow to the left is one to the right. Whether that matters is asked of a linear classifier on the features
of EfficientNet-Lite0: it learns with changed copies and without, and answers images that it did not learn from. Knows
nothing of the network that will be trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import binomtest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data.dataset import independent
from training.networks.efficientnet_lite import put_weights
from training.networks.network import build
from training.networks.table import NETWORKS
from training.recipes.augmentation import AUGMENTATIONS, Augmentation
from training.recipes.recipe import Recipe
from training.runs.linear import folds_of, lost_and_won, parts_of
from training.runs.parts import Part

SAMPLE = 240  # images that the question is asked of, at most
SIDE = 96  # pixels to which they are resized
FOLDS = 4
STRENGTH = 1000.0  # of the linear classifier's penalty, for 2,288 features of variance 1
CHANCE = (
    0.01  # an augmentation is left out where luck alone would lose so many answers in less than this share of cases
)
LEAST = 0.02  # and where it loses this share of the answers at least
ENOUGH = 40  # images, under which too few answers can be lost to tell
FEWEST = 7  # images, or groups of them, under which luck alone loses all answers in more than CHANCE of the cases
AT_ONCE = 40

Features: TypeAlias = Callable[[np.ndarray], np.ndarray]
Findings: TypeAlias = dict[str, dict[str, Any]]  # by the name of an augmentation


def _mirrored(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.reverse(images, [2])  # all of them; `flip` mirrors half


# The augmentations that are asked about, how an image is changed for it, and what the user reads where it is left out.
ASKED: dict[str, tuple[Augmentation, str]] = {
    "flip": (_mirrored, "mirrored copies are left out: your classes depend on left and right"),
    "crop": (AUGMENTATIONS["crop"], "enlarged parts are left out: your classes depend on size or place"),
    "colour": (AUGMENTATIONS["colour"], "changed colours are left out: your classes depend on shades of colour"),
}


def without(recipe: Recipe, name: str) -> Recipe:
    """The recipe without the augmentation `name`."""
    return replace(recipe, augmentation=tuple(other for other in recipe.augmentation if other != name))


def suited(recipe: Recipe, train: Part, groups: Sequence[str] = ()) -> tuple[Recipe, Findings]:
    """The recipe without what harms, and for each augmentation that was asked about what was found.

    That is `used`, the number of `images` and of their `groups`, and the accuracies `plain` and `with_copies` of the
    linear classifier. There are no accuracies of fewer images or groups than FEWEST, which leave everything in use.
    Nothing is found where no class has two images. The same images and seed give the same result. Images of one of the
    `groups` (N,), "" for none, are in one fold: who has learnt a film's frames knows its other frames however they are
    mirrored.
    """
    names = [name for name in ASKED if name in recipe.augmentation]
    chosen = _sample(train[1], recipe.seed)
    targets = train[1][chosen]
    if not names or len(np.unique(targets)) < 2:
        return recipe, {}
    of = [groups[i] for i in chosen] if len(groups) else []
    counted = {"images": len(targets), **({"groups": independent(of)} if any(of) else {})}
    if min(counted.values()) < FEWEST:
        return recipe, {name: {"used": True, **counted} for name in names}
    images = np.stack([_resized(train[0][i]) for i in chosen])
    features = _features(images.shape[-1])
    seed = tf.constant([recipe.seed, 0], tf.int32)
    plain = features(images)
    folds = _folds(targets, of, recipe.seed)
    before = _right(plain, [plain], targets, folds)
    findings: Findings = {}
    for name in names:
        changed = features(ASKED[name][0](tf.constant(images), seed).numpy())
        # A training sees images and their mirrors, but of crops and colours hardly ever the image itself.
        after = _right(plain, [plain, changed] if name == "flip" else [changed], targets, folds)
        lost, won = lost_and_won(before, after, of)
        luck = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
        harms = luck < CHANCE and before.mean() - after.mean() >= LEAST
        accuracies = {"plain": round(float(before.mean()), 4), "with_copies": round(float(after.mean()), 4)}
        findings[name] = {"used": not harms, **accuracies, **counted}
        if harms:
            recipe = without(recipe, name)
    return recipe, findings


def summary_of(findings: Findings) -> str:
    """What the user reads of `suited`'s findings: a line for each augmentation that is left out, or one for all."""
    lines = []
    for name, result in findings.items():
        if not result["used"]:
            option = "" if name != "flip" else " (as --no-flip does)"
            lines.append(
                f"note: {ASKED[name][1]}{option}. A classifier on fixed features has {result['plain']:.0%} of "
                f"{result['images']} pictures right, and {result['with_copies']:.0%} if it learns from such copies."
            )
    asked: dict[str, Any] = next(iter(findings.values()), {"images": 0})
    what = "groups of pictures" if "groups" in asked else "pictures"
    count = int(asked.get("groups", asked["images"]))
    if findings and not lines and count < ENOUGH:
        lines.append(f"note: {count} {what} are too few to tell whether your classes bear {', '.join(findings)}")
    elif findings and not lines:
        lines.append(f"augmentation: {', '.join(findings)} mix up none of your classes")
    return "\n".join(lines)


def _sample(targets: np.ndarray, seed: int) -> np.ndarray:
    """Indices of images of all classes that have two or more, alike many of each as far as they go."""
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(np.flatnonzero(targets == k)) for k in np.unique(targets)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return np.zeros(0, np.int64)
    each = max(2, SAMPLE // len(groups))
    return np.sort(np.concatenate([group[:each] for group in groups])[:SAMPLE])


def _resized(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> (SIDE, SIDE, C) float32 in [0, 1]."""
    pixels = tf.cast(image, tf.float32)[None] / 255
    return np.asarray(tf.image.resize(pixels, (SIDE, SIDE), antialias=True))[0]


@cache
def _features(channels: int) -> Features:
    """Images (N, SIDE, SIDE, C) -> what the network sees in them (N, F): as a whole, and where, on a 3x3 grid."""
    name = "efficientnet_lite0"
    network = build(NETWORKS[name], (SIDE, SIDE, channels), 2, name)
    put_weights(network, "imagenet")
    places = keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(network.get_layer("block10_add").output))
    whole = network.get_layer("head_pool").output
    model = keras.Model(network.input, keras.layers.Concatenate()([whole, places]))
    compute = tf.function(lambda batch: model(batch, training=False))

    def features(images: np.ndarray) -> np.ndarray:
        batches = [images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE)]
        padded = [np.resize(batch, (AT_ONCE, *batch.shape[1:])) for batch in batches]  # one size is traced once
        return np.concatenate([np.asarray(compute(tf.constant(batch))) for batch in padded])[: len(images)]

    return features


def _folds(targets: np.ndarray, groups: Sequence[str], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices to learn from and to ask, for each fold."""
    if any(groups):
        return [(np.flatnonzero(a), np.flatnonzero(b)) for a, b in parts_of(folds_of(targets, groups, seed, FOLDS))]
    count = min(FOLDS, int(np.bincount(targets)[np.unique(targets)].min()))
    return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(targets, targets))


def _right(
    plain: np.ndarray,
    learnt: Sequence[np.ndarray],
    targets: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Whether each image is answered right by a classifier that learnt the others, in the forms `learnt`."""
    right = np.zeros(len(targets), bool)
    for others, asked in folds:
        if len(np.unique(targets[others])) < 2:
            continue  # a class in one group alone cannot be learnt without it
        features, labels = np.concatenate([form[others] for form in learnt]), np.tile(targets[others], len(learnt))
        linear = make_pipeline(StandardScaler(), RidgeClassifier(alpha=STRENGTH)).fit(features, labels)
        right[asked] = linear.predict(plain[asked]) == targets[asked]
    return right
