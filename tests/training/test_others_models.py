"""Models as others make them: exported by the command, and over HTTP they answer as Keras does."""

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from tests.fixtures.pictures import encode
from tests.fixtures.server import Client, running
from training.artifact.reading import run_onnx
from training.export import main

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


def transfer() -> keras.Model:
    """A base inside the model, as Keras' guide to transfer learning builds it."""
    base = keras.applications.MobileNetV2(SHAPE, alpha=0.35, include_top=False, weights=None)
    image = layers.Input(SHAPE)
    x = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)])(image)
    x = base(keras.applications.mobilenet_v2.preprocess_input(x), training=False)
    return keras.Model(image, softmax(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))))


def as_if_trained(model: keras.Model, images: np.ndarray) -> None:
    """Statistics of `images` (float, in the model's range) for batch norm, so that answers differ by the picture."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for inner in (layer for layer in model.layers if isinstance(layer, keras.Model) and norms):
        inner(images / 127.5 - 1, training=True)  # its call above was one of inference


# The model, the range that it expects, and what the command says of it
OTHERS: dict[str, tuple[Callable[[], keras.Model], tuple[float, float], list[str], str]] = {
    "mobilenet-toy": (mobilenet, (2 / 255, -1.0), ["--input-range=-1-1"], ""),
    "efficientnet-toy": (efficientnet, (1.0, 0.0), [], "pixels 0-255: the graph begins with"),
    "sequential-toy": (sequential, (1.0, 0.0), [], "pixels 0-255: the graph begins with 0.003922 x + 0"),
    "transfer-toy": (transfer, (1.0, 0.0), [], "pixels 0-255: the graph begins with 0.007843 x + -1"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What Keras gives for `noise()` of each model; all lie in `models` beside."""
    return {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, exported: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("others")
    for name, (make, (scale, offset), arguments, _) in OTHERS.items():
        keras.utils.set_random_seed(1)
        model = make()
        as_if_trained(model, noise(64, 1) * np.float32(scale) + np.float32(offset))
        path = folder / f"{name}.keras"
        model.save(path)
        assert main([str(path), "--name", name, "--output", str(folder / "models"), *arguments]) == 0
        exported[name] = model.predict(noise() * np.float32(scale) + np.float32(offset), verbose=0)
    return folder / "models"


@pytest.fixture(scope="module")
def others(models: Path) -> Iterator[Client]:
    settings = {"models": str(models), "default_model": "sequential-toy", "workers": "1"}
    with running(models.parent / "service.log", **settings) as client:
        yield client


@pytest.mark.parametrize("name", OTHERS)
def test_the_service_answers_as_keras_does(others: Client, exported: dict[str, np.ndarray], name: str) -> None:
    assert np.ptp(exported[name], axis=0).max() > 0.01  # the answers depend on the picture
    for image, expected in zip(noise(), exported[name], strict=True):
        path = f"/classify?model={name}&top_k={CLASSES}"
        predictions = others.post(path, encode(Image.fromarray(image))).json()["predictions"]
        answer = {entry["index"]: entry["probability"] for entry in predictions}
        np.testing.assert_allclose([answer[k] for k in range(CLASSES)], expected, atol=1e-4)


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
    ("first", "options", "told", "scale", "offset"),
    [
        ([], {}, "pixels 0-1 (--input-range says otherwise): nothing in the graph", 1 / 255, 0.0),
        ([], {"dtype": "uint8"}, "pixels 0-255: the model takes whole numbers", 1.0, 0.0),
        ([lambda: layers.Rescaling(1 / 127.5, -1)], {}, "pixels 0-255", 1.0, 0.0),
        ([lambda: layers.Rescaling(2, -1)], {}, "pixels 0-1: the graph begins with 2 x + -1", 1 / 255, 0.0),
        ([lambda: layers.Rescaling(0.5, 0.5)], {}, "pixels -1-1", 2 / 255, -1.0),
        ([lambda: adapted(255)], {}, "pixels 0-255", 1.0, 0.0),
        ([lambda: adapted(1)], {}, "pixels 0-1: the graph", 1 / 255, 0.0),
        ([lambda: layers.Rescaling(1.0, [-103.9, -116.8, -123.7])], {}, "pixels 0-255", 1.0, 0.0),
        ([lambda: layers.Resizing(6, 6), lambda: layers.Rescaling(1 / 255)], {}, "pixels 0-255", 1.0, 0.0),
    ],
)
def test_the_range_is_found_in_the_graph(
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
    np.testing.assert_allclose(run_onnx(artifact, images), model.predict(inputs, verbose=0), atol=1e-4)


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
    given = model.predict(images.astype(np.float32), verbose=0)
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
