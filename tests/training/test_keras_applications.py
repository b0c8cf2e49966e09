"""`keras:<Name>`: the preprocessing, sizes and weights of keras.applications, and a training from the command line."""

import inspect
import json
import urllib.request
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import applications, layers
from keras.src.applications import efficientnet, imagenet_utils, mobilenet
from keras.src.backend import config as keras_config
from keras.src.utils import file_utils

from training.artifact.publishing import export
from training.artifact.reading import run_onnx
from training.fit import main
from training.networks.keras_applications import (
    BACKBONE,
    FEATURES,
    NAMES,
    _as_depthwise,
    _preprocessed,
    preprocessing,
    put_weights,
    row,
)
from training.networks.network import build, macs_of
from training.networks.table import NETWORKS
from training.recipes.table import recipe_for
from training.runs.epochs import recompute_batch_norm

pytestmark = pytest.mark.usefixtures("keep_sigterm")
pytest_plugins = ["tests.fixtures.training"]

NAME = "MobileNet"  # of all of them it has the fewest layers beside VGG, which has the most weights
ONE_OF_EACH_FAMILY = (
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "EfficientNetV2S", "InceptionResNetV2"),
    *(
        "InceptionV3",
        NAME,
        "MobileNetV2",
        "MobileNetV3Small",
        "NASNetMobile",
        "ResNet50",
        "ResNet50V2",
        "VGG16",
        "VGG19",
        "Xception",
    ),
)


def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def toys(folder: Path) -> Path:
    """Noise in three shades, of which each is a class."""
    labels = np.arange(48) % 3
    images = (pixels(48) // 2 + 60 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(folder / "toys.npz", x_train=images, y_train=labels, x_test=images[:24], y_test=labels[:24])
    return folder / "toys.npz"


def shaken(model: keras.Model) -> keras.Model:
    """`model` with other weights, as training would leave them; those of a Normalization stay.

    Kernels change by a tenth of their spread: by more, and the outputs of a hundred layers overflow.
    """
    rng = np.random.default_rng(1)

    def other(weight: np.ndarray) -> np.ndarray:
        if weight.ndim > 1:
            return weight + rng.normal(0, 0.1 * weight.std(), weight.shape)
        return weight + np.abs(rng.normal(0, 0.02, weight.shape))

    for layer in model.layers:
        if not isinstance(layer, layers.Normalization):
            layer.set_weights([other(weight) for weight in layer.get_weights()])
    return model


@pytest.fixture(params=["few blocks", pytest.param("all blocks", marks=pytest.mark.thorough)])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """MobileNet with two of its thirteen blocks and EfficientNetB0 with two of its seven stages, or as they are.

    Keras builds, names and saves both alike.
    """
    if request.param == "all blocks":
        return
    block = mobilenet._depthwise_conv_block

    def first_two(inputs: Any, *rest: Any, block_id: int, **named: Any) -> Any:
        return block(inputs, *rest, block_id=block_id, **named) if block_id <= 2 else inputs

    monkeypatch.setattr(mobilenet, "_depthwise_conv_block", first_two)
    monkeypatch.setattr(efficientnet, "DEFAULT_BLOCKS_ARGS", efficientnet.DEFAULT_BLOCKS_ARGS[:2])


def built(name: str, side: int = 32, channels: int = 3, classes: int = 3) -> keras.Model:
    return build(NETWORKS[f"keras:{name}"], (side, side, channels), classes, f"keras:{name}")


# From the command line


@pytest.mark.usefixtures("cheaply", "blocks")
def test_a_network_of_keras_is_trained_from_scratch_and_published_under_its_plain_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--epochs", "1"]
    assert main([f"keras:{NAME}", "--data", str(toys(tmp_path)), "--image-size", "32", *out]) == 0
    assert f"SHORTCUT_DEFAULT_MODEL={NAME}-toys make serve" in capsys.readouterr().out
    artifact = tmp_path / "models" / f"{NAME}-toys" / "1"
    card = json.loads((artifact / "card.json").read_text())
    assert (card["name"], card["network"], card["recipe"]["name"]) == (f"{NAME}-toys", f"keras:{NAME}", "augmented")
    assert "weights" not in card["recipe"]
    model = keras.saving.load_model(tmp_path / "runs" / f"{NAME}-toys" / "1" / "model.keras", compile=False)
    assert card["macs"] == macs_of(model) > 1e6
    images = pixels(3)
    np.testing.assert_allclose(run_onnx(artifact, images), model(images / np.float32(255)), atol=1e-4)


@pytest.mark.thorough  # tests/training/test_transfer.py does the same with a small network
@pytest.mark.usefixtures("cheaply")
def test_a_file_of_weights_is_learnt_from_by_transfer_and_stays_private(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    source = shaken(applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3)))
    recompute_batch_norm(source, pixels(48))  # without it features die out, and rounding decides what is unfamiliar
    file = tmp_path / "secret-folder" / "seen.weights.h5"
    file.parent.mkdir()
    source.save_weights(file)
    out = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--epochs", "1"]
    options = ["--data", str(toys(tmp_path)), "--image-size", "32", "--weights", str(file)]
    assert main([f"keras:{NAME}", *options, *out]) == 0
    text = (tmp_path / "models" / f"{NAME}-toys" / "1" / "card.json").read_text()
    recipe = json.loads(text)["recipe"]
    assert (recipe["name"], recipe["weights"], recipe["frozen"]) == ("transfer", "seen.weights.h5", FEATURES)
    assert "secret-folder" not in text
    model = keras.saving.load_model(tmp_path / "runs" / f"{NAME}-toys" / "1" / "model.keras", compile=False)
    for kept, given in zip(model.get_layer(BACKBONE).get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, given)


def test_a_recipe_with_a_file_of_weights_states_its_name_alone() -> None:
    recipe = recipe_for(f"keras:{NAME}", "toys", weights="secret-folder/seen.weights.h5")
    stated = recipe.hyper_parameters()
    assert (recipe.name, stated["weights"], stated["frozen"]) == ("transfer", "seen.weights.h5", FEATURES)
    assert "secret-folder" not in json.dumps(stated)


@pytest.mark.usefixtures("cheaply", "blocks")
def test_without_a_connection_it_is_said_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # `urlopen` keeps the proxies of its process's first call
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path / "keras"))
    out = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main([f"keras:{NAME}", "--weights", "imagenet", "--data", str(toys(tmp_path)), *out]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/mobilenet_1_0_" in line
    assert "refused" in line
    assert "--weights FILE" in line
    assert "--weights none" in line
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["keras:mobilenet_v3_small"], "did you mean keras:MobileNetV3Small or"),
        (["keras:Qqq"], "keras.applications has no network 'Qqq': ConvNeXtBase, "),
        (["keras:VGG16", "--weights", "cat.png"], "expected none, imagenet or a file *.weights.h5, *.h5, *.keras, got"),
        (["keras:VGG16", "--weights", "nowhere.h5"], "argument --weights: nowhere.h5: no such file"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["keras:Xception", "--image-size", "64"], "keras:Xception needs images of at least 71x71 pixels, got 64x64"),
        (["dense_resnet", "--weights", "imagenet"], "dense_resnet has no weights to begin with"),
        (["keras:VGG16", "--recipe", "transfer", "--weights", "none"], "the recipe transfer begins with weights"),
        (["keras:VGG16", "--data", "nowhere"], "--data nowhere: no such file or folder"),
    ],
)
def test_what_does_not_go_together_is_told_before_data_is_read(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(arguments) == 1
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("blocks")
def test_images_that_are_too_small_are_told_how_to_become_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"keras:{NAME}", "--dataset", "digits"]) == 1
    assert "at least 32x32 pixels, got 28x28: --image-size 32 or more enlarges them" in capsys.readouterr().err


# What Keras says of its networks


def test_every_name_of_keras_is_known() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 40
    assert set(ONE_OF_EACH_FAMILY) <= set(NAMES)
    modules = {inspect.getmodule(getattr(applications, name)) for name in NAMES}
    assert {inspect.getmodule(getattr(applications, name)) for name in ONE_OF_EACH_FAMILY} == modules


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = row(name).smallest
    with pytest.raises(ValueError, match=f"at least {smallest}"):
        getattr(applications, name)(include_top=False, weights=None, input_shape=(smallest - 1, smallest - 1, 3))

    def told(*_: Any, default_size: int, **__: Any) -> None:
        raise RuntimeError(default_size)

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", told)
    if "MobileNetV3" not in name:  # the only family that works its size out by itself
        with pytest.raises(RuntimeError, match=f"^{row(name).image_size}$"):
            getattr(applications, name)(include_top=False, weights=None, input_shape=(64, 64, 3))


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_preprocessing_is_that_of_the_network(name: str) -> None:
    preprocess = preprocessing(name)
    image = layers.Input((8, 8, 3))
    ours = keras.Model(image, _preprocessed(image, preprocess))
    images = pixels(4, 8)
    expected = preprocess(images.astype(np.float32))
    np.testing.assert_allclose(ours(images / np.float32(255)), expected, atol=1e-4)


@pytest.mark.usefixtures("blocks")
def test_grey_images_are_taken_as_colours() -> None:
    colour, grey = built(NAME), built(NAME, channels=1)
    grey.set_weights(colour.get_weights())
    images = pixels(2)[..., :1] / np.float32(255)
    np.testing.assert_allclose(grey(images), colour(np.repeat(images, 3, axis=-1)), atol=1e-6)


def test_a_grouped_convolution_becomes_a_depthwise_one_with_the_same_numbers() -> None:
    image = layers.Input((8, 8, 4))
    grouped = keras.Model(image, layers.Conv2D(4, 3, padding="same", groups=4, bias_initializer="ones")(image))
    ours = keras.models.clone_model(grouped, clone_function=_as_depthwise)
    weights = zip(grouped.get_weights(), ours.weights, strict=True)
    ours.set_weights([array.reshape(weight.shape) for array, weight in weights])
    assert isinstance(ours.layers[-1], layers.DepthwiseConv2D)
    x = np.random.default_rng(0).random((2, 8, 8, 4), np.float32)
    np.testing.assert_allclose(ours(x), grouped(x), atol=1e-5)


# Weights


@pytest.fixture
def receiver(blocks: None) -> keras.Model:
    """A network that weights are put into."""
    return built(NAME)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("ending", "with_top"),
    [(".weights.h5", False), pytest.param(".h5", True, marks=pytest.mark.thorough), (".keras", True)],
)
def test_weights_come_from_any_form_of_file_with_or_without_the_classifier(
    tmp_path: Path, receiver: keras.Model, ending: str, with_top: bool
) -> None:
    shape = (224, 224, 3) if with_top else (32, 32, 3)
    source = shaken(applications.MobileNet(weights=None, include_top=with_top, input_shape=shape))
    file = str(tmp_path / f"seen{ending}")
    (source.save_weights if ending == ".weights.h5" else source.save)(file)
    put_weights(NAME, receiver, file)
    backbone = receiver.get_layer(BACKBONE).get_weights()
    for kept, given in zip(backbone, source.get_weights()[: len(backbone)], strict=True):
        np.testing.assert_array_equal(kept, given)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("ending", [".weights.h5", pytest.param(".h5", marks=pytest.mark.thorough)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, receiver: keras.Model, ending: str) -> None:
    text, other = (str(tmp_path / f"{name}{ending}") for name in ("text", "other"))
    Path(text).write_text("no weights")
    source = applications.EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3))
    (source.save_weights if ending == ".weights.h5" else source.save)(other)
    before = receiver.get_weights()
    for file in (text, other):
        with pytest.raises(ValueError, match=f"{ending}: does not hold the weights of keras:{NAME}: ."):
            put_weights(NAME, receiver, file)
    for kept, given in zip(receiver.get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, given)


@pytest.mark.usefixtures("blocks")
def test_efficientnet_with_imagenets_weights_sees_what_keras_own_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras has one layer more in it then. Only the download is replaced: a file with other weights comes."""
    source = shaken(applications.EfficientNetB0(weights=None, include_top=False, input_shape=(224, 224, 3)))
    norm = next(layer for layer in source.layers if isinstance(layer, layers.Normalization))
    norm.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2, np.array(1)])
    source.save(tmp_path / "fetched.h5")
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(tmp_path / "fetched.h5"))
    theirs = applications.EfficientNetB0(weights="imagenet", include_top=False, input_shape=(32, 32, 3), pooling="avg")
    model = built("EfficientNetB0")
    put_weights("EfficientNetB0", model, "imagenet")
    ours = keras.Model(model.input, model.get_layer(FEATURES).output)
    images = pixels(2)
    expected = np.asarray(theirs(images.astype(np.float32)))
    np.testing.assert_allclose(ours(images / np.float32(255)), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.01


# Every family, at its smallest size: minutes


@pytest.mark.thorough
@pytest.mark.usefixtures("cheaply")
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_one_of_each_family_is_exported_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    side = row(name).smallest
    model = built(name, side)
    shaken(model.get_layer(BACKBONE))
    artifact = export(model, name, labels=["a", "b", "c"], output=tmp_path, card={})
    images = pixels(3, side)
    np.testing.assert_allclose(run_onnx(artifact, images), model(images / np.float32(255)), atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("MobileNet", 569),  # Howard et al. 2017, table 4
        ("MobileNetV2", 300),  # Sandler et al. 2018, table 4
        ("NASNetMobile", 564),  # Zoph et al. 2018, table 2
        ("ResNet50", 3_800),  # He et al. 2015, table 1: 3.8 billion
    ],
)
def test_multiply_accumulate_operations_are_those_of_the_papers(name: str, millions: int) -> None:
    model = built(name, row(name).image_size or 224, classes=1000)
    assert macs_of(model) / 1e6 == pytest.approx(millions, rel=0.03)
