"""Which augmentations the user's classes bear: arrows are not mirrored, faces are."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.stats import binomtest

from tests.fixtures.training import cheap_steps
from training.fit import main
from training.recipes.table import recipe_for
from training.runs import suitability
from training.runs.suitability import CHANCE, FEWEST, suited, summary_of, without

pytestmark = pytest.mark.usefixtures("keep_sigterm")
pytest_plugins = ["tests.fixtures.training"]

RECIPE = recipe_for("efficientnet_lite0", "own")
FLIPPED = replace(RECIPE, augmentation=("flip",))  # which asks one question
Drawing = Callable[[np.random.Generator, int], np.ndarray]


def canvas(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, ...], int]:
    """A light ground, a pen for it, a dark colour, and a width."""
    image = Image.new("RGB", (64, 64), tuple(int(v) for v in rng.integers(150, 255, 3)))
    return image, ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(0, 110, 3)), int(rng.integers(3, 6))


def arrow(rng: np.random.Generator, right: int) -> np.ndarray:
    image, draw, colour, width = canvas(rng)
    y, left_end, right_end, barb = (int(rng.integers(*reach)) for reach in ((20, 44), (4, 14), (48, 60), (9, 15)))
    draw.line((left_end, y, right_end, y), fill=colour, width=width)
    tip, back = (right_end, -barb) if right else (left_end, barb)
    for side in (-barb, barb):
        draw.line((tip, y, tip + back, y + side), fill=colour, width=width)
    return np.asarray(image)


def letter(rng: np.random.Generator, d: int) -> np.ndarray:
    """A b, or a d."""
    image, draw, colour, width = canvas(rng)
    x, y = (int(v) for v in rng.integers(12, 28, 2))
    stem = x + 24 if d else x
    draw.line((stem, y - 8, stem, y + 28), fill=colour, width=width)
    draw.ellipse((x, y + 6, x + 24, y + 28), outline=colour, width=width)
    return np.asarray(image)


def face(rng: np.random.Generator, glad: int) -> np.ndarray:
    image, draw, colour, width = canvas(rng)
    x, y = (int(v) for v in rng.integers(-4, 5, 2))
    draw.ellipse((8 + x, 8 + y, 56 + x, 56 + y), outline=colour, width=width)
    for eye in (22, 38):
        draw.ellipse((eye + x, 20 + y, eye + 5 + x, 26 + y), fill=colour)
    draw.arc((20 + x, 28 + y, 44 + x, 48 + y), *((20, 160) if glad else (200, 340)), fill=colour, width=width)
    return np.asarray(image)


def light(rng: np.random.Generator, lighter: int) -> np.ndarray:
    """Grounds of two shades that lie closer together than the recipe's colours are changed by."""
    shade = 140 if lighter else 128
    return np.clip(rng.normal(shade, 3, (64, 64, 3)), 0, 255).astype(np.uint8)


def drawn(drawing: Drawing, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    return np.stack([drawing(rng, int(label)) for label in labels]), labels


@pytest.mark.parametrize("drawing", [arrow, pytest.param(letter, marks=pytest.mark.thorough)])
def test_classes_that_depend_on_left_and_right_are_not_mirrored(drawing: Drawing) -> None:
    recipe, found = suited(FLIPPED, drawn(drawing, 80))
    assert recipe.augmentation == ()
    assert found["flip"]["with_copies"] < found["flip"]["plain"]
    assert not found["flip"]["used"]
    assert "your classes depend on left and right (as --no-flip does)" in summary_of(found)


def test_symmetric_classes_keep_every_augmentation() -> None:
    recipe, found = suited(RECIPE, drawn(face, 80))
    assert recipe == RECIPE
    assert all(result["used"] for result in found.values())
    assert summary_of(found) == "augmentation: flip, crop, colour mix up none of your classes"


def test_shades_of_colour_that_are_the_classes_are_not_changed() -> None:
    recipe, found = suited(replace(RECIPE, augmentation=("flip", "colour")), drawn(light, 80))
    assert recipe.augmentation == ("flip",)
    assert "changed colours are left out" in summary_of(found)


def test_a_film_is_in_one_fold() -> None:
    """Who has learnt a film's frames knows the others however they are mirrored: no harm would be seen."""
    images, labels = drawn(arrow, 22)
    films = [f"film{i}" for i in range(22) for _ in range(3)]
    frames = np.stack([np.roll(image, i, axis=0) for image in images for i in range(3)]), np.repeat(labels, 3)
    assert suited(FLIPPED, frames)[1]["flip"]["used"]
    recipe, found = suited(FLIPPED, frames, films)
    assert not found["flip"]["used"]
    assert recipe.augmentation == ()
    assert found["flip"]["groups"] == 22


@pytest.mark.parametrize("count", [4, FEWEST - 1])
def test_few_pictures_decide_nothing(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(suitability, "_features", lambda channels: pytest.fail("a network was built"))
    recipe, found = suited(RECIPE, drawn(arrow, count))
    assert recipe == RECIPE
    assert found == {name: {"used": True, "images": count} for name in ("flip", "crop", "colour")}
    assert (
        summary_of(found) == f"note: {count} pictures are too few to tell whether your classes bear flip, crop, colour"
    )


def test_few_films_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suitability, "_features", lambda channels: pytest.fail("a network was built"))
    count = FEWEST - 1
    recipe, found = suited(FLIPPED, drawn(arrow, 2 * count), [f"film{i // 2}" for i in range(2 * count)])
    assert recipe == FLIPPED
    assert found == {"flip": {"used": True, "images": 2 * count, "groups": count}}


def test_few_pictures_decide_what_is_clear_and_are_too_few_else() -> None:
    assert suited(FLIPPED, drawn(arrow, 14))[0].augmentation == ()
    recipe, found = suited(FLIPPED, drawn(face, 14))
    assert recipe == FLIPPED
    assert set(found["flip"]) == {"used", "plain", "with_copies", "images"}
    assert "14 pictures are too few to tell whether your classes bear flip" in summary_of(found)


def test_fewer_could_decide_nothing() -> None:
    """Even where all answers are lost."""
    assert binomtest(FEWEST, FEWEST, alternative="greater").pvalue < CHANCE
    assert binomtest(FEWEST - 1, FEWEST - 1, alternative="greater").pvalue >= CHANCE


def test_one_picture_of_a_class_asks_nothing() -> None:
    images, labels = drawn(arrow, 3)
    assert suited(RECIPE, (images[:2], labels[:2])) == (RECIPE, {})
    assert suited(without(without(without(RECIPE, "flip"), "crop"), "colour"), (images, labels))[1] == {}


def command(folder: Path, count: int, *options: str, network: tuple[str, ...] = ()) -> dict[str, Any]:
    """The card that `training.fit` publishes from COUNT arrows in two folders."""
    images, labels = drawn(arrow, count)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / "arrows" / ("left", "right")[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "arrows" / ("left", "right")[label] / f"{i}.png")
    out = ["--output", str(folder / "models"), "--runs", str(folder / "runs"), "--image-size", "64"]
    with cheap_steps() if network else nullcontext():
        assert main([*network, "--data", str(folder / "arrows"), *out, *options]) == 0
    return json.loads(next((folder / "models").glob("*/1/card.json")).read_text())


def test_the_command_says_what_it_leaves_out_and_the_card_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = command(tmp_path, 60, "--epochs", "1", network=("_tiny",))
    assert "mirrored copies are left out" in capsys.readouterr().out
    assert card["recipe"]["augmentation"] == ["shift"]
    assert card["augmentation"]["flip"]["used"] is False


def test_the_user_can_leave_mirrored_copies_out(tmp_path: Path) -> None:
    card = command(tmp_path, 20, "--epochs", "1", "--no-flip", network=("_tiny",))
    assert card["recipe"]["augmentation"] == ["shift"]
    assert "augmentation" not in card


@pytest.mark.thorough
def test_the_default_command_tells_left_from_right(tmp_path: Path) -> None:
    assert command(tmp_path, 200)["metrics"]["accuracy"] >= 0.95
