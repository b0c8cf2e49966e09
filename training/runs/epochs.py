"""One epoch of a training: batches, their order, the learning rate and Keras' figures.

Every random draw is a function of (seed, epoch), never of what ran before, so that a resumed run repeats an
uninterrupted one exactly.
"""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.data.dataset import Dataset
from training.recipes.augmentation import augmented
from training.recipes.recipe import Recipe
from training.runs.run import RunError

Part = tuple[np.ndarray, np.ndarray]  # images (N, H, W, C) uint8 and labels (N,) int64


def train_epoch(
    model: keras.Model,
    recipe: Recipe,
    train: Part,
    validation: Part,
    epoch: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[dict[str, float], float]:
    """One epoch on (images, labels), its order and dropout drawn from (seed, epoch); Keras' figures and the seconds."""
    seed_dropout(model, recipe.seed, epoch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(train[0]))
    classes = model.output_shape[1]
    batches = batches_of(*train, classes, recipe.batch_size, order)
    if recipe.augmentation:
        batches = _augmented(batches, recipe, epoch)
    if recipe.schedule != "constant":
        callbacks = [*callbacks, _Schedule(recipe, epoch, len(batches))]
    started = time.perf_counter()
    history = model.fit(
        batches,
        validation_data=batches_of(*validation, classes),
        initial_epoch=epoch,
        epochs=epoch + 1,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history
    return {key: float(values[-1]) for key, values in history.items()}, time.perf_counter() - started


def splits(recipe: Recipe, data: Dataset) -> tuple[Part, Part]:
    """(images, labels) to train on and to validate on, as the recipe says."""
    if recipe.validation == "test":
        return (data.x_train, data.y_train), (data.x_test, data.y_test)
    held_out = int(len(data.x_train) * recipe.validation)
    if held_out == 0:
        raise RunError(f"{len(data.x_train)} training images are too few to hold out {recipe.validation:.0%} of them")
    return (data.x_train[:-held_out], data.y_train[:-held_out]), (data.x_train[-held_out:], data.y_train[-held_out:])


def batches_of(
    images: np.ndarray, targets: np.ndarray, classes: int, size: int = 256, order: np.ndarray | None = None
) -> tf.data.Dataset:
    """Batches of float32 images in [0, 1] and one-hot labels; only the batch at hand is float, the rest stays uint8."""
    pixels, labels = tf.constant(images), tf.constant(targets)

    def take(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.gather(pixels, index), tf.float32) / 255, tf.one_hot(tf.gather(labels, index), classes)

    index = np.arange(len(images)) if order is None else order
    return tf.data.Dataset.from_tensor_slices(index).batch(size).map(take).prefetch(2)


def _augmented(batches: tf.data.Dataset, recipe: Recipe, epoch: int) -> tf.data.Dataset:
    """The recipe's augmentations, drawn from (seed, epoch, batch)."""
    first, second = np.random.SeedSequence((recipe.seed, epoch)).generate_state(2) >> 1

    def change(i: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, targets = batch
        return augmented(images, recipe.augmentation, tf.stack([i + int(first), int(second)])), targets

    return batches.enumerate().map(change)


class _Schedule(keras.callbacks.Callback):
    """Sets the learning rate before each batch, from how much of the whole training is done."""

    def __init__(self, recipe: Recipe, epoch: int, steps: int):
        super().__init__()
        self.recipe, self.done, self.steps = recipe, epoch * steps, recipe.epochs * steps

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.model.optimizer.learning_rate = self.recipe.rate((self.done + batch) / self.steps)


def seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Set every Dropout's random state from (seed, epoch): a .keras file does not restore it."""
    for i, layer in enumerate(layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)):
        layer.seed_generator.state.assign(np.random.SeedSequence((seed, epoch, i)).generate_state(2))


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, counting to the whole run's epochs instead of the one that `fit` is called for."""

    def __init__(self, epochs: int):
        super().__init__()
        self.total = epochs

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "verbose": 1, "epochs": self.total})
