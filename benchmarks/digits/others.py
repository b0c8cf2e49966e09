"""Pictures that are no digit: letters and signs of fonts, shapes and smileys.

All are held out from training: what teaches a detector is drawn with other fonts and strokes of its own
(`training/recipes/glyphs.py`, `strokes.py`), and no smiley is. Knows no models.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.digits import papers
from benchmarks.digits.kinds import HANDWRITING, PRINTED, fonts_in

WANTED = 0.85  # the share that should be unsure
LETTERS = "ACDEFGHJKLMNPQRTUVWXY"  # without those that may be read as digits: B I O S Z
SIGNS = "+=?!"
Drawer = Callable[[np.random.Generator], np.ndarray]


def drawers(fonts: Path | None) -> dict[str, Drawer]:
    """Each kind's name and what draws one picture (H, W) uint8 of it; without FONTS no letters and signs."""
    printed, handwritten = (fonts_in(fonts, packages) if fonts else [] for packages in (PRINTED, HANDWRITING))

    def text(characters: str, files: list[Path]) -> Drawer:
        def drawn(rng: np.random.Generator) -> np.ndarray:
            character = characters[rng.integers(len(characters))]
            return papers.clean(_printed(character, files[rng.integers(len(files))], int(rng.integers(40, 300))), rng)

        return drawn

    characters = {
        "letters, printed": (LETTERS, printed),
        "letters, handwriting fonts": (LETTERS, handwritten),
        "signs + = ? !": (SIGNS, printed + handwritten),
    }
    return {name: text(*source) for name, source in characters.items() if source[1]} | {
        "shapes": lambda rng: papers.clean(_shape(rng), rng),
        "smileys": lambda rng: papers.clean(_smiley(rng), rng),
    }


def pictures(drawer: Drawer, count: int, seed: int) -> Iterator[np.ndarray]:
    """`count` pictures; the same seed gives the same."""
    return (drawer(np.random.default_rng([seed, i])) for i in range(count))


def _printed(character: str, font: Path, height: int) -> np.ndarray:
    drawn = ImageFont.truetype(str(font), max(8, round(height * 1.35)))
    left, top, right, bottom = drawn.getbbox(character)
    image = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), character, fill=255, font=drawn)
    return _cut(image)


def _shape(rng: np.random.Generator) -> np.ndarray:
    """A triangle, square, star, heart, arrow, house, diamond, spiral, wave or crossed lines, drawn with a pen."""
    t = np.linspace(0, 1, 60)
    outlines = (
        [(0.5, 0), (1, 1), (0, 1), (0.5, 0)],
        [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)],
        [
            (0.5 + (0.5, 0.2)[k % 2] * np.sin(np.pi * k / 5), 0.5 - (0.5, 0.2)[k % 2] * np.cos(np.pi * k / 5))
            for k in range(11)
        ],
        [
            (
                0.5 + 0.5 * np.sin(a) ** 3,
                0.45 - (13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)) / 32,
            )
            for a in 2 * np.pi * t
        ],
        [(0, 0.5), (1, 0.5), (0.65, 0.2), (1, 0.5), (0.65, 0.8)],
        [(0, 1), (0, 0.45), (0.5, 0), (1, 0.45), (0, 0.45), (1, 0.45), (1, 1), (0, 1)],
        [(0.5, 0), (0.9, 0.5), (0.5, 1), (0.1, 0.5), (0.5, 0)],
        [(0.5 + 0.5 * a * np.cos(16 * a), 0.5 + 0.5 * a * np.sin(16 * a)) for a in t],
        [(a, 0.5 + 0.25 * np.sin(15 * a)) for a in t],
        [(0, 0), (1, 1), (0.5, 0.5), (1, 0), (0, 1)],
    )
    outline = outlines[rng.integers(len(outlines))]
    return _drawn([np.array(outline)], rng)


def _smiley(rng: np.random.Generator) -> np.ndarray:
    """A face: a circle, two eyes and a mouth that smiles or not."""
    angles = np.linspace(0, 2 * np.pi, 60)
    face = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], 1)
    x = np.linspace(0.28, 0.72, 20)
    bend = rng.uniform(-0.15, 0.25)
    mouth = np.stack([x, 0.7 + bend * (1 - ((x - 0.5) / 0.22) ** 2)], 1)
    eyes = [np.array([[at, 0.33], [at, 0.33 + rng.uniform(0.01, 0.1)]]) for at in (0.33, 0.67)]
    return _drawn([face, mouth, *eyes], rng, (0.03, 0.08))


def _drawn(strokes: list[np.ndarray], rng: np.random.Generator, pen: tuple[float, float] = (0.04, 0.14)) -> np.ndarray:
    """Strokes in a square from 0 to 1 as ink, (h, w) float32."""
    height, scale = int(rng.integers(60, 300)), 2
    width, stretch, angle = rng.uniform(*pen) * height, rng.uniform(0.75, 1.25), rng.normal(0, 0.12)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    lines = [(stroke - 0.5) * [stretch, 1] @ turned * height for stroke in strokes]
    low = np.min([line.min(axis=0) for line in lines], axis=0) - width
    high = np.max([line.max(axis=0) for line in lines], axis=0) + width
    size = np.ceil((high - low) * scale).astype(int)
    image = Image.new("L", (int(size[0]), int(size[1])))
    draw, radius = ImageDraw.Draw(image), width * scale / 2
    for line in lines:
        at = [(float(x), float(y)) for x, y in (line - low) * scale]
        draw.line(at, fill=255, width=max(1, round(width * scale)), joint="curve")
        for x, y in (at[0], at[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return _cut(image.reduce(scale))


def _cut(image: Image.Image) -> np.ndarray:
    box = image.getbbox()
    return np.asarray(image.crop(box) if box else image, np.float32) / 255
