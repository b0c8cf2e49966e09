"""An artifact -> pictures to post, and the label ONNX Runtime gives on the same arrays.

The pictures are the artifact's golden inputs and seeded drawings, as PNG at the model's own size, and one large drawing
as JPEG; no data set is involved. Knows neither servers nor HTTP.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFilter

SMALL = 64  # pictures in rotation
LARGE = (3000, 2000)  # width, height
LEAD = 0.1  # of the top probability over the second: a provider in bf16 (tolerance 0.05) gives the same answer


@dataclass(frozen=True)
class Picture:
    """The bytes of an image file, and the label that a right answer has."""

    data: bytes
    label: str


@dataclass(frozen=True)
class Subject:
    """A model to be served: its artifact, at least 32 small pictures, and a large one if its convention is `plain`."""

    name: str
    artifact: Path
    small: list[Picture]
    large: Picture | None


def subject(models: Path, name: str) -> Subject:
    """The latest version of a model. Raises FileNotFoundError naming what there is."""
    versions = sorted((p for p in (models / name).glob("*/model.onnx") if p.parent.name.isdecimal()), key=_version)
    if not versions:
        there = ", ".join(sorted({p.parent.parent.name for p in models.glob("*/*/model.onnx")})) or "none"
        raise FileNotFoundError(f"{models / name}: no such model; there is {there}")
    artifact = versions[-1].parent
    card = json.loads((artifact / "card.json").read_bytes())
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    with np.load(artifact / "golden.npz") as golden:
        candidates = [*golden["image"]]
    generator = np.random.default_rng(0)
    small: list[Picture] = []
    while len(small) < SMALL:
        label = _label(session, card, candidates[0])
        if label is not None and (card["input_convention"] == "plain" or _stays_as_it_is(candidates[0])):
            small.append(Picture(_encode(candidates[0], "PNG"), label))
        candidates = candidates[1:] or [_drawing(card["input_shape"], generator)]
    large = next(_large(session, card)) if card["input_convention"] == "plain" else None
    return Subject(name, artifact, small, large)


def _version(onnx: Path) -> int:
    return int(onnx.parent.name)


def _label(session: onnxruntime.InferenceSession, card: dict[str, Any], array: np.ndarray) -> str | None:
    """What ONNX Runtime says; None if the two best are so close that rounding may decide."""
    (probabilities,) = session.run(["probabilities"], {"image": array[None]})[0]
    second, best = np.argsort(probabilities)[-2:]
    return card["labels"][best] if probabilities[best] - probabilities[second] > LEAD else None


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


def _large(session: onnxruntime.InferenceSession, card: dict[str, Any]) -> Iterator[Picture]:
    """Scenes with a little noise, as a camera would give, until the model is sure of one."""
    generator = np.random.default_rng(1)
    height, width, channels = card["input_shape"]
    filter_ = Image.Resampling[card.get("resample", "bilinear").upper()]
    while True:
        scene = np.asarray(_scene(*LARGE, generator).filter(ImageFilter.GaussianBlur(3)), np.int16)
        noisy = np.clip(scene + generator.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)
        data = _encode(noisy, "JPEG")
        image = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB").resize((width, height), filter_)
        label = _label(session, card, np.asarray(image).reshape(height, width, channels))
        if label is not None:
            yield Picture(data, label)


def _encode(array: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, form)
    return buffer.getvalue()
