"""Pictures that belong together, names of classes that look alike, and sheets that look alike but are not."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.fixtures.pictures import grey, pictures
from training.data.dataset import Dataset
from training.data.groups import by_name, split_groups
from training.data.loading import load
from training.data.twins import with_twins


def films(folder: Path, pattern: str, frames: int = 6, count: int = 5) -> None:
    """`count` films of `frames` frames for each class; a film's frames are of one grey."""
    for k, label in enumerate("ab"):
        for film in range(count):
            names = {pattern.format(film=film, frame=frame): grey(20 * film + 100 * k) for frame in range(frames)}
            pictures(folder / label, names)


def values(data: Dataset) -> tuple[set[int], set[int], set[int]]:
    train, valid = np.split(data.x_train[:, 0, 0, 0], [len(data.x_train) - data.validation])
    return set(train.tolist()), set(valid.tolist()), set(data.x_test[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("pattern", ["film{film}/{frame}.png", "film{film}_{frame:04}.png"])
def test_a_film_is_in_one_split(tmp_path: Path, pattern: str) -> None:
    films(tmp_path / "films", pattern)
    data = load(data=tmp_path / "films")
    train, valid, test = values(data)
    assert not train & valid and not train & test and not valid & test  # noqa: PT018
    assert data.test_groups == len(test) == 2
    assert any("stay together in one split" in note and "10 groups" in note for note in data.notes)
    apart = load(data=tmp_path / "films", grouped=False)
    assert len(apart.x_test) == 12
    assert apart.test_groups == apart.validation == 0


def test_a_split_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    """--quick keeps the last version's test pictures: groups and twins are those of its own split."""
    films(tmp_path / "films", "film{film}/{frame}.png")
    data = load(data=tmp_path / "films")
    assert (data.twins, data.test_groups) == (0, 2)
    order = np.argsort([file.stem for file in data.files], kind="stable")  # frames of all films on both sides
    images, targets = np.concatenate([data.x_train, data.x_test])[order], np.concatenate([data.y_train, data.y_test])
    split = {"x_train": images[:50], "x_test": images[50:], "y_train": targets[order][:50]}
    names = {"files": tuple(data.files[i] for i in order), "groups": tuple(data.groups[i] for i in order)}
    mixed = with_twins(replace(data, **split, y_test=targets[order][50:], **names))
    assert (mixed.twins, mixed.test_groups) == (10, 10)
    assert mixed.notes[: len(data.notes)] == data.notes
    assert with_twins(mixed).notes == mixed.notes


@pytest.mark.parametrize("pattern", ["cat.{}.jpg", "IMG_{}.jpg", "{}.jpg", "a1b{}"])
def test_a_camera_or_a_class_is_no_film(pattern: str) -> None:
    files = [(Path("x") / "ab"[i % 2] / pattern.format(i), i % 2) for i in range(60)]
    assert by_name(files) == [None] * 60


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_on_both_sides(seed: int) -> None:
    targets = np.repeat([0, 1, 2], [30, 40, 4])
    groups = [f"g{i // 10}" for i in range(70)] + [None] * 4
    train, test = split_groups(targets, groups, seed)
    assert sorted([*train, *test]) == list(range(74))
    assert set(targets[train]) == set(targets[test]) == {0, 1, 2}
    assert not {groups[i] for i in train if groups[i]} & {groups[i] for i in test if groups[i]}


def test_one_name_in_two_forms_of_unicode_is_one_class(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        pictures(
            tmp_path / "mine" / unicodedata.normalize(form, "café"), {f"{form}{i}x.png": grey(i) for i in range(5)}
        )
    pictures(tmp_path / "mine" / "tea", {f"{i}.png": grey(200 + i) for i in range(10)})
    data = load(data=tmp_path / "mine", labels=(unicodedata.normalize("NFD", "café"), "tea"))
    assert data.labels == ("café", "tea")
    assert len(data.x_train) + len(data.x_test) == 20


def test_classes_that_differ_in_capitals_or_spaces_are_told(tmp_path: Path) -> None:
    for label in ("Cat", "cat", "big dog", "bigdog", "cow"):
        pictures(tmp_path / "mine" / label, {f"{i}.png": grey(i) for i in range(5)})
    (note,) = [note for note in load(data=tmp_path / "mine").notes if "capitals or spaces" in note]
    assert "'Cat' and 'cat'" in note
    assert "'big dog' and 'bigdog'" in note
    assert "cow" not in note


@pytest.mark.parametrize("labels", [("train", "car"), ("train", "test", "dev"), ("test", "plane")])
def test_a_class_may_be_called_as_a_split(tmp_path: Path, labels: tuple[str, ...]) -> None:
    for label in labels:
        pictures(tmp_path / "mine" / label, {f"{i}.png": grey(i) for i in range(10)})
    data = load(data=tmp_path / "mine")
    assert data.labels == tuple(sorted(labels))
    assert data.set_aside


def test_dev_is_a_split_where_it_holds_classes(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        for label in "ab":
            pictures(tmp_path / "mine" / split / label, {f"{i}.png": grey(i) for i in range(10)})
    data = load(data=tmp_path / "mine")
    assert (len(data.x_train), len(data.x_test), data.set_aside) == (20, 20, False)


def drawing(rng: np.random.Generator, kind: str, side: int = 96) -> Image.Image:
    image = Image.new("RGB", (side, side), "white" if kind == "lines" else "black")
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x0, y0, x1, y1 = rng.uniform(8, side - 8, 4)
        if kind == "lines":
            draw.line((x0, y0, x1, y1), fill="black")
        else:
            draw.ellipse((x0 - 2, y0 - 2, x0 + 2, y0 + 2), fill="white")
    return image


@pytest.mark.parametrize("kind", ["lines", "dots"])
def test_drawings_of_few_lines_are_no_twins_and_their_copies_are(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(4)
    drawn = {f"{label}{i}x": drawing(rng, kind) for label in "ab" for i in range(20)}
    for name, image in drawn.items():
        for split in ("train",) if int(name[1:-1]) < 14 else ("test",):
            (tmp_path / "mine" / split / name[0]).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "mine" / split / name[0] / f"{name}.png")
    assert not any("near-identical" in note for note in load(data=tmp_path / "mine").notes)
    drawn["a3x"].save(tmp_path / "mine" / "test" / "a" / "copy.jpg", quality=85)
    data = load(data=tmp_path / "mine")
    assert data.twins == 1
    assert "1 test pictures are near-identical with training pictures:" in data.notes
