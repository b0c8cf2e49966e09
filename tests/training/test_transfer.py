"""The recipe `transfer` on small pictures: what stays, what is learnt, and what is published."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.fixtures.photo_network import FROZEN, SMALL, as_if_pretrained
from training.artifact.metrics import mean_recall
from training.artifact.reading import run_onnx
from training.data.dataset import Dataset
from training.fit import main
from training.networks.network import build
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.recipes.table import recipe_for
from training.runs.epochs import batches_of, train_epoch
from training.runs.fitting import fit
from training.runs.transfer import VIEWS, fit_head, frozen_outputs, joined, upper_part

pytestmark = pytest.mark.usefixtures("keep_sigterm", "cheaply")
pytest_plugins = ["tests.fixtures.training"]

RECIPE: Recipe = replace(recipe_for("efficientnet_lite0", "drawn"), batch_size=8, frozen=FROZEN)


def striped(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures of 32x32 in two classes: stripes that lie and stripes that stand."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    stripes = np.broadcast_to((np.arange(32) // 4 % 2 * 120)[:, None], (32, 32))
    images = np.stack([stripes.T if label else stripes for label in labels])[..., None]
    return (images + rng.integers(0, 130, (count, 32, 32, 3))).astype(np.uint8), labels


def whole_model(channels: int = 3, classes: int = 2) -> keras.Model:
    model = build(SMALL, (32, 32, channels), classes, "small")
    as_if_pretrained(model, "imagenet")
    return model


def test_the_photo_network_is_divided_where_its_recipe_says() -> None:
    whole = build(NETWORKS["efficientnet_lite0"], (32, 32, 3), 2, "efficientnet_lite0")
    upper = upper_part(whole, recipe_for("efficientnet_lite0", "drawn").frozen)
    learnt = {layer.name for layer in upper.layers if layer.weights and layer.trainable}
    assert {"block11_expand", "top", "probabilities"} <= learnt
    assert not [name for name in learnt if name.endswith("_bn")]
    assert not [layer.name for layer in upper.layers if layer.name.startswith(("stem", "block9", "block10_expand"))]


def test_the_parts_give_what_the_whole_gives(tmp_path: Path) -> None:
    whole, part = whole_model(), striped(6)
    upper = upper_part(whole, RECIPE.frozen)
    train, validation = frozen_outputs(whole, RECIPE, part, part, tmp_path)
    assert len(train[0]) == VIEWS[1] * len(part[0])
    np.testing.assert_array_equal(train[0][:6], validation[0])  # the first round is of the images themselves
    assert not np.array_equal(train[0][6:12], validation[0])
    expected = whole(part[0] / np.float32(255))
    np.testing.assert_allclose(upper.predict(batches_of(*validation, 2), verbose=0), expected, atol=0.01)


def test_outputs_are_computed_once(tmp_path: Path) -> None:
    whole, part = whole_model(), striped(4)
    first = np.array(frozen_outputs(whole, RECIPE, part, part, tmp_path)[0][0])
    whole.get_layer("low").set_weights([np.zeros((5, 5, 3, 16))])
    np.testing.assert_array_equal(frozen_outputs(whole, RECIPE, part, part, tmp_path)[0][0], first)


def test_batch_norms_and_frozen_layers_stay_and_the_others_learn(tmp_path: Path) -> None:
    whole = whole_model()
    before = {layer.name: layer.get_weights() for layer in whole.layers}
    upper = upper_part(whole, RECIPE.frozen)
    train, validation = frozen_outputs(whole, RECIPE, striped(16), striped(8, 1), tmp_path)
    RECIPE.compile(upper)
    train_epoch(upper, RECIPE, train, validation, 0)
    joined(whole, upper)
    learnt = {layer.name for layer in upper.layers if layer.weights and not layer.name.endswith("_bn")}
    assert learnt == {"high", "probabilities"}
    for layer in whole.layers:
        same = all(np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
        assert same == (layer.name not in learnt)


@pytest.mark.parametrize(("channels", "classes"), [(3, 2), (1, 2), (3, 4)])
def test_a_head_alone_tells_stripes_apart(tmp_path: Path, channels: int, classes: int) -> None:
    """A class without an image is never the answer."""
    whole = whole_model(channels, classes)
    upper = upper_part(whole, RECIPE.frozen)
    (images, labels), (others, targets) = striped(24), striped(12, 1)
    train, validation = (images[..., :channels], labels), (others[..., :channels], targets)
    train, validation = frozen_outputs(whole, RECIPE, train, validation, tmp_path)
    figures = fit_head(upper, train, validation, balanced=True)
    answers = upper.predict(batches_of(*validation, classes), verbose=0).argmax(axis=1)
    assert figures["val_categorical_accuracy"] == (answers == targets).mean() > 0.8
    assert figures["val_mean_recall"] == mean_recall(answers, targets)
    assert 0.8 < figures["categorical_accuracy"] <= 1


@pytest.mark.usefixtures("photo_network")
def test_a_folder_without_a_network_becomes_a_calibrated_photo_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = striped(60)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "stripes" / "ab"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "stripes" / "ab"[label] / f"{i}.png")
    out = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["--data", str(tmp_path / "stripes"), "--image-size", "32", "--epochs", "2", *out]) == 0
    told = capsys.readouterr().out
    assert "head on fixed features: validation" in told
    assert "by 5 folds on fixed features: accuracy" in told
    assert "features kept for --quick" in told
    artifact = tmp_path / "models/efficientnet_lite0-stripes/1"
    card = json.loads((artifact / "card.json").read_text())
    assert (card["network"], card["recipe"]["name"]) == ("efficientnet_lite0", "transfer")
    assert card["metrics"]["accuracy"] > 0.8
    assert card["metrics"]["calibration_error"] == card["calibration"]["after"]
    assert card["folds"]["pictures"] == 60
    assert card["threshold"]["folds"]["coverage"] > 0.5  # seven validation images are too few, sixty by folds are not
    assert any("comes from 7 validation images" in text for text in card["warnings"])
    assert (run_onnx(artifact, images).argmax(axis=1) == labels).mean() > 0.8
    kept = {path.name for path in (tmp_path / "runs/efficientnet_lite0-stripes/1").iterdir()}
    assert not any(name.endswith(".float16") for name in kept)
    assert {"model.keras", "last.keras", "run.json"} <= kept
    run = tmp_path / "runs/efficientnet_lite0-stripes/1"
    doubted = json.loads((run / "run.json").read_text())["doubted"]
    listed = (run / "doubted.csv").read_text().splitlines()[1:] if doubted else []
    assert [line.partition(",")[0] for line in listed] == [found["file"] for found in doubted]
    assert (f"labels in doubt: {run / 'doubted.csv'}\n" in told) == bool(doubted)


@pytest.mark.usefixtures("photo_network")
@pytest.mark.parametrize("photo_network", ["small"], indirect=True)
def test_a_head_that_no_epoch_beats_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rate ruins the network: without the head as a candidate its answers are chance."""
    (images, labels), (others, targets) = striped(24), striped(12, 1)
    data = Dataset("stripes", "drawn", ("a", "b"), "plain", images, labels, others, targets)
    recipe = replace(recipe_for("efficientnet_lite0", "stripes"), epochs=1, batch_size=8, learning_rate=50.0)
    artifact = fit(recipe, data, output=tmp_path / "models", runs=tmp_path / "runs")
    assert "published is the head on fixed features: no epoch is better" in capsys.readouterr().out
    card, run = json.loads((artifact / "card.json").read_text()), tmp_path / "runs/efficientnet_lite0-stripes/1"
    record = json.loads((run / "run.json").read_text())
    assert (card["training"]["published"], record["best_epoch"]) == ("head", 0)
    assert card["metrics"]["accuracy"] > 0.8 > record["history"]["val_mean_recall"][-1]
    assert (run_onnx(artifact, others).argmax(axis=1) == targets).mean() == card["metrics"]["accuracy"]
    assert "the head on fixed features: no epoch is better" in (run / "report.html").read_text()
