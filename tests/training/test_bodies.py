"""`--network best`: of several pretrained networks the one whose features tell the pictures' classes apart."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from training.data.dataset import DatasetError
from training.data.loading import load
from training.fit import main
from training.networks.network import Network, Tensor
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.recipes.table import RECIPES, recipe_for
from training.runs.bodies import BODIES, suited_body
from training.runs.linear import by_luck

pytestmark = pytest.mark.usefixtures("keep_sigterm")
pytest_plugins = ["tests.fixtures.training"]

FIRST, SECOND, THIRD = BODIES
SIDES = dict(zip(BODIES, (16, 24, 32), strict=True))


def brightness(image: Tensor, _: Network) -> Tensor:
    """What no class differs in; (N, H, W, C) -> (N, 2)."""
    x = layers.Conv2D(2, 1, kernel_initializer="ones", name="mean")(image)
    x = layers.ReLU(name="low_relu")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def edges(image: Tensor, _: Network) -> Tensor:
    """How much lies and how much stands in an image; (N, H, W, C) -> (N, 2)."""
    x = layers.Conv2D(2, 5, use_bias=False, name="edges")(image)
    x = layers.ReLU(name="low_relu")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def see_edges(model: keras.Model, weights: str) -> None:
    falls = np.array([1, 1, 0, -1, -1], np.float32)
    kernel = np.zeros((5, 5, 3, 2), np.float32)
    kernel[..., 0], kernel[..., 1] = falls[:, None, None], falls[None, :, None]
    model.get_layer("edges").set_weights([kernel])


def see_nothing(model: keras.Model, weights: str) -> None:
    pass


BLIND = replace(NETWORKS[FIRST], family=brightness, pretrained=see_nothing)
SEEING = replace(NETWORKS[FIRST], family=edges, pretrained=see_edges)


@pytest.fixture
def second_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the three networks one that sees nothing and two that see the same; each wants its own size."""
    for name, network in zip(BODIES, (BLIND, SEEING, SEEING), strict=True):
        monkeypatch.setitem(NETWORKS, name, replace(network, image_size=SIDES[name]))
    rows = tuple(replace(row, frozen="low_relu") if row.network in BODIES else row for row in RECIPES["transfer"])
    monkeypatch.setitem(RECIPES, "transfer", rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 noisy pictures of stripes that lie or stand, wider than high."""
    rng = np.random.default_rng(0)
    for i in range(60):
        stripes = np.broadcast_to((np.arange(48) // 6 % 2 * 160).astype(np.uint8)[:, None], (48, 48))
        image = (stripes.T if i % 2 else stripes)[..., None] + rng.integers(0, 90, (48, 48, 3), np.uint8)
        (tmp_path / "stripes" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "stripes" / "ab"[i % 2] / f"{'abcd'[i % 4]}{i}x.png")
    return tmp_path / "stripes"


def recipes() -> list[Recipe]:
    return [recipe_for(network, "stripes") for network in BODIES]


@pytest.mark.usefixtures("second_sees")
def test_the_least_network_that_sees_the_classes_is_taken(folder: Path, tmp_path: Path) -> None:
    data = load("stripes", folder, image_size=SIDES[FIRST])
    choice = suited_body(recipes(), data, "squash", tmp_path)
    assert choice.network == SECOND  # the third is larger, and no better
    accuracy = choice.stated["accuracy"]
    assert list(accuracy) == list(BODIES)
    assert accuracy[FIRST] < 0.8 < accuracy[SECOND] == accuracy[THIRD]
    assert choice.pictures == len(data.x_train) < 60  # the test pictures have no say
    macs = [one.macs for one in choice.compared]
    assert f"{macs[1] / macs[0]:.1f}x" in choice.summary
    assert choice.summary.endswith(f"network: {SECOND}, the most accurate")


@pytest.mark.usefixtures("second_sees")
def test_networks_that_see_the_same_leave_the_cheapest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, FIRST, NETWORKS[SECOND])
    choice = suited_body(recipes(), load("stripes", folder, image_size=24), "squash", tmp_path, side=24)
    assert choice.network == FIRST
    assert choice.summary.endswith("no larger one is better by more than luck")


@pytest.mark.usefixtures("second_sees")
def test_arrays_and_few_pictures_cannot_be_compared_on(folder: Path, tmp_path: Path) -> None:
    data = load("stripes", folder, image_size=SIDES[FIRST])
    with pytest.raises(DatasetError, match="compares picture files"):
        suited_body(recipes(), replace(data, files=()), "squash", tmp_path)
    few = replace(data, x_train=data.x_train[:30], y_train=data.y_train[:30])
    with pytest.raises(DatasetError, match=f"at least 40 training pictures .* got 30; name a NETWORK, such as {FIRST}"):
        suited_body(recipes(), few, "squash", tmp_path)


def test_luck_is_that_of_a_sign_test() -> None:
    before, after = np.zeros(20, bool), np.zeros(20, bool)
    after[:5] = True
    assert by_luck(before, after, ()) == pytest.approx(1 / 32)
    assert by_luck(after, before, ()) == 1
    assert by_luck(after, after, ()) == 1
    film = ["film"] * 5 + [""] * 15
    assert by_luck(before, after, film) == pytest.approx(1 / 2)  # five frames of one film are one case


@pytest.mark.usefixtures("second_sees", "cheaply")
def test_the_chosen_network_is_trained_at_its_own_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["--network", "best", "--data", str(folder), "--epochs", "1", *out]) == 0
    told = capsys.readouterr().out
    assert f"network: {SECOND}, the most accurate" in told
    assert f"SHORTCUT_DEFAULT_MODEL={SECOND}-stripes make serve" in told
    card = json.loads((tmp_path / f"models/{SECOND}-stripes/1/card.json").read_text())
    assert (card["network"], card["input_shape"]) == (SECOND, [24, 24, 3])
    assert card["bodies"]["chosen"] == SECOND
    assert card["metrics"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["best"], "give --data"),
        (["resnet9", "--network", "best", "--data", "x"], "named twice"),
        (["--network", "best", "--data", "x", "--quick"], "name it in place of best"),
        (["best", "--data", "x", "--recipe", "augmented"], "leave out --recipe and --weights"),
        (["best", "--data", "x", "--weights", "none"], "leave out --recipe and --weights"),
        (["--network", "nobody"], "choose from best, dense_resnet"),
    ],
)
def test_what_does_not_go_together_is_told(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "_tiny" not in told
