"""Named data sets, `.npz` files and image folders -> uint8 images and integer labels, split in train and test.

`mnist` and `cifar10` come through keras.datasets, `digits` from scikit-learn (no network needed). Knows nothing of
networks or recipes. Folders are decoded exactly as the service decodes an upload under the `plain` convention: EXIF
orientation applied, transparency laid on white, channels converted, resized with RESAMPLE.
"""

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

Array = np.ndarray

DRAFT = (
    4  # a JPEG is decoded at a fraction of its size that is still this many times the wanted one; as the service does
)
RESAMPLE = Image.Resampling.BILINEAR  # antialiasing when it shrinks; named in the card, used again by the service
DEFAULT_SIZE = 32  # pixels, for a folder whose images differ in size
TEST_FRACTION = 0.2  # of a folder without a test split, and of digits
MAX_CLASSES = 100_000  # a larger label is no class index but damage, and would ask for as many outputs
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_UPRIGHT: dict[int, Image.Transpose] = {  # EXIF 2.3, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DatasetError(ValueError):
    """The data cannot be used; the message says what was tried and what would help."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, H, W, C) uint8 with C 1 or 3; labels (N,) int64 in [0, len(labels))."""

    name: str
    origin: str
    labels: tuple[str, ...]
    input_convention: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    @property
    def input_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    def fingerprint(self) -> str:
        """A SHA-256 over all arrays: equal only for the same images and labels in the same order."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(
    name: str | None = None,
    data: Path | None = None,
    *,
    seed: int = 0,
    labels: tuple[str, ...] | None = None,
    image_size: int | None = None,
    origin: str | None = None,
) -> Dataset:
    """The data set NAME, or the `.npz` file or image folder DATA (named NAME, or its stem).

    `labels` names the classes in index order; `image_size` resizes to that many pixels square; `origin` says in the
    card where the data is from. The training split of a file or folder is permuted with `seed`; mnist and cifar10
    keep the order of their files. Raises DatasetError.
    """
    if data is not None:
        dataset = _from_path(Path(data), name, seed, image_size)
    elif name is not None and name in _NAMED:
        dataset = _NAMED[name](seed)
    else:
        raise DatasetError(f"unknown data set {name!r}: choose from {', '.join(_NAMED)}, or pass --data PATH")
    if labels is not None:
        if len(labels) < len(dataset.labels) or len(set(labels)) < len(labels):
            raise DatasetError(
                f"--labels must name at least {len(dataset.labels)} different classes, got {len(labels)}: "
                + ",".join(labels)
            )
        dataset = replace(dataset, labels=labels)
    if image_size is not None and dataset.input_shape[:2] != (image_size, image_size):
        dataset = replace(
            dataset, x_train=_resize(dataset.x_train, image_size), x_test=_resize(dataset.x_test, image_size)
        )
    return replace(dataset, origin=origin) if origin else dataset


# Named data sets


def _keras(name: str, labels: tuple[str, ...], convention: str) -> Callable[[int], Dataset]:
    def fetch(seed: int) -> Dataset:
        import keras

        try:
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        except Exception as err:  # keras raises bare Exception for a failed download
            raise DatasetError(
                f"could not get {name}: it is not in ~/.keras/datasets and keras.datasets.{name}.load_data() failed "
                f"({_first_line(err)}). Without a connection pass --data {name}.npz (keys {', '.join(NPZ_KEYS)}), "
                "or use --dataset digits, which needs no network"
            ) from err
        return _checked(
            name, f"keras.datasets.{name}", (x_train, y_train, x_test, y_test), labels=labels, convention=convention
        )

    return fetch


def _digits(seed: int) -> Dataset:
    """Scikit-learn's 1,797 handwritten 8x8 digits (UCI, Alpaydin & Kaynak 1998), enlarged to 28x28."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)[..., None]
    images, targets = _resize(small, 28), bunch.target
    train, test = _split(len(images), seed)
    return _checked(
        "digits",
        "scikit-learn load_digits (UCI optical recognition of handwritten digits), enlarged to 28x28",
        (images[train], targets[train], images[test], targets[test]),
        labels=DIGITS,
        convention="light_on_dark_centred",
    )


_NAMED: dict[str, Callable[[int], Dataset]] = {
    "mnist": _keras("mnist", DIGITS, "light_on_dark_centred"),
    "cifar10": _keras("cifar10", CIFAR10, "plain"),
    "digits": _digits,
}

# Files with a known name get that data set's labels and convention, if they fit.
_KNOWN = {
    "mnist": (DIGITS, "light_on_dark_centred", 1),
    "digits": (DIGITS, "light_on_dark_centred", 1),
    "cifar10": (CIFAR10, "plain", 3),
}


# Files and folders


def _from_path(path: Path, name: str | None, seed: int, image_size: int | None) -> Dataset:
    if path.is_dir():
        return _from_folder(path, name or path.resolve().name, seed, image_size)
    if not path.exists():
        raise DatasetError(f"--data {path}: no such file or folder")
    if path.suffix != ".npz":
        raise DatasetError(f"--data {path}: expected an .npz file or a folder of images")
    return _from_npz(path, name or path.stem, seed)


def _from_npz(path: Path, name: str, seed: int) -> Dataset:
    try:
        # opened here: np.load leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise DatasetError(f"{path}: missing key {', '.join(missing)} (needs {', '.join(NPZ_KEYS)})")
            arrays = tuple(archive[key] for key in NPZ_KEYS)
    except DatasetError:
        raise
    except Exception as err:  # zip, header and dtype damage each raise a class of their own
        raise DatasetError(f"{path}: not a readable .npz file ({_first_line(err)})") from err
    dataset = _checked(name, f"file {path.name}", arrays, where=f"{path}: ")
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))
    return replace(dataset, x_train=dataset.x_train[order], y_train=dataset.y_train[order])


def _from_folder(path: Path, name: str, seed: int, image_size: int | None) -> Dataset:
    """`train/<class>/*` and `test/<class>/*`, or one level of classes that is split with the seed."""
    if (path / "train").is_dir():
        if not (path / "test").is_dir():
            raise DatasetError(f"{path}: has train/ but no test/ beside it")
        labels = _classes(path / "train")
        extra = set(_classes(path / "test")) - set(labels)
        if extra:
            raise DatasetError(f"{path}/test: classes that train/ lacks: {', '.join(sorted(extra))}")
        train, test = _files(path / "train", labels), _files(path / "test", labels)
        order = np.random.default_rng(seed).permutation(len(train))
        train = [train[i] for i in order]
    else:
        labels = _classes(path)
        files = _files(path, labels)
        train_index, test_index = _split(len(files), seed)
        train, test = [files[i] for i in train_index], [files[i] for i in test_index]
    if not train or not test:
        raise DatasetError(f"{path}: needs images for training and for testing, found {len(train)} and {len(test)}")
    size, mode = _common_form([file for file, _ in train + test])
    if image_size:
        size = (image_size, image_size)
    arrays = []
    for split in (train, test):
        arrays.append(np.stack([_decode(file, mode, size) for file, _ in split]))
        arrays.append(np.array([label for _, label in split]))
    return _checked(name, f"folder {path.resolve().name}", arrays, labels=labels, where=f"{path}: ")


def _classes(path: Path) -> tuple[str, ...]:
    classes = tuple(sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(classes) < 2:
        raise DatasetError(f"{path}: needs at least two folders, one per class, found {len(classes)}")
    return classes


def _files(path: Path, labels: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Every file that is not hidden, with its class index, sorted: the same order on every machine."""
    return [
        (file, index)
        for index, label in enumerate(labels)
        if (path / label).is_dir()
        for file in sorted((path / label).iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name != "Thumbs.db"
    ]


def _common_form(files: list[Path]) -> tuple[tuple[int, int], str]:
    """The (width, height) all images share, else DEFAULT_SIZE squared; L if all are grey, else RGB. Headers only."""
    sizes, modes = set(), set()
    for file in files:
        try:
            with Image.open(file) as image:
                # Pillow turns a TIFF itself, and gives the size it will have then
                turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
                sizes.add(image.size[::-1] if turned else image.size)
                modes.add(image.mode)
        except Exception as err:  # Pillow's plugins raise what they like on damaged files
            raise DatasetError(f"{file}: not a readable image ({_first_line(err)})") from err
    size = sizes.pop() if len(sizes) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE)
    return size, "L" if all(mode in ("1", "L") or mode.startswith("I") for mode in modes) else "RGB"


def _decode(file: Path, mode: str, size: tuple[int, int]) -> Array:
    """One file under the `plain` convention: (H, W, C) uint8."""
    try:
        # From memory: an uncompressed grey TIFF of orientation 5 to 8 opened by its path comes out garbled (Pillow 13).
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            image.draft(None, (DRAFT * max(size), DRAFT * max(size)))  # does nothing but to a JPEG
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip and not scale
                grey = (np.asarray(upright).astype(np.int64) >> 8).clip(0, 255)
                upright = Image.fromarray(grey.astype(np.uint8))
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            pixels = upright.convert(mode)
    except Exception as err:  # Pillow's plugins raise what they like on damaged files
        raise DatasetError(f"{file}: not a readable image ({_first_line(err)})") from err
    if pixels.size != size:
        pixels = pixels.resize(size, RESAMPLE)
    array = np.asarray(pixels)
    return array if array.ndim == 3 else array[..., None]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it is missing or cannot be read: a broken tag does not spoil a good picture."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises many kinds on malformed EXIF
        return 1


# Shared checks and small steps


def _checked(
    name: str,
    origin: str,
    arrays: Iterable[Array],
    *,
    labels: tuple[str, ...] | None = None,
    convention: str = "plain",
    where: str = "",
) -> Dataset:
    """A Dataset of canonical shapes and types, or DatasetError naming the first array that is wrong and how."""
    x_train, y_train, x_test, y_test = arrays
    x_train, x_test = _images(x_train, f"{where}x_train"), _images(x_test, f"{where}x_test")
    y_train, y_test = _targets(y_train, f"{where}y_train"), _targets(y_test, f"{where}y_test")
    for split, images, targets in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(images) != len(targets):
            raise DatasetError(f"{where}x_{split} has {len(images)} images but y_{split} {len(targets)} labels")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DatasetError(f"{where}x_train is {x_train.shape[1:]} per image but x_test {x_test.shape[1:]}")
    if labels is None:
        classes = int(max(y_train.max(), y_test.max())) + 1
        known, known_convention, channels = _KNOWN.get(name, ((), "plain", 0))
        if classes <= len(known) and x_train.shape[-1] == channels:
            labels, convention = known, known_convention
        else:
            labels = tuple(str(i) for i in range(classes))
    return Dataset(name, origin, tuple(labels), convention, x_train, y_train, x_test, y_test)


def _images(array: Array, what: str) -> Array:
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DatasetError(f"{what}: expected images (N, H, W), (N, H, W, 1) or (N, H, W, 3), got shape {array.shape}")
    if array.dtype != np.uint8:
        raise DatasetError(f"{what}: expected uint8 values 0..255, got {array.dtype}")
    return array


def _targets(array: Array, what: str) -> Array:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":  # issubdtype would let time differences pass
        raise DatasetError(f"{what}: expected integer labels (N,) or (N, 1), got {array.dtype} {array.shape}")
    if len(array) and array.min() < 0:
        raise DatasetError(f"{what}: labels start at 0, got {array.min()}")
    if len(array) and array.max() >= MAX_CLASSES:
        raise DatasetError(f"{what}: labels are class indices below {MAX_CLASSES:,}, got {array.max()}")
    return array.astype(np.int64)


def _resize(images: Array, size: int) -> Array:
    """(N, h, w, C) -> (N, size, size, C) with RESAMPLE."""
    resized = [
        np.asarray(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize((size, size), RESAMPLE))
        for image in images
    ]
    return np.stack(resized).reshape(len(images), size, size, images.shape[-1])


def _split(count: int, seed: int) -> tuple[Array, Array]:
    order = np.random.default_rng(seed).permutation(count)
    test = round(count * TEST_FRACTION)
    return order[test:], order[:test]


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {err}".splitlines()[0][:300]
