"""One epoch of a training: batches, their order, the learning rate and Keras' figures.

Every random draw is a function of (seed, epoch), never of what ran before, so that a resumed run repeats an
uninterrupted one exactly.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.artifact.metrics import mean_recall
from training.data.dataset import batch_for, let_go
from training.networks.network import ENLARGING
from training.recipes.augmentation import augmented
from training.recipes.recipe import Recipe
from training.runs.devices import even
from training.runs.parts import Part

# Bytes of uint8 training images that batch norm's statistics are recomputed from: 10,000 of 32x32, 200 of 224x224.
STATISTICS_BYTES = 30 << 20
SILENCE = 60  # seconds without a line, at most, where there is no terminal


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
    rng = np.random.default_rng((recipe.seed, epoch))
    order = rng.permutation(len(train[1]))
    order += len(order) * rng.integers(0, len(train[0]) // len(order), len(order))  # one view of each image
    order = order[: even(len(order), recipe.batch_size, model.distribute_strategy.num_replicas_in_sync)]
    classes = model.output_shape[1]
    batches = batches_of(*train, classes, recipe.batch_size, order)
    if recipe.augmentation and not recipe.frozen:
        batches = _augmented(batches, recipe, epoch)
    if recipe.schedule != "constant":
        callbacks = [*callbacks, _Schedule(recipe, epoch, len(batches))]
    started = time.perf_counter()
    with _enlarging_less(model, recipe, epoch):
        history = model.fit(
            batches,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
            class_weight=class_weights(train[1], classes) if recipe.class_weights else None,
        ).history
    if recipe.batch_norm == "recomputed":
        few = max(1, STATISTICS_BYTES // train[0][0].nbytes)
        recompute_batch_norm(model, train[0][np.sort(order[:few])])
    figures = {key: float(values[-1]) for key, values in history.items()}
    return figures | _validated(model, recipe, validation), time.perf_counter() - started


def _validated(model: keras.Model, recipe: Recipe, validation: Part) -> dict[str, float]:
    """Keras' figures on the validation images; and the mean recall, where the recipe lets every class count alike."""
    batches = batches_of(*validation, model.output_shape[1])
    found = model.evaluate(batches, verbose=0, return_dict=True)
    figures = {f"val_{key}": float(value) for key, value in found.items()}
    if recipe.class_weights:
        predicted = model.predict(batches, verbose=0).argmax(axis=1)
        figures["val_mean_recall"] = mean_recall(predicted, validation[1])
    return figures


@contextmanager
def _enlarging_less(model: keras.Model, recipe: Recipe, epoch: int) -> Iterator[None]:
    """Let `model` enlarge its images to three quarters of the side in the recipe's first epochs."""
    sizes = [1.0 if k >= round(recipe.reduced * recipe.epochs) else 0.75 for k in (epoch - 1, epoch)]
    if sizes[0] != sizes[1]:
        model.train_function = None  # Keras then traces it anew, with the size of now
    if sizes[1] == 1:
        yield
        return
    layer = model.get_layer(ENLARGING)
    whole = layer.height, layer.width
    layer.height, layer.width = (round(side * sizes[1]) for side in whole)
    try:
        yield
    finally:
        layer.height, layer.width = whole


def class_weights(targets: np.ndarray, classes: int) -> dict[int, float]:
    """A weight for each class that makes all count alike, with a mean of 1 over the images; a missing class gets 1."""
    counts = np.bincount(targets, minlength=classes)
    present = np.count_nonzero(counts)
    return {k: len(targets) / (present * int(n)) if n else 1.0 for k, n in enumerate(counts)}


def recompute_batch_norm(model: keras.Model, images: np.ndarray) -> None:
    """Set every batch norm's mean and variance to those of `images` (N, H, W, C) uint8, as training sees its batches.

    The moving averages keep 0.99 of themselves at each step, so after few steps they still lie near their start.
    Layers that are frozen keep theirs. The mean of the batches' variances and the variance of their means add up.
    """
    found = [layer for layer in flattened(model) if isinstance(layer, keras.layers.BatchNormalization)]
    norms = [layer for layer in found if layer.trainable]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    means: list[list[np.ndarray]] = [[] for _ in norms]
    variances: list[list[np.ndarray]] = [[] for _ in norms]
    sizes, batch = [], batch_for(images.shape[1:])
    for layer in norms:
        layer.momentum = 0.0  # the averages then hold the last batch's values
    for i in range(0, len(images), batch):
        part = images[i : i + batch]
        model(tf.cast(part, tf.float32) / 255, training=True)
        sizes.append(len(part))
        for k, layer in enumerate(norms):
            means[k].append(np.asarray(layer.moving_mean))
            variances[k].append(np.asarray(layer.moving_variance))
    for layer, momentum, mean, variance in zip(norms, momenta, means, variances, strict=True):
        layer.momentum = momentum
        centre = np.average(mean, axis=0, weights=sizes)
        spread = np.average(np.square(np.asarray(mean) - centre), axis=0, weights=sizes)
        layer.moving_mean.assign(centre)
        layer.moving_variance.assign(np.average(variance, axis=0, weights=sizes) + spread)


def flattened(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of the models nested in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from flattened(layer)


def batches_of(
    images: np.ndarray, targets: np.ndarray, classes: int, size: int | None = None, order: np.ndarray | None = None
) -> tf.data.Dataset:
    """Batches of float32 images in [0, 1] and one-hot labels; only the batch at hand is float, the rest stays uint8.

    Arrays of floats, a frozen layer's outputs, are not scaled; they may hold several rounds of views of the images.
    """
    scale = 255 if images.dtype == np.uint8 else 1
    labels = tf.constant(targets)
    if isinstance(images, np.memmap):  # stays on the disk but for the batch at hand

        def rows_of(index: np.ndarray) -> np.ndarray:
            rows = images[index]
            let_go(images)
            return rows

        def gathered(index: tf.Tensor) -> tf.Tensor:
            pixels = tf.numpy_function(rows_of, [index], images.dtype)
            return tf.ensure_shape(pixels, (None, *images.shape[1:]))
    else:
        whole = tf.constant(images)

        def gathered(index: tf.Tensor) -> tf.Tensor:
            return tf.gather(whole, index)

    def take(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        targets = tf.gather(labels, index % len(labels))
        return tf.cast(gathered(index), tf.float32) / scale, tf.one_hot(targets, classes)

    index = np.arange(len(images)) if order is None else order
    return tf.data.Dataset.from_tensor_slices(index).batch(size or batch_for(images.shape[1:])).map(take).prefetch(2)


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
    for i, layer in enumerate(layer for layer in flattened(model) if isinstance(layer, keras.layers.Dropout)):
        layer.seed_generator.state.assign(np.random.SeedSequence((seed, epoch, i)).generate_state(2))


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, counting to the whole run's epochs instead of the one that `fit` is called for."""

    def __init__(self, epochs: int):
        super().__init__()
        self.total = epochs

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "verbose": 1, "epochs": self.total})


class Lines(keras.callbacks.Callback):
    """A line every `SILENCE` seconds of an epoch, for a file or a pipe, where a progress bar would fill pages."""

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epoch = epoch + 1
        self.began = self.told = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now, done, steps = time.monotonic(), batch + 1, self.params["steps"]
        if now - self.told < SILENCE or done == steps:
            return
        self.told = now
        left = (now - self.began) * (steps - done) / done
        loss = f", loss {logs['loss']:.4f}" if logs else ""
        print(
            f"epoch {self.epoch}/{self.epochs}: batch {done:,} of {steps:,}{loss}, "
            f"about {max(1, round(left / 60))} min left of this epoch",
            flush=True,
        )
