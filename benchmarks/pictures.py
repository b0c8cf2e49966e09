"""An artifact -> pictures to post, and the label ONNX Runtime gives on the same arrays.

The pictures are the artifact's golden inputs and seeded drawings, as PNG at the model's own size; a model for photos
gets drawings with a camera's noise instead, as JPEG. Larger photos are JPEGs, too. No data set is involved. Knows
neither servers nor HTTP.
"""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from benchmarks.peers.framing import framed

SMALL = 64  # pictures in rotation
LEAD = 0.1  # of the top probability over the second: a provider in bf16 (tolerance 0.05) gives the same answer
PHOTO_SIDE = 128  # pixels: a model with inputs of this size or more is one for photos
SIDEWAYS = 6  # EXIF 2.3, tag 0x0112: a phone that was held upright


@dataclass(frozen=True)
class Picture:
    """The bytes of an image file, and the label that a right answer has."""

    data: bytes
    label: str


@dataclass(frozen=True)
class Photos:
    """How to draw photos: `width` x `height` as the file has them, enlarged from a drawing that is `enlarged` times
    smaller, with `noise` (standard deviation, of 255 levels), JPEG of this `quality`."""

    title: str
    width: int
    height: int
    number: int
    noise: float
    quality: int
    enlarged: int = 1
    orientation: int = 1
    connections: tuple[int, ...] = (8,)  # over which they are posted


# Noise and quality give files as large as cameras': about 16 kB, 122 kB and 3.7 MB.
SMALL_PHOTOS = Photos("JPEG of the model's size", 224, 224, SMALL, noise=5, quality=92)
FOR_SMALL_MODELS = (Photos("3000×2000 JPEG", 3000, 2000, 1, noise=6, quality=75),)
FOR_PHOTO_MODELS = (
    Photos("1024×768 JPEG", 1024, 768, 8, noise=12, quality=75, connections=(8, 32)),
    Photos("12-megapixel JPEG, turned by EXIF", 4032, 3024, 2, noise=8, quality=92, enlarged=4, orientation=SIDEWAYS),
)


@dataclass(frozen=True)
class Subject:
    """A model to be served: its artifact, SMALL pictures of its own size (`small_title` says of which kind), and larger
    photos unless its convention finds digits."""

    name: str
    artifact: Path
    for_photos: bool
    small: list[Picture]
    small_title: str
    photos: dict[Photos, list[Picture]]


def subject(models: Path, name: str, version: int | None = None) -> Subject:
    """The version of a model, by default the latest. Raises FileNotFoundError naming what there is."""
    versions = versions_of(models / name)
    if not versions or version not in (None, *versions):
        there = ", ".join(sorted({p.parent.parent.name for p in models.glob("*/*/model.onnx")})) or "none"
        raise FileNotFoundError(f"{models / name}: no such model; there is {there}")
    artifact = models / name / str(versions[-1] if version is None else version)
    judge = _Judge(artifact)
    height, width, _ = judge.shape
    for_photos = min(height, width) >= PHOTO_SIDE
    if for_photos:
        title, kinds = f"{width}×{height} JPEG", FOR_PHOTO_MODELS
        small = _photos(judge, replace(SMALL_PHOTOS, width=width, height=height), seed=0)
    else:
        title, kinds = "PNG", FOR_SMALL_MODELS if judge.convention == "plain" else ()
        with np.load(artifact / "golden.npz") as golden:
            small = _small(judge, [*golden["image"]])
    return Subject(name, artifact, for_photos, small, title, {kind: _photos(judge, kind) for kind in kinds})


def versions_of(model: Path) -> list[int]:
    """Those in a model's folder, the latest last."""
    return sorted(int(onnx.parent.name) for onnx in model.glob("*/model.onnx") if onnx.parent.name.isdecimal())


class _Judge:
    """What ONNX Runtime says of a picture that Pillow has decoded, all of it, and brought to the model's size."""

    def __init__(self, artifact: Path) -> None:
        card = json.loads((artifact / "card.json").read_bytes())
        self.shape: list[int] = card["input_shape"]  # [H, W, C]
        self.convention: str = card["input_convention"]
        self._card = card
        self._labels: list[str] = card["labels"]
        self._session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])

    def label(self, data: bytes) -> str | None:
        """None if the two best are so close that rounding may decide."""
        height, width, channels = self.shape
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L" if channels == 1 else "RGB")
        array = np.asarray(framed(image, self._card)).reshape(1, height, width, channels)
        (probabilities,) = self._session.run(["probabilities"], {"image": array})[0]
        second, best = np.argsort(probabilities)[-2:]
        return self._labels[best] if probabilities[best] - probabilities[second] > LEAD else None


def _small(judge: _Judge, candidates: list[np.ndarray]) -> list[Picture]:
    """Of `candidates`, and drawings after them, SMALL of which the model is sure."""
    generator = np.random.default_rng(0)
    small: list[Picture] = []
    while len(small) < SMALL:
        array = candidates.pop(0) if candidates else _drawing(judge.shape, generator)
        if judge.convention != "light_on_dark_centred" or _stays_as_it_is(array):
            data = _encode(array)
            if (label := judge.label(data)) is not None:
                small.append(Picture(data, label))
    return small


def _stays_as_it_is(array: np.ndarray) -> bool:
    """Whether `light_on_dark_centred` leaves the picture alone: on black, its figure stands as MNIST's do, 20 of 28
    pixels long with the centre of mass in the middle (with some room for how either is rounded)."""
    grey = array[:, :, 0].astype(float)
    height, width = grey.shape
    rows, columns = np.nonzero(grey > 64)
    if grey[[0, -1]].any() or grey[:, [0, -1]].any() or not len(rows):
        return False
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    centre = np.array([np.arange(height) @ grey.sum(1), np.arange(width) @ grey.sum(0)]) / grey.sum()
    off_centre = np.abs(centre - (np.array(grey.shape) - 1) / 2).max()
    return bool(abs(longest - min(height, width) * 5 / 7) <= 1 and off_centre <= 1)


def _drawing(shape: list[int], generator: np.random.Generator) -> np.ndarray:
    """(H, W, C) uint8: light strokes on a dark ground for one channel, coloured shapes on a gradient for three."""
    height, width, channels = shape
    if channels == 1:
        image = Image.new("L", (width * 4, height * 4))
        corners = generator.integers(width // 2, width * 7 // 2, (int(generator.integers(2, 5)), 2))
        ImageDraw.Draw(image).line([(int(x), int(y)) for x, y in corners], 255, width // 3, joint="curve")
        image = _as_in_mnist(image, width, height)
    else:
        image = _scene(width * 4, height * 4, generator)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)).reshape(height, width, channels)


def _as_in_mnist(drawing: Image.Image, width: int, height: int) -> Image.Image:
    """Four times (width, height), the figure 5/7 of the shorter side long and its centre of mass in the middle."""
    figure = drawing.crop(drawing.getbbox())
    scale = min(width, height) * 4 * 5 / 7 / max(figure.size)
    figure = figure.resize((max(1, round(figure.width * scale)), max(1, round(figure.height * scale))))
    grey = np.asarray(figure, float)
    x = np.arange(figure.width) @ grey.sum(0) / grey.sum()
    y = np.arange(figure.height) @ grey.sum(1) / grey.sum()
    image = Image.new("L", (width * 4, height * 4))
    image.paste(figure, (round(width * 2 - x), round(height * 2 - y)))
    return image


def _scene(width: int, height: int, generator: np.random.Generator) -> Image.Image:
    ends = generator.integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, height)[:, None, None]
    ground = np.broadcast_to(ends[0] * (1 - slope) + ends[1] * slope, (height, width, 3))
    image = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(2, 7))):
        x, y = int(generator.integers(0, width)), int(generator.integers(0, height))
        w, h = int(generator.integers(width // 8, width // 2)), int(generator.integers(height // 8, height // 2))
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((x - w // 2, y - h // 2, x + w // 2, y + h // 2), tuple(int(c) for c in generator.integers(0, 256, 3)))
    return image


def _photos(judge: _Judge, of: Photos, seed: int = 1) -> list[Picture]:
    """Drawings as a camera would see them, a little out of focus and with noise, until the model is sure of enough. One
    that is turned by EXIF has another label where that is overlooked."""
    generator = np.random.default_rng(seed)
    photos: list[Picture] = []
    while len(photos) < of.number:
        scene = _scene(of.width // of.enlarged, of.height // of.enlarged, generator)
        scene = scene.filter(ImageFilter.GaussianBlur(scene.width / 340))
        label = judge.label(_encode(scene, "JPEG", orientation=of.orientation))  # asked while it is small
        if label is None or (of.orientation != 1 and label == judge.label(_encode(scene, "JPEG"))):
            continue
        noise = generator.normal(0, of.noise, (scene.height, scene.width, 3))
        large = np.asarray(scene.resize((of.width, of.height), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(large + np.tile(noise, (of.enlarged, of.enlarged, 1)), 0, 255).astype(np.uint8)
        data = _encode(noisy, "JPEG", of.quality, of.orientation)
        if (label := judge.label(data)) is not None:
            photos.append(Picture(data, label))
    return photos


def _encode(picture: np.ndarray | Image.Image, form: str = "PNG", quality: int = 75, orientation: int = 1) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=quality, exif=exif)
    return buffer.getvalue()
