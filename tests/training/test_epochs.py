"""What an epoch obeys of its recipe: statistics of batch norm, weights of classes, schedule and augmentation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from training.data.dataset import Dataset
from training.networks.network import ENLARGING, build
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.recipes.table import recipe_for
from training.runs import epochs
from training.runs.epochs import Lines, batches_of, class_weights, recompute_batch_norm, train_epoch
from training.runs.fitting import _epoch_line, fit

pytest_plugins = ["tests.fixtures.training"]
pytestmark = pytest.mark.usefixtures("small_network")


def coloured(count: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures in two classes: the first channel is light in the second class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 160, (count, 16, 16, 3))
    images[..., 0] += 90 * labels[:, None, None]
    return images.astype(np.uint8), labels


def drawn(name: str = "drawn") -> Dataset:
    (images, labels), (others, targets) = coloured(), coloured(40, seed=1)
    return Dataset(name, "drawn", ("dark", "light"), "plain", images, labels, others, targets)


def test_recomputed_statistics_are_those_of_the_images() -> None:
    image = layers.Input((4, 4, 3))
    norm = layers.BatchNormalization()
    model = keras.Model(image, norm(layers.Rescaling(2.0)(image)))
    frozen = layers.BatchNormalization(trainable=False)
    outer = keras.Model(image, frozen(model(image)))
    images = np.random.default_rng(0).integers(0, 256, (700, 4, 4, 3), np.uint8)
    recompute_batch_norm(outer, images)
    pixels = images.astype(np.float64) / 255 * 2
    np.testing.assert_allclose(norm.moving_mean, pixels.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, pixels.var((0, 1, 2)), rtol=1e-4)
    assert norm.momentum == 0.99
    np.testing.assert_array_equal(frozen.moving_mean, np.zeros(3))


def test_few_steps_publish_what_was_learnt_only_with_recomputed_statistics(tmp_path: Path) -> None:
    """Ten steps leave the moving averages near their start: the fault that publishes chance."""
    recipe = replace(recipe_for("_small", "drawn"), epochs=4, augmentation=(), early_stopping=0, learning_rate=0.03)
    model, train, validation = built(recipe), coloured(), coloured(40, seed=1)
    for epoch in range(3):
        train_epoch(model, replace(recipe, batch_norm="moving"), train, validation, epoch)
    restore, accuracies = as_now(model), {}
    for kind in ("moving", "recomputed"):
        restore()
        figures, _ = train_epoch(model, replace(recipe, batch_norm=kind), train, validation, 3)
        accuracies[kind] = figures["val_categorical_accuracy"]
    assert accuracies["recomputed"] > 0.9
    assert accuracies["recomputed"] >= accuracies["moving"]


def built(recipe: Recipe) -> keras.Model:
    keras.utils.set_random_seed(recipe.seed)
    model = build(NETWORKS[recipe.network], (16, 16, 3), 2, recipe.network)
    recipe.compile(model)
    return model


def as_now(model: keras.Model) -> Callable[[], None]:
    """What brings the model and its optimizer back to where they are: one that is built anew would be traced anew."""
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    values = [np.array(variable) for variable in variables]

    def restore() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return restore


def test_classes_weigh_alike_and_the_mean_weight_is_one() -> None:
    targets = np.repeat([0, 2], [30, 10])
    weights = class_weights(targets, 3)
    assert weights == {0: pytest.approx(2 / 3), 1: 1.0, 2: pytest.approx(2.0)}
    assert np.mean([weights[k] for k in targets]) == pytest.approx(1)


@pytest.mark.usefixtures("cheaply")
def test_the_schedule_sets_the_rate_of_each_step() -> None:
    recipe = replace(recipe_for("_small", "drawn"), schedule="cosine", epochs=2, batch_size=32, learning_rate=0.01)
    model = built(recipe)
    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    for epoch in range(2):
        train_epoch(model, recipe, coloured(), coloured(8), epoch, [watch])
    assert rates == pytest.approx([recipe.rate(i / 6) for i in range(6)], rel=1e-5)
    assert rates[0] == pytest.approx(0.01)


class Traced(layers.Layer):
    """Keeps the height of its input whenever a function that holds it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.heights: list[int] = []

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        self.heights.append(x.shape[1])
        return x


def watched(recipe: Recipe) -> tuple[keras.Model, Traced]:
    """A compiled model that enlarges images of 16 pixels to 32, and the layer after that."""
    image, layer = layers.Input((16, 16, 3)), Traced()
    pooled = layers.GlobalAveragePooling2D()(layer(layers.Resizing(32, 32, name=ENLARGING)(image)))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(pooled))
    recipe.compile(model)
    layer.heights.clear()
    return model, layer


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_and_validation_are_traced_once_each(optimizer: str) -> None:
    recipe = replace(recipe_for("_small", "drawn"), optimizer=optimizer, batch_size=40, epochs=3, class_weights=False)
    model, layer = watched(recipe)
    for epoch in range(3):
        train_epoch(model, recipe, coloured(), coloured(8), epoch)
    assert layer.heights == [32, 32]


def test_the_first_epochs_enlarge_by_less() -> None:
    recipe = replace(
        recipe_for("_small", "drawn"), epochs=3, reduced=0.7, batch_size=32, augmentation=(), class_weights=False
    )
    model, layer = watched(recipe)
    heights = []
    for epoch in range(3):
        layer.heights.clear()
        train_epoch(model, recipe, coloured(), coloured(8), epoch)
        heights.append(list(layer.heights))
        assert model.get_layer(ENLARGING).height == 32  # so a checkpoint is always the whole network
    # The validation is traced in the first epoch only, at the whole size; the second epoch is as the first.
    assert heights == [[24, 32], [], [32]]


@pytest.mark.usefixtures("cheaply")
def test_a_long_epoch_says_how_far_it_is_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe_for("_small", "drawn"), batch_size=32, augmentation=(), epochs=4)
    model = built(recipe)
    train_epoch(model, recipe, coloured(), coloured(8), 1, [Lines(4)])
    assert capsys.readouterr().out == ""  # shorter than a minute
    monkeypatch.setattr(epochs, "SILENCE", 0)
    train_epoch(model, recipe, coloured(), coloured(8), 1, [Lines(4)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 2/4: batch 1 of 3, loss ")
    assert second.startswith("epoch 2/4: batch 2 of 3, loss ")
    assert second.endswith("about 1 min left of this epoch")


@pytest.mark.usefixtures("cheaply")
def test_a_training_in_bfloat16_publishes_float32(tmp_path: Path) -> None:
    recipe = replace(recipe_for("_small", "drawn"), epochs=1, precision="mixed_bfloat16")
    artifact = fit(recipe, drawn(), output=tmp_path / "models", runs=tmp_path / "runs")
    kept = keras.saving.load_model(tmp_path / "runs/small-drawn/1/model.keras")
    assert {layer.compute_dtype for layer in kept.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    types = {tensor.data_type for tensor in onnx.load(artifact / "model.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in types


def test_augmented_epochs_repeat_exactly_by_their_seed() -> None:
    recipe = replace(recipe_for("_small", "drawn"), augmentation=("flip", "shift"), batch_size=16)
    model, losses = built(recipe), []
    restore = as_now(model)
    for r in (recipe, recipe, replace(recipe, augmentation=())):
        restore()
        losses.append(train_epoch(model, r, coloured(), coloured(8), 3)[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_images_on_the_disk_give_the_same_batches(tmp_path: Path) -> None:
    images, labels = coloured(20)
    stored = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    stored[:] = images
    order = np.random.default_rng(0).permutation(20)
    for one, other in zip(
        batches_of(images, labels, 2, 8, order), batches_of(stored, labels, 2, 8, order), strict=True
    ):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_validation_tells_the_mean_recall_where_classes_count_alike() -> None:
    recipe = replace(recipe_for("_small", "drawn"), augmentation=(), class_weights=True)
    model, (images, labels) = built(recipe), coloured(40, seed=1)
    kept = np.flatnonzero((labels == 0) | (np.arange(40) < 6))  # 20 dark ones, 3 light ones
    rare = images[kept], labels[kept]
    figures, _ = train_epoch(model, recipe, coloured(), rare, 0)
    predicted = model.predict(batches_of(*rare, 2), verbose=0).argmax(axis=1)
    recalls = [(predicted[rare[1] == k] == k).mean() for k in (0, 1)]
    assert figures["val_mean_recall"] == pytest.approx(np.mean(recalls))
    assert "val_mean_recall" not in train_epoch(model, replace(recipe, class_weights=False), coloured(), rare, 1)[0]


def test_the_time_left_is_that_of_epochs_alone() -> None:
    """The first epoch's seconds in the record hold what was computed once before it."""
    figures = {"loss": 1.0, "categorical_accuracy": 0.5, "val_categorical_accuracy": 0.5}
    assert "about 3 min left" in _epoch_line(figures, 1, 20, [10.0])
    assert "left" not in _epoch_line(figures, 19, 20, [10.0, 12.0])


@pytest.mark.usefixtures("exported_cheaply")
def test_the_best_epoch_is_published_and_its_accuracy_stands_in_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(recipe_for("_small", "drawn"), epochs=3)
    artifact = fit(recipe, drawn(), output=tmp_path / "models", runs=tmp_path / "runs")
    said = capsys.readouterr().out
    assert "published are the weights of epoch " in said
    assert "dark                      41       7      20" in said
    assert "warning: 40 test images are few" in said
    assert (artifact / "card.json").is_file()
