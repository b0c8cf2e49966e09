"""Folders of pictures as people have them: odd names, nested, damaged, too large, doubled, out of order."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.pictures import colours, grey, pictures
from training.data import files as module
from training.data.dataset import DatasetError, let_go
from training.data.loading import load, with_note_of_few
from training.data.splits import split, spread
from training.data.table import Columns
from training.recipes.table import recipe_for
from training.runs.parts import splits


def classes(labels: Iterable[str] = "ab", count: int = 10, prefix: str = "") -> dict[str, Image.Image]:
    """Grey pictures of which 20 i + k is the level, in class k."""
    return {f"{prefix}{label}/{i}.png": grey(20 * i + k) for k, label in enumerate(labels) for i in range(count)}


# Splits


def test_a_fifth_of_each_class_is_set_aside_and_at_least_one() -> None:
    targets = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    train, test = split(targets, seed=0)
    assert sorted([*train, *test]) == list(range(63))
    assert list(np.bincount(targets[test], minlength=4)) == [10, 2, 1, 0]
    assert list(train) != sorted(train)


def test_every_stretch_of_the_training_order_holds_the_classes_in_proportion() -> None:
    targets = np.repeat([0, 1], [900, 100])
    order = spread(targets, np.random.default_rng(0))
    for start in range(0, 1000, 100):
        assert 9 <= np.count_nonzero(targets[order[start : start + 100]]) <= 11


# Names of folders


@pytest.mark.parametrize("valid", ["valid", "val", "Validation"])
def test_a_validation_folder_chooses_the_epoch(tmp_path: Path, valid: str) -> None:
    names = classes(prefix="train/") | classes(count=3, prefix=f"{valid}/") | classes(count=2, prefix="Test/")
    data = load(data=pictures(tmp_path / "pets", names))
    assert (len(data.x_train), data.validation, len(data.x_test)) == (26, 6, 4)
    (train, _), (held_out, targets) = splits(recipe_for("dense_resnet", "pets"), data)
    assert sorted(train[:, 0, 0, 0]) == sorted(20 * i + k for i in range(10) for k in range(2))
    assert sorted(held_out[:, 0, 0, 0]) == sorted(20 * i + k for i in range(3) for k in range(2))
    np.testing.assert_array_equal(held_out[:, 0, 0, 0] % 20, targets)
    assert data.fingerprint() != replace(data, validation=0).fingerprint()


def test_without_a_test_folder_the_validation_folder_is_the_test_split(tmp_path: Path) -> None:
    data = load(data=pictures(tmp_path, classes(prefix="train/") | classes(count=2, prefix="val/")))
    assert (len(data.x_train), data.validation, len(data.x_test)) == (20, 0, 4)
    assert "there is no test/: val/ is the test split" in data.notes


def test_nested_folders_and_an_archive_unpacked_into_its_own_name_are_read(tmp_path: Path) -> None:
    names = {f"pets/cat/{place}/{i}.png": grey(i) for place in ("home", "zoo/old") for i in range(5)}
    names |= {f"pets/dog/{i}.png": grey(100 + i) for i in range(5)}
    data = load(data=pictures(tmp_path / "pets", names))
    assert data.labels == ("cat", "dog")
    assert len(data.x_train) + len(data.x_test) == 15


def test_folders_of_the_same_names_in_all_classes_are_asked_about(tmp_path: Path) -> None:
    names = [f"{year}/{kind}/{i}.png" for year in (2023, 2024) for kind in ("cat", "dog") for i in range(3)]
    data = load(data=pictures(tmp_path / "years", {name: grey(20 * i) for i, name in enumerate(names)}))
    assert data.labels == ("2023", "2024")
    assert any("the classes 2023, 2024 all hold the folders cat, dog. If those are" in note for note in data.notes)
    (tmp_path / "years/2023/dog").rename(tmp_path / "years/2023/wolf")
    assert not any("If those are" in note for note in load(data=tmp_path / "years").notes)


def test_what_tools_leave_is_skipped_and_empty_folders_are_no_classes(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes())
    for name in ("__MACOSX/x.png", "a/@eaDir/y.jpg", ".ipynb_checkpoints/z.png", "a/._1.png", "b/desktop.ini"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    (folder / "empty" / "deeper").mkdir(parents=True)
    (folder / "b" / "notes.txt").write_text("left out")
    data = load(data=folder)
    assert data.labels == ("a", "b")
    assert len(data.x_train) + len(data.x_test) == 20
    assert f"{folder}: empty folders are no classes: empty" in data.notes
    assert f"{folder}: no pictures by their names: b/notes.txt" in data.notes


def test_links_are_read_once_and_never_in_a_circle(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets", classes())
    pictures(tmp_path / "more", {f"{i}.png": grey(200 + i) for i in range(5)})
    (folder / "a" / "more").symlink_to(tmp_path / "more")
    (folder / "a" / "again").symlink_to(folder / "a" / "more")
    (folder / "a" / "self").symlink_to(folder / "a")
    (folder / "whole").symlink_to(folder)
    data = load(data=folder)
    assert data.labels == ("a", "b")
    assert len(data.x_train) + len(data.x_test) == 25
    assert f"{folder}: empty folders are no classes: whole" in data.notes


def test_what_lies_beside_the_classes_and_what_pillow_only_writes_is_left_out_and_told(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes() | {"stray.png": grey(7)})
    for name in ("a/scan.pdf", "a/film.mpg", "b/drawing.svg"):
        (folder / name).write_bytes(b"no picture")
    notes = load(data=folder, strict=True).notes
    assert f"{folder}: left out, since they are in no class' folder: stray.png" in notes
    assert f"{folder}: no pictures by their names: a/film.mpg, a/scan.pdf, b/drawing.svg" in notes


def test_names_in_any_alphabet_are_labels_and_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes(("schöne Katzen, alt", "σκύλος & Co")))
    broken = os.fsencode(folder / "σκύλος & Co") + b"/caf\xe9.png"
    Path(os.fsdecode(broken)).write_bytes(b"no picture")
    data = load(data=folder)
    assert data.labels == ("schöne Katzen, alt", "σκύλος & Co")
    assert "caf\\udce9.png: not a readable image" in "\n".join(data.notes).encode().decode()
    (folder / "schöne Katzen, alt").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    with pytest.raises(DatasetError, match=r"not UTF-8, rename them: 'caf\\udce9'"):
        load(data=folder)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (classes("a"), "needs at least two folders, one per class, found 1"),
        (classes(count=1), "needs images for training and for testing, two of a class at least, found 2 and 0"),
        (classes(prefix="train/"), "or give train/ itself"),
        (classes(prefix="train/") | classes("bc", prefix="test/"), "classes that train/ lacks: c"),
        ({"0.png": grey(0), "1.png": grey(1)}, "needs at least two folders, one per class, found 0"),
        ({}, "needs at least two folders, one per class, found 0"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_told_why(
    tmp_path: Path, names: dict[str, Image.Image], told: str
) -> None:
    with pytest.raises(DatasetError, match=told):
        load(data=pictures(tmp_path, names))


def test_a_folder_of_other_files_is_told_with_their_names(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "drawing.svg").write_bytes(b"<svg/>")
    with pytest.raises(DatasetError, match=r"found 0 and 0\n .*: no pictures by their names: a/drawing.svg, b/drawing"):
        load(data=tmp_path)


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz"])
def test_an_archive_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="unpack the archive first"):
        load(data=tmp_path / name)


# Damaged files


def test_a_few_damaged_files_are_all_listed_and_skipped_unless_told_otherwise(tmp_path: Path) -> None:
    folder = pictures(tmp_path, {f"{label}/{i}.png": colours((9, i + 1)) for label in "ab" for i in range(20)})
    (folder / "a" / "3.png").write_bytes(b"no header")
    whole = (folder / "b" / "7.png").read_bytes()
    (folder / "b" / "7.png").write_bytes(whole[: len(whole) - 30])
    data = load(data=folder, image_size=8)
    assert len(data.x_train) + len(data.x_test) == 38
    said = "\n".join(data.notes)
    assert "skipped 2 files that cannot be read" in said
    assert "a/3.png: not a readable image" in said
    assert "b/7.png: not a readable image" in said
    with pytest.raises(DatasetError, match="40 files cannot be read; --strict allows none"):
        load(data=folder, strict=True)


def test_many_damaged_files_are_refused_with_all_of_them(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes(count=10))
    for i in range(3):
        (folder / "a" / f"{i}.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"3 of 20 files cannot be read; at most 10% may be skipped") as caught:
        load(data=folder)
    assert all(f"a/{i}.png" in str(caught.value) for i in range(3))


def test_pictures_of_a_camera_that_pillow_cannot_read_are_named_with_what_to_do(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes(count=10))
    (folder / "a" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert any("HEIC pictures: save them as JPEG first" in note for note in load(data=folder).notes)


def test_links_to_nothing_and_files_that_may_not_be_read_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path, classes(count=12))
    (folder / "a" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "b" / "3.png").chmod(0)
    opened = Path.open

    def as_a_user(file: Path, *options: Any, **named: Any) -> IO[Any]:  # root may read everything
        if file.lstat().st_mode & 0o777 == 0:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *options, **named)

    monkeypatch.setattr(Path, "open", as_a_user)
    data = load(data=folder)
    assert len(data.x_train) + len(data.x_test) == 23
    said = "\n".join(data.notes)
    assert "a/gone.png: not a readable image (FileNotFoundError" in said
    assert "b/3.png: not a readable image (PermissionError" in said


@pytest.mark.parametrize("in_memory", [True, False])
def test_pictures_none_of_which_can_be_decoded_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 1 << 20 if in_memory else 0)
    dark = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4))
    folder = pictures(tmp_path / "dark", {f"{label}/{i}.png": dark for label in "ab" for i in range(5)})
    with pytest.raises(DatasetError, match=r"10 of 10 files cannot be read(?s:.)*does not say which is white"):
        load(data=folder, store=tmp_path / "store")


# Sizes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(40, 30)] * 19 + [(64, 64)], (30, 40)),  # one odd picture changes nothing
        ([(40, 30)] * 10 + [(64, 64)] * 10, (32, 32)),
        ([(400, 300)] * 20, (64, 64)),
        ([(224, 224)] * 20, (224, 224)),
        ([(150 + i, 140) for i in range(20)], (64, 64)),
    ],
)
def test_the_size_suits_most_pictures(tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    names = {f"{'ab'[i % 2]}/{i}.png": grey(i, size) for i, size in enumerate(sizes)}
    assert load(data=pictures(tmp_path, names)).input_shape[:2] == expected


# Labels


def test_labels_put_the_classes_of_a_folder_in_another_order_by_name(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes("abc"))
    plain, turned = load(data=folder), load(data=folder, labels=("c", "x", "a", "b"))
    assert turned.labels == ("c", "x", "a", "b")
    assert [turned.labels[k] for k in turned.y_train] == [plain.labels[k] for k in plain.y_train]
    np.testing.assert_array_equal(plain.x_train, turned.x_train)
    with pytest.raises(DatasetError, match="classes c, which are not among the labels a, b, d: classes are matched by"):
        load(data=folder, labels=("a", "b", "d"))


def test_labels_that_start_at_one_make_no_silent_class(tmp_path: Path) -> None:
    images, labels = np.zeros((9, 4, 4), np.uint8), np.arange(9) % 3 + 1
    other = np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "toys.npz", x_train=other, y_train=labels, x_test=images, y_test=labels)
    data = load(data=tmp_path / "toys.npz")
    assert (data.labels, sorted(set(data.y_train))) == (("1", "2", "3"), [0, 1, 2])
    assert data.notes == ("labels start at 1: class 0 of the model is label 1",)
    assert load(data=tmp_path / "toys.npz", labels=("x", "y", "z")).labels == ("x", "y", "z")
    np.savez(tmp_path / "gap.npz", x_train=other, y_train=(labels - 1) * 2, x_test=images, y_test=(labels - 1) * 2)
    gap = with_note_of_few(load(data=tmp_path / "gap.npz"))
    assert gap.notes == ("no image to train on: 1, 3", "few images to train on: 0 (3), 2 (3), 4 (3)")


# The same picture twice


def test_a_picture_that_is_in_both_splits_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 40)) for _ in range(24)]
    part = ["train"] * 16 + ["test"] * 8
    names = {f"{part[i]}/{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(noise)}
    folder = pictures(tmp_path, names)
    assert load(data=folder).notes == ()
    noise[3].save(folder / "test" / "b" / "again.jpg", quality=90)
    notes = load(data=folder).notes
    assert notes[0] == "1 test pictures are near-identical with training pictures:"
    assert notes[1] == f"{folder}/test/b/again.jpg = {folder}/train/b/3.png"


def test_a_picture_that_is_in_two_classes_is_told(tmp_path: Path) -> None:
    folder = pictures(tmp_path, classes(count=6, prefix="train/") | classes(count=6, prefix="test/"))
    for i in range(6):  # other pictures for testing
        grey(200 + i).save(folder / f"test/a/{i}.png")
        grey(210 + i).save(folder / f"test/b/{i}.png")
    assert not any("two classes" in note for note in load(data=folder).notes)
    shutil.copy(folder / "train" / "a" / "4.png", folder / "train" / "b" / "again.png")
    notes = load(data=folder).notes
    at = notes.index("1 pictures are in two classes, and one of the labels is wrong:")
    assert {*re.findall(r"train/(\S+ \(.\))", notes[at + 1])} == {"a/4.png (a)", "b/again.png (b)"}


# More than memory


def test_many_pictures_are_decoded_once_to_a_memory_map_and_an_interrupted_decoding_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"{label}/{i}.png": colours((9, i + 2)) for label in "ab" for i in range(20)}
    folder = pictures(tmp_path / "pets", names)
    (folder / "a" / "3.png").write_bytes((folder / "a" / "3.png").read_bytes()[:60])
    monkeypatch.setattr(module, "_AT_ONCE", 8)
    expected = load(data=folder, image_size=8)
    monkeypatch.setattr(module, "IN_MEMORY", 100)
    calls: list[Path] = []
    decode = module.decode

    def counting(file: Path, mode: str, size: tuple[int, int]) -> np.ndarray:
        calls.append(file)
        if len(calls) == 21:
            raise KeyboardInterrupt
        return decode(file, mode, size)

    monkeypatch.setattr(module, "decode", counting)
    store = tmp_path / "runs" / "data"
    with pytest.raises(KeyboardInterrupt):
        load(data=folder, image_size=8, store=store)
    (state,) = store.glob("pets-*/state.json")
    assert json.loads(state.read_text())[0] == 16
    again = load(data=folder, image_size=8, store=store)
    assert len(calls) < 16 + 8 + 40 - 16 + 1
    assert isinstance(again.x_train, np.memmap)
    assert again.fingerprint() == expected.fingerprint()
    assert again.notes == expected.notes
    before = len(calls)
    assert load(data=folder, image_size=8, store=store).fingerprint() == expected.fingerprint()
    assert len(calls) == before
    (folder / "a" / "4.png").write_bytes((folder / "a" / "5.png").read_bytes())
    assert load(data=folder, image_size=8, store=store).fingerprint() != expected.fingerprint()


def mapped_kib() -> int:
    """How much of this process' memory is of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


def test_what_was_read_of_a_memory_map_does_not_stay_in_memory(tmp_path: Path) -> None:
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(100, 600, 600, 1))
    images[:] = np.arange(100)[:, None, None, None]
    images.flush()
    images = np.memmap(tmp_path / "images", np.uint8, "r", shape=images.shape)
    part = images[10:]
    before = mapped_kib()
    total = int(part.sum())
    assert mapped_kib() - before > 25_000
    let_go(part)
    assert mapped_kib() - before < 5_000
    assert int(part.sum()) == total
    let_go(np.zeros(3))  # in memory: nothing to do


@pytest.mark.parametrize("option", ["file", "label", "group"])
@pytest.mark.parametrize("form", ["folder", "npz", None])
def test_a_column_of_what_is_no_csv_is_refused(tmp_path: Path, option: str, form: str | None) -> None:
    with pytest.raises(DatasetError, match=f"--{option}-column names a column of a CSV; .*(a folder|.npz file|none)$"):
        load("digits", _toys(tmp_path, form), columns=Columns(**{option: "name"}))


@pytest.mark.parametrize("form", ["npz", None])
def test_groups_of_what_are_no_files_are_refused(tmp_path: Path, form: str | None) -> None:
    with pytest.raises(DatasetError, match="--no-groups is for picture files, in a folder or a CSV"):
        load("digits", _toys(tmp_path, form), grouped=False)


def _toys(tmp_path: Path, form: str | None) -> Path | None:
    if form == "folder":
        for label in "ab":
            pictures(tmp_path / "toys" / label, {f"{i}x.png": grey(i) for i in range(4)})
        return tmp_path / "toys"
    images, targets = np.random.default_rng(0).integers(0, 256, (8, 4, 4), dtype=np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "toys.npz", x_train=images, y_train=targets, x_test=images, y_test=targets)
    return tmp_path / "toys.npz" if form else None
