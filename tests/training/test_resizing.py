"""Pictures that are not square: what suits them is found, said, and the same in the service."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from serving.images.picture import decode_image
from tests.fixtures.training import cheap_steps
from training.data.loading import load
from training.data.pictures import RESIZES
from training.fit import main
from training.recipes.table import recipe_for
from training.runs.features import features_of, pretrained_body
from training.runs.quick import last_resize
from training.runs.resizing import suited_resize

pytestmark = pytest.mark.usefixtures("keep_sigterm")
pytest_plugins = ["tests.fixtures.training"]
RECIPE = recipe_for("efficientnet_lite0", "shapes")


def shapes(folder: Path, count: int) -> Path:
    """Wide pictures of a disc, and square ones of the ellipse that squashing makes of such a disc."""
    rng = np.random.default_rng(0)
    for i in range(count):
        label, size = (("round", (192, 96)), ("long", (128, 128)))[i % 2]
        image = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 80, 3)))
        radius, x, y = rng.uniform(0.12, 0.2), *rng.uniform(0.4, 0.6, 2)  # as shares of the width and the height
        box = (x - radius, y - 2 * radius, x + radius, y + 2 * radius)
        fill = tuple(int(v) for v in rng.integers(140, 256, 3))
        ImageDraw.Draw(image).ellipse([part * side for part, side in zip(box, size * 2, strict=True)], fill=fill)
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{'abcd'[i % 4]}{i}x.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes(tmp_path_factory.mktemp("resize") / "shapes", 60)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it keeps the pretrained network."""
    return tmp_path_factory.mktemp("runs")


def test_squashing_that_hides_the_classes_is_not_taken(folder: Path, runs: Path) -> None:
    data = load("shapes", folder, image_size=64)
    found = suited_resize(RECIPE, data, runs)
    accuracy = found.stated["accuracy"]
    assert set(accuracy) == set(RESIZES)
    assert found.name != "squash"
    assert accuracy[found.name] == max(accuracy.values()) > accuracy["squash"]
    assert f"resize: {found.name} (right by folds on 60 pictures: squash" in found.summary


def test_square_pictures_arrays_and_few_are_asked_nothing(folder: Path, tmp_path: Path) -> None:
    data = load("shapes", folder, image_size=64)
    few = replace(data, files=data.files[:20], y_train=data.y_train[:20], y_test=data.y_test[:0])
    for other in (replace(data, files=()), few):
        assert suited_resize(RECIPE, other, tmp_path) == ("squash", {})
    assert suited_resize(replace(RECIPE, weights=""), data, tmp_path) == ("squash", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("resize", "convention"), RESIZES.items())
def test_what_is_trained_on_is_what_the_service_makes_of_a_picture(folder: Path, resize: str, convention: str) -> None:
    data = load("shapes", folder, image_size=32, resize=resize)
    assert data.input_convention == convention
    expected = decode_image(data.files[0].read_bytes(), (32, 32, 3), convention)
    np.testing.assert_array_equal(data.x_train[0], expected)


def card_of(folder: Path, place: Path, *options: str) -> dict[str, Any]:
    out = ["--output", str(place / "models"), "--runs", str(place / "runs"), "--image-size", "16"]
    with cheap_steps():
        assert main(["_tiny", "--data", str(folder), "--no-flip", "--epochs", "1", *out, *options]) == 0
    return json.loads((place / "models/tiny-shapes/1/card.json").read_text())


def test_the_card_says_how_and_quick_keeps_to_it(folder: Path, tmp_path: Path) -> None:
    assert card_of(folder, tmp_path, "--resize", "crop")["input_convention"] == "centre_crop"
    assert last_resize(tmp_path / "models/tiny-shapes") == "crop"
    assert last_resize(tmp_path / "models/none") is None


def test_pretrained_features_are_kept(runs: Path) -> None:
    body = pretrained_body(RECIPE, (64, 64, 3), runs)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    told: list[tuple[int, int]] = []
    first = features_of(body, images, lambda *counts: told.append(counts))
    again = pretrained_body(RECIPE, (64, 64, 3), runs)
    np.testing.assert_array_equal(features_of(again, images[::-1], lambda *counts: told.append(counts)), first[::-1])
    assert told == [(0, 3), (3, 0)]
    assert first.shape == (3, 1280)
