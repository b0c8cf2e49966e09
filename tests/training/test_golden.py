"""The golden inputs: drawn by the project, the same every time, and telling a model's classes apart."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.fixtures.server import committed_artifacts
from training.artifact.golden import CLASSES, COUNT, golden_inputs
from training.artifact.graph import ExportError
from training.artifact.publishing import export

COMMITTED = [artifact / "golden.npz" for artifact in committed_artifacts()]

Predict = Callable[[np.ndarray], np.ndarray]


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def linear(shape: tuple[int, int, int], classes: int = 10) -> Predict:
    weights = np.random.default_rng(1).normal(0, 0.3, (int(np.prod(shape)), classes))
    return lambda images: softmax(images.reshape(len(images), -1) / 255 @ weights)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (13, 40, 3), (8, 8, 1), (1, 1, 1)])
def test_32_pictures_of_the_models_shape_with_their_answers(shape: tuple[int, int, int]) -> None:
    predict = linear(shape)
    images, probabilities, _ = golden_inputs(shape, predict)
    assert images.shape == (COUNT, *shape)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(probabilities.argmax(axis=1), predict(images).argmax(axis=1))
    np.testing.assert_allclose(probabilities, predict(images), atol=1e-12)


def test_no_picture_is_chosen_twice() -> None:
    images, _, _ = golden_inputs((28, 28, 1), linear((28, 28, 1)))
    assert len(np.unique(images.reshape(COUNT, -1), axis=0)) == COUNT


def test_the_same_seed_draws_the_same_pictures() -> None:
    shape = (16, 16, 3)
    first, again = golden_inputs(shape, linear(shape)), golden_inputs(shape, linear(shape))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], golden_inputs(shape, linear(shape), seed=1)[0])


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_the_answers_of_a_random_model_cover_many_classes(shape: tuple[int, int, int]) -> None:
    _, probabilities, _ = golden_inputs(shape, linear(shape))
    assert len(np.unique(probabilities.argmax(axis=1))) >= CLASSES


def test_answers_that_rounding_could_flip_are_left_out() -> None:
    _, probabilities, _ = golden_inputs((28, 28, 1), linear((28, 28, 1)))
    ordered = np.sort(probabilities, axis=1)
    assert (ordered[:, -1] - ordered[:, -2]).min() > 1e-3


def test_a_model_that_answers_everything_alike_still_gets_32() -> None:
    images, probabilities, _ = golden_inputs((8, 8, 1), lambda images: np.full((len(images), 4), 0.25))
    assert (len(images), len(probabilities)) == (COUNT, COUNT)


def test_pictures_that_rounding_moves_are_replaced() -> None:
    """Every second candidate is one whose answer no two runtimes agree on."""
    moved = []

    def spread(images: np.ndarray) -> np.ndarray:
        moved.extend(image.tobytes() for image in images[::2])
        return np.where(np.arange(len(images)) % 2, 2e-5, 0.7)

    images, _, spreads = golden_inputs((28, 28, 1), linear((28, 28, 1)), spread)
    assert len(images) == COUNT
    assert set(spreads) == {2e-5}
    assert not {image.tobytes() for image in images} & set(moved)


def test_where_rounding_moves_nearly_all_the_least_moved_are_taken() -> None:
    def spread(images: np.ndarray) -> np.ndarray:
        return np.linspace(0.002, 0.9, len(images))

    _, _, spreads = golden_inputs((28, 28, 1), linear((28, 28, 1)), spread)
    assert spreads.shape == (COUNT,)
    assert spreads.max() < 0.9


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parts[-3])
def test_every_committed_artifact_covers_five_classes(path: Path) -> None:
    with np.load(path) as golden:
        images, probabilities = golden["image"], golden["probabilities"]
    assert images.shape[0] == COUNT
    assert images.dtype == np.uint8
    labels = json.loads((path.parent / "card.json").read_text())["labels"]
    assert probabilities.shape == (COUNT, len(labels))
    assert probabilities.dtype == np.float32
    assert len(np.unique(probabilities.argmax(axis=1))) >= CLASSES


def test_the_default_model_is_among_the_committed() -> None:
    assert "dense_resnet-mnist" in {path.parts[-3] for path in COMMITTED}


def test_answers_that_are_no_numbers_are_not_published(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.set_weights([weight * np.float32(np.nan) for weight in model.get_weights()])
    with pytest.raises(ExportError, match="not finite numbers"):
        export(model, "toy", labels=("a", "b"), output=tmp_path, card={})
    assert list(tmp_path.iterdir()) == []
