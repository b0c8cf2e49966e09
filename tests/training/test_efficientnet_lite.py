"""EfficientNet-Lite as its authors built it: its sizes, its weights, and what it says of two real photos."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from serving.images.picture import decode_image
from tests.fixtures.pictures import encode
from tests.fixtures.server import ROOT, running
from training.networks.efficientnet_lite import pretrained, set_weights
from training.networks.network import build, macs_of
from training.networks.table import NETWORKS
from training.recipes.table import recipe_for
from training.runs.transfer import upper_part

ARTIFACT = ROOT / "models" / "efficientnet_lite0-imagenet" / "1"
LABELS = json.loads((ARTIFACT / "card.json").read_text())["labels"]
SEEN = {"china.jpg": "palace", "flower.jpg": "daisy"}


def photo(name: str, side: int = 224) -> np.ndarray:
    picture = encode(Image.fromarray(load_sample_image(name)), "JPEG", quality=95)
    return decode_image(picture, (side, side, 3), "centre_crop")


def answers_of(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """As `predict`, which would trace a graph of a hundred layers for two pictures."""
    return np.asarray(model(pixels, training=False))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    model = build(NETWORKS["efficientnet_lite0"], (224, 224, 3), 1000, "efficientnet_lite0")
    set_weights(model, pretrained("efficientnet_lite0"), head=True)
    return model


def test_it_has_the_size_that_its_authors_state(network: keras.Model) -> None:
    assert network.count_params() == 4_694_024  # 4.7 M, with batch norm's averages
    assert 380e6 < macs_of(network) < 407e6  # they count the pooling and the batch norms too


def test_the_stored_weights_and_the_artifact_see_what_is_in_the_photos(network: keras.Model) -> None:
    session = onnxruntime.InferenceSession(ARTIFACT / "model.onnx", providers=["CPUExecutionProvider"])
    for name, label in SEEN.items():
        pixels = photo(name)[None]
        (exact,) = session.run(["probabilities"], {"image": pixels})[0]
        (halved,) = answers_of(network, pixels / np.float32(255))
        assert LABELS[exact.argmax()] == LABELS[halved.argmax()] == label
        assert np.abs(exact - halved).max() < 0.01  # float16 changes no answer


@pytest.mark.parametrize(
    ("name", "side", "parameters", "millions", "seen"),
    # Millions of parameters and of operations as the authors count them, with what is no product.
    [
        ("efficientnet_lite1", 240, 5.4, 631, ("palace", "daisy")),
        ("efficientnet_lite2", 260, 6.1, 899, ("palace", "honeycomb")),  # as it is in PyTorch with the same weights
    ],
)
def test_the_larger_ones_have_their_authors_sizes_and_answers(
    name: str, side: int, parameters: float, millions: int, seen: tuple[str, str]
) -> None:
    model = build(NETWORKS[name], (side, side, 3), 1000, name)
    set_weights(model, pretrained(name), head=True)
    assert model.count_params() / 1e6 == pytest.approx(parameters, abs=0.1)
    assert 0.94 < macs_of(model) / (millions * 1e6) < 1
    answers = answers_of(model, np.stack([photo(file, side) for file in SEEN]) / np.float32(255))
    assert tuple(LABELS[k] for k in answers.argmax(axis=1)) == seen


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_what_is_not_trained_ends_before_the_last_two_stages(name: str) -> None:
    model = build(NETWORKS[name], (64, 64, 3), 2, name)
    last = recipe_for(name, "own").frozen
    learnt = upper_part(model, last).layers
    strided = [layer.name for layer in learnt if getattr(layer, "strides", None) == (2, 2)]
    assert strided == [f"block{int(last[5:-4]) + 1}_depthwise"]  # the sixth stage begins with a stride


def test_its_labels_can_be_told_apart() -> None:
    assert len(set(LABELS)) == 1000
    card = json.loads((ARTIFACT / "card.json").read_text())
    assert card["metrics"] is None  # nothing was measured here
    assert card["claimed"]["top1_accuracy"] == 0.751


@pytest.mark.thorough  # the artifact is asked above; this starts a service for it
def test_it_is_served_and_says_over_http_what_is_in_the_photos(tmp_path: Path) -> None:
    name = "efficientnet_lite0-imagenet"
    shutil.copytree(ARTIFACT, tmp_path / "models" / name / "1")
    settings = {"models": str(tmp_path / "models"), "default_model": name, "workers": "1"}
    with running(tmp_path / "log", **settings) as client:
        for file, label in SEEN.items():
            picture = encode(Image.fromarray(load_sample_image(file)), "JPEG", quality=95)
            answer = client.post("/classify", picture).json()
            assert answer["predictions"][0]["label"] == label


def test_the_small_one_is_the_same_network_on_enlarged_pictures(network: keras.Model) -> None:
    small = build(NETWORKS["efficientnet_lite0_small"], (32, 32, 3), 1000, "efficientnet_lite0_small")
    set_weights(small, pretrained("efficientnet_lite0"), head=True)
    whole = build(NETWORKS["efficientnet_lite0"], (128, 128, 3), 1000, "efficientnet_lite0")
    set_weights(whole, pretrained("efficientnet_lite0"), head=True)
    pictures = np.stack([decode_image(encode(Image.fromarray(load_sample_image(name))), (32, 32, 3)) for name in SEEN])
    pixels = pictures / np.float32(255)
    enlarged = np.asarray(tf.image.resize(pixels, (128, 128)))
    # With the norms of the first blocks in their kernels, on a convolution's other path: equal but for rounding.
    assert np.allclose(answers_of(small, pixels), answers_of(whole, enlarged), atol=1e-4)
    assert macs_of(small) < 131e6


def test_the_small_ones_first_blocks_and_depthwise_kernels_stay() -> None:
    small = build(NETWORKS["efficientnet_lite0_small"], (32, 32, 3), 10, "efficientnet_lite0_small")
    still = {layer.name for layer in small.layers if layer.weights and not layer.trainable}
    first = ("stem", "block0_", "block1_", "block2_")
    assert still == {
        layer.name
        for layer in small.layers
        if layer.weights and (layer.name.startswith(first) or isinstance(layer, keras.layers.DepthwiseConv2D))
    }
    assert not [name for name in still if name.endswith("_bn")]  # a norm that is not trained costs time


def test_a_checkpoint_of_the_small_one_holds_all_of_its_weights(tmp_path: Path) -> None:
    small = build(NETWORKS["efficientnet_lite0_small"], (8, 8, 3), 2, "efficientnet_lite0_small")
    set_weights(small, pretrained("efficientnet_lite0"), head=False)
    small.save(tmp_path / "small.keras")
    restored = keras.saving.load_model(tmp_path / "small.keras")
    assert len(restored.weights) == len(small.weights)
    assert all(np.array_equal(a, b) for a, b in zip(small.get_weights(), restored.get_weights(), strict=True))
