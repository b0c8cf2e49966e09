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
    assert by_name(files) == ([None] * 60, [])


def test_the_splits_folders_make_no_films_of_a_camera(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for label in "ab":
            pictures(tmp_path / "mine" / split / label, {f"IMG_{i}.png": grey(i) for i in range(6)})
    data = load(data=tmp_path / "mine")
    assert data.groups == ()
    assert not any("film" in note for note in data.notes)


def test_imagenets_names_are_no_films() -> None:
    rng = np.random.default_rng(0)
    files = [
        (Path(folder) / f"{wnid}_{number}.JPEG", k)
        for folder, wnid, k in (("dogs", "n02099601", 0), ("dogs", "n02099712", 0), ("n01440764", "n01440764", 1))
        for number in rng.choice(15000, 50, replace=False)
    ]
    assert by_name(files) == ([None] * 150, [])


@pytest.mark.parametrize("beside", ["cover.png", "cover1.png", None])
def test_two_films_are_split_in_two(tmp_path: Path, beside: str | None) -> None:
    films(tmp_path / "films", "film{film}_{frame:04}.png", frames=30, count=2)
    if beside:
        pictures(tmp_path / "films/a", {beside: grey(250)})
    for seed in range(4):
        data = load(data=tmp_path / "films", seed=seed)
        assert not {*data.x_train[:, 0, 0, 0].tolist()} & {*data.x_test[:, 0, 0, 0].tolist()}
        assert min(len(data.x_train), len(data.x_test)) >= 60
        assert data.validation == 0
        assert any("too few groups are left to hold some out for validation" in note for note in data.notes)


@pytest.mark.parametrize(("pattern", "frames"), [("film0_{}.png", 30), ("clip 7 {:03}.png", 12)])
def test_one_film_a_class_is_warned_of(tmp_path: Path, pattern: str, frames: int) -> None:
    for k, label in enumerate("ab"):
        pictures(tmp_path / "films" / label, {pattern.format(i): grey(100 * k + i) for i in range(frames)})
    data = load(data=tmp_path / "films")
    assert data.groups == ()
    (note,) = [note for note in data.notes if note.startswith("warning: these names look like films")]
    assert pattern.partition("{")[0].rstrip("_ ") in note
    assert "CSV `group`" in note
    assert not any("look like films" in note for note in load(data=tmp_path / "films", grouped=False).notes)


def test_films_of_one_class_stay_together_though_another_has_one_only(tmp_path: Path) -> None:
    films(tmp_path / "films", "film{film}_{frame:04}.png", frames=6, count=5)
    pictures(tmp_path / "films/c", {f"film0_{i:04}.png": grey(200 + i) for i in range(20)})
    data = load(data=tmp_path / "films")
    alone = [group for group, file in zip(data.groups, data.files, strict=True) if file.parent.name == "c"]
    assert set(alone) == {""}
    assert len(set(data.groups)) == 11
    assert any("look like films" in note and "film0" in note for note in data.notes)


def test_films_by_name_beside_films_by_folder(tmp_path: Path) -> None:
    for film in range(3):
        pictures(tmp_path / f"films/a/f{film}", {f"{i}.png": grey(20 * film) for i in range(5)})
        pictures(tmp_path / "films/b", {f"film{film}_{i}.png": grey(100 + 20 * film) for i in range(5)})
    data = load(data=tmp_path / "films")
    assert len(set(data.groups)) == 6


def test_films_in_a_csv_are_found_by_name(tmp_path: Path) -> None:
    films(tmp_path / "films", "film{film}_{frame:04}.png")
    rows = [f"{file.relative_to(tmp_path)},{file.parent.name}" for file in sorted(tmp_path.rglob("*.png"))]
    (tmp_path / "mine.csv").write_text("\n".join(["file,label", *rows]))
    data = load(data=tmp_path / "mine.csv")
    assert (len(set(data.groups)), data.test_groups) == (10, 2)
    assert load(data=tmp_path / "mine.csv", grouped=False).groups == ()


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


def panned(rng: np.random.Generator, side: int, frames: int) -> list[Image.Image]:
    """A noisy camera moves over a drawn scene by a pixel from frame to frame."""
    scene = Image.new("RGB", (side + frames, side), "grey")
    draw = ImageDraw.Draw(scene)
    for _ in range(12):
        x, y, r = rng.uniform(0, side + frames), rng.uniform(0, side), rng.uniform(2, side / 5)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    pixels = np.asarray(scene).astype(int)
    found = (pixels[:, i : i + side] + rng.integers(-6, 7, (side, side, 3)) for i in range(frames))
    return [Image.fromarray(frame.clip(0, 255).astype(np.uint8)) for frame in found]


@pytest.mark.parametrize("side", [32, 64])
def test_frames_of_a_moving_camera_are_twins_and_other_scenes_are_not(tmp_path: Path, side: int) -> None:
    rng = np.random.default_rng(5)
    for label in "abc":
        for film in range(2):
            folder = tmp_path / "films" / label
            folder.mkdir(parents=True, exist_ok=True)
            for i, frame in enumerate(panned(rng, side, 30)):
                frame.save(folder / f"film{film}_{i:04}.png")
    assert load(data=tmp_path / "films").twins == 0  # whole films are on one side
    apart = load(data=tmp_path / "films", grouped=False)
    assert apart.twins > 0.6 * len(apart.x_test)


def test_twins_in_arrays_are_named_by_their_places_in_the_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    targets = np.arange(40) % 2
    images[35] = images[7]
    np.savez(tmp_path / "m.npz", x_train=images[:30], y_train=targets[:30], x_test=images[30:], y_test=targets[30:])
    data = load(data=tmp_path / "m.npz")
    assert data.twins == 1
    assert "x_test[5] = x_train[7]" in data.notes
