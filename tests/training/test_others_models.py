"""Models as others make them: exported by the command, and over HTTP they answer as Keras does."""

import contextlib
import io
import json
import runpy
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import encode
from tests.fixtures.training import cheap_training
from training.artifact.inspection import input_range
from training.artifact.reading import run_onnx
from training.export import main

pytestmark = pytest.mark.usefixtures("exported_cheaply")

SIDE, CLASSES = 32, 6
SHAPE = (SIDE, SIDE, 3)


def noise(count: int = 4, seed: int = 3) -> np.ndarray:
    """Smooth colours, (count, 32, 32, 3) uint8."""
    cells = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for c in cells])


def softmax(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Dense(CLASSES, activation="softmax")(x)


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(SHAPE, alpha=0.35, weights=None, classes=CLASSES)


def efficientnet() -> keras.Model:
    """Its first layers, Rescaling and Normalization, are in the model: it takes pixels from 0 to 255."""
    return keras.applications.EfficientNetB0(input_shape=SHAPE, weights=None, classes=CLASSES)


def sequential() -> keras.Model:
    changes = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]
    changes += [layers.RandomTranslation(0.1, 0.1), layers.RandomContrast(0.2), layers.RandomBrightness(0.2)]
    first = [layers.Rescaling(1 / 255), layers.Conv2D(8, 3, activation="gelu"), layers.MaxPooling2D()]
    last = [layers.Conv2D(8, 3), layers.Flatten(), layers.Dropout(0.5), layers.Dense(CLASSES, activation="softmax")]
    return keras.Sequential([layers.Input(SHAPE), *changes, *first, *last])


def separable(image: keras.KerasTensor) -> keras.KerasTensor:
    """The layers of MobileNet and EfficientNet, each kind once: (N, 32, 32, 3) -> (N, 16, 16, 8)."""
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.Activation("swish")(layers.BatchNormalization()(y))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    return layers.Add()([x, layers.Multiply()([y, gate])])


def small_mobilenet() -> keras.Model:
    image = layers.Input(SHAPE)
    return keras.Model(image, softmax(layers.GlobalAveragePooling2D()(separable(image))))


def small_efficientnet() -> keras.Model:
    """It begins as Keras' EfficientNet does: with Rescaling and Normalization."""
    image = layers.Input(SHAPE)
    x = layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.052, 0.05, 0.051])(
        layers.Rescaling(1 / 255)(image)
    )
    return keras.Model(image, softmax(layers.GlobalAveragePooling2D()(separable(x))))


def transfer_from(base: keras.Model) -> keras.Model:
    """A base inside the model, as Keras' guide to transfer learning builds it."""
    image = layers.Input(SHAPE)
    x = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)])(image)
    x = base(keras.applications.mobilenet_v2.preprocess_input(x), training=False)
    return keras.Model(image, softmax(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))))


def transfer() -> keras.Model:
    return transfer_from(keras.applications.MobileNetV2(SHAPE, alpha=0.35, include_top=False, weights=None))


def small_transfer() -> keras.Model:
    image = layers.Input(SHAPE)
    return transfer_from(keras.Model(image, separable(image)))


def as_if_trained(model: keras.Model, images: np.ndarray) -> None:
    """Statistics of `images` (float, in the model's range) for batch norm, so that answers differ by the picture."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for inner in (layer for layer in model.layers if isinstance(layer, keras.Model) and norms):
        inner(images / 127.5 - 1, training=True)  # its call above was one of inference


# The model, the range that it expects, and what the command says of it
Other = tuple[Callable[[], keras.Model], tuple[float, float], list[str], str]
SMALL: dict[str, Other] = {
    "mobilenet-toy": (small_mobilenet, (2 / 255, -1.0), ["--input-range=-1-1"], ""),
    "efficientnet-toy": (small_efficientnet, (1.0, 0.0), [], "pixels 0-255: the graph begins with"),
    "sequential-toy": (sequential, (1.0, 0.0), [], "pixels 0-255: the graph begins with 0.003922 x + 0"),
    "transfer-toy": (small_transfer, (1.0, 0.0), [], "pixels 0-255: the graph begins with 0.007843 x + -1"),
}
WHOLE: dict[str, Other] = {
    "mobilenet-toy": (mobilenet, *SMALL["mobilenet-toy"][1:]),
    "efficientnet-toy": (efficientnet, *SMALL["efficientnet-toy"][1:]),
    "transfer-toy": (transfer, *SMALL["transfer-toy"][1:]),
}


@pytest.fixture(scope="module", params=[SMALL, pytest.param(WHOLE, marks=pytest.mark.thorough)], ids=["small", "whole"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, np.ndarray]]:
    """models/ with each of them, and what Keras gives for `noise()`; whole networks take a minute."""
    folder, answers = tmp_path_factory.mktemp("others"), {}
    for name, (make, (scale, offset), arguments, told) in request.param.items():
        keras.utils.set_random_seed(1)
        model = make()
        as_if_trained(model, noise(64, 1) * np.float32(scale) + np.float32(offset))
        path = folder / f"{name}.keras"
        model.save(path)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), cheap_training():
            assert main([str(path), "--name", name, "--output", str(folder / "models"), *arguments]) == 0
        assert told in said.getvalue()
        answers[name] = np.asarray(model(noise() * np.float32(scale) + np.float32(offset), training=False))
    return folder / "models", answers


def test_the_service_answers_as_keras_does(exported: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    models, answers = exported
    with running_inside(tmp_path / "log", models=str(models), default_model="transfer-toy") as others:
        for name, expected in answers.items():
            assert np.ptp(expected, axis=0).max() > 0.01  # the answers depend on the picture
            for image, row in zip(noise(), expected, strict=True):
                path = f"/classify?model={name}&top_k={CLASSES}"
                predictions = others.post(path, encode(Image.fromarray(image))).json()["predictions"]
                answer = {entry["index"]: entry["probability"] for entry in predictions}
                np.testing.assert_allclose([answer[k] for k in range(CLASSES)], row, atol=1e-4, err_msg=name)


# What the command finds out


def small(*first: layers.Layer, last: layers.Layer | None = None, **options: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    last = last or layers.Dense(CLASSES, activation="softmax")
    return keras.Sequential([layers.Input((8, 8, 3), **options), *first, layers.Flatten(), last])


def adapted(top: int) -> layers.Layer:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).random((20, 8, 8, 3)).astype(np.float32) * top)
    return layer


def export_of(model: keras.Model, folder: Path, *arguments: str, name: str = "mine.keras") -> Path:
    model.save(folder / name)
    assert main([str(folder / name), "--name", "mine", "--output", str(folder), *arguments]) == 0
    return folder / "mine" / "1"


@pytest.mark.parametrize(
    ("first", "found", "told"),
    [
        ([], None, "nothing in the graph scales the pixels"),
        ([lambda: layers.Rescaling(1 / 127.5, -1)], "0-255", "the graph begins with 0.007843 x + -1"),
        ([lambda: layers.Rescaling(2, -1)], "0-1", "the graph begins with 2 x + -1"),
        ([lambda: layers.Rescaling(0.5, 0.5)], "-1-1", "the graph begins with 0.5 x + 0.5"),
        ([lambda: adapted(255)], "0-255", "the graph begins with 0.01"),
        ([lambda: adapted(1)], "0-1", "the graph begins with 3."),
        ([lambda: layers.Rescaling(1.0, [-103.9, -116.8, -123.7])], "0-255", "the graph begins with 1 x + -116.8"),
        ([lambda: layers.Resizing(6, 6), lambda: layers.Rescaling(1 / 255)], "0-255", "the graph begins with 0.0039"),
    ],
)
def test_the_range_is_found_in_the_graph(first: list[Callable[[], layers.Layer]], found: str | None, told: str) -> None:
    pixels, why = input_range(small(*(make() for make in first)), None)
    assert pixels == found
    assert why.startswith(told)


@pytest.mark.parametrize(
    ("first", "options", "told", "scale", "offset"),
    [
        ([], {}, "pixels 0-1 (--input-range says otherwise): nothing in the graph", 1 / 255, 0.0),
        ([], {"dtype": "uint8"}, "pixels 0-255: the model takes whole numbers", 1.0, 0.0),
        ([lambda: layers.Rescaling(0.5, 0.5)], {}, "pixels -1-1", 2 / 255, -1.0),
    ],
)
def test_the_range_that_was_found_is_published(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: list[Callable[[], layers.Layer]],
    options: dict[str, str],
    told: str,
    scale: float,
    offset: float,
) -> None:
    model = small(*(make() for make in first), **options)
    artifact = export_of(model, tmp_path)
    assert told in capsys.readouterr().out
    images = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), np.uint8)
    inputs = images if options else images * np.float32(scale) + np.float32(offset)
    np.testing.assert_allclose(run_onnx(artifact, images), model(inputs), atol=1e-4)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (lambda: layers.Dense(3), "the outputs are logits"),
        (lambda: layers.Dense(1), "the outputs are logits"),
        (lambda: layers.Dense(1, activation="sigmoid"), "the second class' probability"),
    ],
)
def test_logits_and_single_outputs_become_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: Callable[[], layers.Layer], told: str
) -> None:
    model = small(layers.Rescaling(1 / 16), last=last())
    artifact = export_of(model, tmp_path)
    assert told in capsys.readouterr().out
    images = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), np.uint8)
    given = np.asarray(model(images.astype(np.float32)))
    if given.shape[1] == 1:
        second = given if model.layers[-1].activation is keras.activations.sigmoid else 1 / (1 + np.exp(-given))
        expected = np.concatenate([1 - second, second], axis=1)
    else:
        expected = np.exp(given) / np.exp(given).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)
    assert len(json.loads((artifact / "card.json").read_text())["labels"]) == max(2, given.shape[1])


def test_an_older_file_and_labels_with_spaces_are_taken(tmp_path: Path) -> None:
    artifact = export_of(small(), tmp_path, "--labels", "a, b,c ,d,e,f", name="mine.h5")
    assert json.loads((artifact / "card.json").read_text())["labels"] == list("abcdef")


CUSTOM = """
import keras

class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x

class Strange(keras.layers.Layer):
    def call(self, x):
        return keras.ops.erfinv(0.5 * keras.ops.tanh(x))  # ONNX has no such operation
"""


def own_layers(folder: Path) -> dict[str, type[layers.Layer]]:
    (folder / "own.py").write_text(CUSTOM)
    return runpy.run_path(str(folder / "own.py"))


def test_layers_of_ones_own_need_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(own_layers(tmp_path)["Doubled"]()).save(tmp_path / "mine.keras")
    command = [str(tmp_path / "mine.keras"), "--name", "mine", "--output", str(tmp_path)]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--custom FILE.py" in error
    assert main([*command, "--custom", str(tmp_path / "own.py")]) == 0


def test_what_onnx_cannot_compute_is_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small(own_layers(tmp_path)["Strange"]()).save(tmp_path / "mine.keras")
    options = ["--name", "mine", "--output", str(tmp_path / "models"), "--custom", str(tmp_path / "own.py")]
    assert main([str(tmp_path / "mine.keras"), *options]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the model cannot be converted to ONNX")
    assert "Erfinv" in error
    assert list((tmp_path / "models").iterdir()) == []
