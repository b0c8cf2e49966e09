"""A network with pretrained weights -> one that has learnt the user's classes, in two steps.

The lower part stays as it is, so its outputs are computed once, for several augmented views of each image. First a
linear classifier is fitted to the upper part's features (Donahue et al. 2013, "DeCAF"), then the upper part is trained
from there with batch norm in inference mode. Knows no network but by the name of the last layer that stays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from training.artifact.metrics import mean_recall
from training.data.dataset import batch_for, let_go
from training.recipes.augmentation import augmented
from training.recipes.recipe import Recipe
from training.runs.epochs import batches_of
from training.runs.linear import STRENGTHS, fitted
from training.runs.parts import Part

VIEWS = (2, 8)  # of each training image: at least, at most
WANTED = 5000  # views of all training images together, where that is between the two
FOR_HEAD = 3000  # views that the linear classifier is fitted to, in whole rounds: its features are computed anew


def upper_part(model: keras.Model, last_frozen: str) -> keras.Model:
    """A copy of the layers of `model` after the layer `last_frozen`; all but batch norms are trained."""
    shared = keras.Model(model.get_layer(last_frozen).output, model.output, name=f"{model.name}_upper")
    upper = keras.models.clone_model(shared)
    upper.set_weights(shared.get_weights())
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return upper


def joined(whole: keras.Model, upper: keras.Model) -> keras.Model:
    """`whole` with the weights of `upper` in the layers of the same names."""
    for layer in upper.layers:
        if layer.weights:
            whole.get_layer(layer.name).set_weights(layer.get_weights())
    return whole


def frozen_outputs(
    model: keras.Model, recipe: Recipe, train: Part, validation: Part, folder: Path
) -> tuple[Part, Part]:
    """What the frozen part of `model` makes of both parts: float16 (N, h, w, c), in files in `folder`.

    Of the training images there are several views, one whole round after another; the first is the image itself.
    """
    lower = keras.Model(model.input, model.get_layer(recipe.frozen).output)
    views = int(np.clip(WANTED // len(train[0]), *VIEWS))
    outputs = [
        _outputs(lower, images, rounds, recipe, folder / f"{name}.float16")
        for name, images, rounds in (("train", train[0], views), ("validation", validation[0], 1))
    ]
    return (outputs[0], train[1]), (outputs[1], validation[1])


def _outputs(lower: keras.Model, images: np.ndarray, rounds: int, recipe: Recipe, path: Path) -> np.ndarray:
    shape = (rounds * len(images), *lower.output_shape[1:])
    if not path.exists():  # else an interrupted run has computed it
        compute = tf.function(lambda batch: lower(batch, training=False))
        partial, at_once = path.with_suffix(".partial"), batch_for(images.shape[1:])
        with partial.open("wb") as file:
            for view in range(rounds):
                for i in range(0, len(images), at_once):
                    batch = tf.cast(images[i : i + at_once], tf.float32) / 255
                    let_go(images)
                    if view:
                        seed = np.random.SeedSequence((recipe.seed, view, i)).generate_state(2) >> 1
                        batch = augmented(batch, recipe.augmentation, tf.constant(seed.astype(np.int32)))
                    file.write(np.asarray(compute(batch)).astype(np.float16).tobytes())
        partial.replace(path)
    return np.memmap(path, np.float16, "r", shape=shape)


def fit_head(upper: keras.Model, train: Part, validation: Part, balanced: bool) -> dict[str, float]:
    """Fit the last layer to the features before it; the figures of an epoch that would give the same model.

    `balanced` lets every class count alike, however many images it has.
    """
    last = upper.layers[-1]
    before = keras.Model(upper.input, last.input)
    rounds = min(len(train[0]) // len(train[1]), max(1, FOR_HEAD // len(train[1])))
    train = train[0][: rounds * len(train[1])], train[1]
    features, held_out = (
        before.predict(batches_of(*part, upper.output_shape[1]), verbose=0) for part in (train, validation)
    )
    targets = np.tile(train[1], len(features) // len(train[1]))
    best, measure = -1.0, "val_mean_recall" if balanced else "val_categorical_accuracy"
    for strength in STRENGTHS:
        linear = fitted(features, targets, upper.output_shape[1], strength, balanced)
        predicted = linear.answers(held_out).argmax(axis=1)
        measured = {"val_categorical_accuracy": float((predicted == validation[1]).mean())}
        if balanced:
            measured["val_mean_recall"] = mean_recall(predicted, validation[1])
        if measured[measure] > best:
            best, figures, chosen = measured[measure], measured, linear
    last.set_weights([chosen.kernel, chosen.bias])
    learnt = chosen.answers(features).argmax(axis=1) == targets
    return {**figures, "categorical_accuracy": float(learnt.mean())}
