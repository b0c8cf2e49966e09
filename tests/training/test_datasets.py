"""Data sets by name, `.npz` files and image folders: what is read, and what is refused and how that is told."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.fixtures.pictures import colours
from training.data.arrays import NPZ_KEYS
from training.data.dataset import CIFAR10, DIGITS, Dataset, DatasetError
from training.data.loading import load
from training.data.pictures import decode

Arrays = dict[str, np.ndarray]


def arrays(train: int = 12, test: int = 4, shape: tuple[int, ...] = (6, 5), classes: int = 3) -> Arrays:
    """Four arrays in which the first pixel of an image is its place and the second its label."""
    found: Arrays = {}
    for split, count in (("train", train), ("test", test)):
        images = np.zeros((count, *shape), np.uint8)
        labels = np.arange(count) % classes
        flat = images.reshape(count, -1)
        flat[:, 0], flat[:, 1] = np.arange(count), labels
        found |= {f"x_{split}": images, f"y_{split}": labels}
    return found


def saved(folder: Path, name: str = "toys.npz", **replaced: np.ndarray) -> Path:
    np.savez(folder / name, **(arrays() | replaced))
    return folder / name


def pictures(folder: Path, files: Mapping[str, Image.Image]) -> Path:
    for name, image in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return folder


def grey(level: int, size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.new("L", size, level)


# Named data sets


def test_digits_need_no_network() -> None:
    data = load("digits")
    assert data.labels == DIGITS
    assert data.input_convention == "light_on_dark_centred"
    assert data.input_shape == (28, 28, 1)
    assert (len(data.x_train), len(data.x_test)) == (1438, 359)
    assert data.x_train.dtype == np.uint8
    assert data.x_train.max() == 255
    assert set(data.y_train) == set(range(10))


def test_digits_are_split_by_the_seed() -> None:
    assert load("digits", seed=1).fingerprint() == load("digits", seed=1).fingerprint()
    assert load("digits", seed=1).fingerprint() != load("digits", seed=2).fingerprint()


@pytest.mark.parametrize(
    ("name", "shape", "labels", "convention"),
    [("mnist", (28, 28), DIGITS, "light_on_dark_centred"), ("cifar10", (32, 32, 3), CIFAR10, "plain")],
)
def test_keras_data_sets_keep_the_order_of_their_files(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...], labels: tuple[str, ...], convention: str
) -> None:
    made = arrays(shape=shape)
    answer = ((made["x_train"], made["y_train"][:, None]), (made["x_test"], made["y_test"][:, None]))
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: answer)
    data = load(name, seed=5)
    assert (data.labels, data.input_convention) == (labels, convention)
    np.testing.assert_array_equal(data.x_train.reshape(made["x_train"].shape), made["x_train"])
    np.testing.assert_array_equal(data.y_train, made["y_train"])


def test_without_a_connection_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise Exception("URL fetch failure on https://…: None -- Name or service not known")  # as keras raises it

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(DatasetError, match=r"could not get mnist.*URL fetch failure.*--data mnist\.npz") as caught:
        load("mnist")
    assert "--dataset digits, which needs no network" in str(caught.value)


@pytest.mark.parametrize("name", ["imagenet", None])
def test_an_unknown_name_lists_what_there_is(name: str | None) -> None:
    with pytest.raises(DatasetError, match="choose from mnist, cifar10, digits, or pass --data"):
        load(name)


# .npz files


def test_an_npz_is_named_by_its_stem_and_counts_its_classes(tmp_path: Path) -> None:
    data = load(data=saved(tmp_path, "pets.npz"))
    assert (data.name, data.labels, data.input_convention) == ("pets", ("0", "1", "2"), "plain")
    assert data.input_shape == (6, 5, 1)
    assert data.origin == "file pets.npz"


def test_name_origin_and_labels_can_be_given(tmp_path: Path) -> None:
    data = load("zoo", saved(tmp_path), labels=("cat", "dog", "eel", "fox"), origin="a shelter")
    assert (data.name, data.origin, data.labels) == ("zoo", "a shelter", ("cat", "dog", "eel", "fox"))


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "b")])
def test_too_few_or_equal_labels_are_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match=rf"at least 3 different classes, got {len(labels)}"):
        load(data=saved(tmp_path), labels=labels)


@pytest.mark.parametrize(
    ("file", "shape", "labels", "convention"),
    [
        ("mnist.npz", (28, 28), DIGITS, "light_on_dark_centred"),
        ("cifar10.npz", (32, 32, 3), CIFAR10, "plain"),
        ("mnist.npz", (28, 28, 3), ("0", "1", "2"), "plain"),  # in colour, so not MNIST
    ],
)
def test_files_of_a_known_name_get_its_labels_and_convention(
    tmp_path: Path, file: str, shape: tuple[int, ...], labels: tuple[str, ...], convention: str
) -> None:
    data = load(data=saved(tmp_path, file, **arrays(shape=shape)))
    assert (data.labels, data.input_convention) == (labels, convention)


def test_the_seed_permutes_training_pairs_and_leaves_the_test_split_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, y_train=np.arange(12)[:, None] % 3)
    data, other = load(data=path, seed=1), load(data=path, seed=2)
    places = data.x_train[:, 0, 0, 0]
    assert sorted(places) == list(range(12))
    assert list(places) != list(range(12))
    assert list(places) != list(other.x_train[:, 0, 0, 0])
    np.testing.assert_array_equal(data.y_train, places % 3)
    assert list(data.x_test[:, 0, 0, 0]) == [0, 1, 2, 3]
    np.testing.assert_array_equal(data.y_test, [0, 1, 2, 0])


@pytest.mark.parametrize("kind", [(), (1,), (3,)])
def test_images_are_resized_to_the_size_asked_for(tmp_path: Path, kind: tuple[int, ...]) -> None:
    replaced = {f"x_{split}": np.full((n, 6, 5, *kind), 9, np.uint8) for split, n in (("train", 12), ("test", 4))}
    data = load(data=saved(tmp_path, **replaced), image_size=8)
    assert data.x_train.shape == (12, 8, 8, *(kind or (1,)))
    assert data.x_test.shape == (4, 8, 8, *(kind or (1,)))
    assert (data.x_train == 9).all()


@pytest.mark.parametrize(
    ("replaced", "told"),
    [
        ({"x_train": np.zeros((12, 6, 5), np.float32)}, "x_train: expected uint8 values 0..255, got float32"),
        ({"x_test": np.zeros((4, 30), np.uint8)}, r"x_test: expected images .* got shape \(4, 30\)"),
        ({"x_test": np.zeros((4, 6, 5, 4), np.uint8)}, r"x_test: expected images .* got shape \(4, 6, 5, 4\)"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8)}, r"x_train: expected images .* got shape \(0, 6, 5, 1\)"),
        ({"x_test": np.zeros((4, 9, 9), np.uint8)}, r"x_train is \(6, 5, 1\) per image but x_test \(9, 9, 1\)"),
        ({"y_train": np.zeros(11, int)}, "x_train has 12 images but y_train 11 labels"),
        ({"y_test": np.array([0, 1, -1, 2])}, "y_test: labels start at 0, got -1"),
        ({"y_test": np.full(4, 2**40)}, "y_test: labels are class indices below 100,000, got 1099511627776"),
        ({"y_train": np.zeros(12)}, "y_train: expected integer labels .* got float64"),
        ({"y_train": np.zeros((12, 3), int)}, r"y_train: expected integer labels .* \(12, 3\)"),
        ({"y_train": np.array([None] * 12)}, "not a readable"),
        ({"x_train": np.array([{}], object)}, "not a readable"),
    ],
)
def test_what_is_wrong_with_an_npz_is_told(tmp_path: Path, replaced: Arrays, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        load(data=saved(tmp_path, **replaced))


@pytest.mark.parametrize("key", NPZ_KEYS)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "toys.npz", **{k: v for k, v in arrays().items() if k != key})
    with pytest.raises(DatasetError, match=f"missing key {key}"):
        load(data=tmp_path / "toys.npz")


@pytest.mark.parametrize("keep", [0, 3, 100, -40])
def test_a_damaged_npz_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match="not a readable"):
        load(data=path)


def test_a_path_that_is_neither_npz_nor_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toys.txt").write_text("1,2")
    with pytest.raises(DatasetError, match=r"expected an \.npz file, a CSV \(file,label\) or a folder"):
        load(data=tmp_path / "toys.txt")
    with pytest.raises(DatasetError, match="no such file or folder"):
        load(data=tmp_path / "nowhere.npz")


DTYPES = ("u1", ">u2", "i1", "i8", "u8", "f4", "f8", "c8", "?", "m8[s]", "M8[D]", "U3", "S2", [("a", "u1")])


@st.composite
def some_arrays(draw: st.DrawFn) -> Arrays:
    """Four sound arrays, of which up to two are then missing or of any type and shape."""
    shape = draw(st.sampled_from([(3, 2), (3, 2, 1), (3, 2, 3)]))
    labels = hnp.arrays(np.int16, 2, elements=st.integers(0, 300))
    found = {key: draw(hnp.arrays(np.uint8, (2, *shape)) if key < "y" else labels) for key in NPZ_KEYS}
    for key in draw(st.sets(st.sampled_from(NPZ_KEYS), max_size=2)):
        shapes = st.just(found[key].shape) | hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
        found[key] = draw(st.none() | hnp.arrays(st.sampled_from(DTYPES).map(np.dtype), shapes))
    return {key: array for key, array in found.items() if array is not None}


@settings(deadline=None, max_examples=150, derandomize=True)
@given(some_arrays())
def test_any_arrays_give_a_sound_data_set_or_a_dataset_error(found: Arrays) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wild.npz"
        np.savez(path, **found)
        try:
            data = load(data=path)
        except DatasetError as err:
            assert str(path) in str(err)
            return
    assert_sound(data)


def assert_sound(data: Dataset) -> None:
    assert data.input_shape[2] in (1, 3)
    for images, targets in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert images.dtype == np.uint8
        assert targets.dtype == np.int64
        assert len(images) == len(targets) > 0
        assert images.shape[1:] == data.input_shape
        assert 0 <= targets.min() <= targets.max() < len(data.labels)


# Folders of images


def test_a_folder_with_train_and_test_keeps_its_split(tmp_path: Path) -> None:
    files = {f"train/{label}/{i}.png": grey(10 * i + k) for k, label in enumerate("abc") for i in range(1, 6)}
    files |= {f"test/{label}/1.png": grey(200 + k) for k, label in enumerate("abc")}
    data = load(data=pictures(tmp_path / "pets", files), seed=3)
    assert (data.name, data.labels, data.input_shape) == ("pets", ("a", "b", "c"), (3, 4, 1))
    levels = data.x_train[:, 0, 0, 0]
    assert sorted(levels) == sorted(10 * i + k for k in range(3) for i in range(1, 6))
    assert list(levels) != sorted(levels)
    np.testing.assert_array_equal(data.y_train, levels % 10)
    assert list(data.x_test[:, 0, 0, 0]) == [200, 201, 202]


def test_one_level_of_classes_is_split_by_the_seed(tmp_path: Path) -> None:
    files = {f"{label}/{i}.png": grey(10 * i + k) for k, label in enumerate("ab") for i in range(1, 11)}
    folder = pictures(tmp_path / "pets", files)
    data = load(data=folder, seed=3)
    assert (len(data.x_train), len(data.x_test)) == (16, 4)
    levels = np.concatenate([data.x_train, data.x_test])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.concatenate([data.y_train, data.y_test]), levels % 10)
    assert len(set(levels)) == 20
    assert data.fingerprint() == load(data=folder, seed=3).fingerprint() != load(data=folder, seed=4).fingerprint()


@pytest.mark.parametrize(
    ("sizes", "asked", "shape"),
    [
        ([(7, 5)] * 4, None, (5, 7, 1)),
        ([(7, 5), (5, 7)] * 2, None, (32, 32, 1)),
        ([(7, 5), (9, 9)] * 2, 16, (16, 16, 1)),
    ],
)
def test_images_get_their_common_size_or_32_or_the_one_asked_for(
    tmp_path: Path, sizes: list[tuple[int, int]], asked: int | None, shape: tuple[int, int, int]
) -> None:
    files = {f"{'ab'[i % 2]}/{i}.png": grey(i, size) for i, size in enumerate(sizes)}
    assert load(data=pictures(tmp_path, files), image_size=asked).input_shape == shape


@pytest.mark.parametrize(
    ("last", "channels"),
    [("1", 1), ("L", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)],
)
def test_grey_folders_stay_grey_and_one_coloured_image_makes_all_rgb(tmp_path: Path, last: str, channels: int) -> None:
    files = {f"{'ab'[i % 2]}/{i}.png": grey(i) for i in range(4)} | {"b/5.png": Image.new(last, (4, 3))}
    assert load(data=pictures(tmp_path, files)).input_shape == (3, 4, channels)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    folder = pictures(tmp_path, {f"{label}/{i}.png": grey(i) for label in "ab" for i in range(5)})
    for name in (".git/x", "a/.DS_Store", "b/Thumbs.db", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image")
    data = load(data=folder)
    assert data.labels == ("a", "b")
    assert len(data.x_train) + len(data.x_test) == 10


@pytest.mark.parametrize("damage", [lambda data: b"no image", lambda data: data[: len(data) // 2]])
def test_the_first_unreadable_image_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = pictures(tmp_path, {f"{label}/{i}.png": colours((40, 40)) for label in "ab" for i in range(4)})
    bad = folder / "a" / "2.png"
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(DatasetError, match=r"a/2\.png: not a readable image"):
        load(data=folder)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a/1.png", "a/2.png"], "needs at least two folders, one per class, found 1"),
        (["train/a/1.png", "train/b/1.png"], "has train/ but no test/"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"], "classes that train/ lacks: c"),
        (["a/1.png", "b/1.png"], "needs images for training and for testing, two of a class at least, found 2 and 0"),
    ],
)
def test_what_a_folder_lacks_is_told(tmp_path: Path, files: list[str], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        load(data=pictures(tmp_path, dict.fromkeys(files, grey(0))))


# Decoding (that the service decodes alike: test_layering.py)

ORIENTED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # what a camera held so stores of an upright picture
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_pictures_are_turned_upright(tmp_path: Path, form: str, orientation: int) -> None:
    upright = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    stored, exif = Image.fromarray(np.ascontiguousarray(ORIENTED[orientation](upright))), Image.Exif()
    exif[0x0112] = orientation
    for label in "ab":
        for i in range(3):
            (tmp_path / label).mkdir(exist_ok=True)
            stored.save(tmp_path / label / f"{i}.{form.lower()}", exif=exif)
    data = load(data=tmp_path)
    assert data.input_shape == (5, 7, 1)
    np.testing.assert_array_equal(data.x_test[0, ..., 0], upright)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 25_700, np.uint16)), (100, 100, 100)),  # scaled, not clipped to 255
        (Image.fromarray(np.full((2, 2), 65_535, np.uint16)), (255, 255, 255)),
    ],
)
def test_alpha_lies_on_white_and_16_bits_are_scaled(
    tmp_path: Path, image: Image.Image, pixel: tuple[int, int, int]
) -> None:
    image.save(tmp_path / "one.png")
    assert tuple(decode(tmp_path / "one.png", "RGB", (2, 2))[0, 0]) == pixel
