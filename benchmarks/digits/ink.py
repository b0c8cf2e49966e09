"""A digit as ink: (h, w) float32, 1 where a pen, a font or a writer of MNIST left ink, without margins.

Knows neither papers nor lights, and no model. Every figure follows from the random generator that is passed.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

# How a hand draws each digit: ways, each a list of strokes, each a list of points (x to the right, y down, in a unit
# square) that a smooth curve passes through. A repeated point makes a corner.
STROKES: tuple[tuple[tuple[tuple[Point, ...], ...], ...], ...] = (
    (((((0.5, 0.0), (0.12, 0.2), (0.05, 0.55), (0.25, 0.95), (0.6, 0.98), (0.88, 0.7), (0.85, 0.25), (0.5, 0.0))),),),
    (
        (((0.5, 0.0), (0.5, 0.5), (0.5, 1.0)),),
        (((0.62, 0.0), (0.5, 0.5), (0.4, 1.0)),),
        (((0.2, 0.28), (0.4, 0.15), (0.55, 0.0), (0.55, 0.0), (0.55, 0.5), (0.55, 1.0)),),
    ),
    (
        (((0.1, 0.25), (0.3, 0.03), (0.7, 0.03), (0.82, 0.28), (0.5, 0.62), (0.08, 0.98), (0.08, 0.98), (0.9, 0.97)),),
        (((0.12, 0.2), (0.4, 0.0), (0.78, 0.18), (0.62, 0.55), (0.2, 0.92), (0.12, 0.82), (0.4, 0.85), (0.95, 0.98)),),
    ),
    (
        (
            (
                (0.12, 0.12),
                (0.45, 0.0),
                (0.8, 0.18),
                (0.65, 0.42),
                (0.38, 0.47),
                (0.38, 0.47),
                (0.75, 0.55),
                (0.85, 0.8),
                (0.5, 1.0),
                (0.1, 0.88),
            ),
        ),
        (((0.1, 0.03), (0.8, 0.03), (0.8, 0.03), (0.45, 0.4), (0.45, 0.4), (0.82, 0.58), (0.7, 0.95), (0.1, 0.92)),),
    ),
    (
        (((0.62, 0.0), (0.05, 0.65), (0.05, 0.65), (0.95, 0.65)), ((0.68, 0.35), (0.66, 1.0))),
        (((0.12, 0.02), (0.1, 0.5), (0.1, 0.5), (0.85, 0.5)), ((0.8, 0.02), (0.74, 1.0))),
        (((0.65, 1.0), (0.65, 0.0), (0.65, 0.0), (0.05, 0.68), (0.05, 0.68), (0.95, 0.68)),),
    ),
    (
        (
            (
                (0.85, 0.02),
                (0.25, 0.03),
                (0.25, 0.03),
                (0.18, 0.42),
                (0.18, 0.42),
                (0.6, 0.38),
                (0.85, 0.68),
                (0.6, 0.98),
                (0.1, 0.9),
            ),
        ),
        (
            ((0.22, 0.03), (0.15, 0.45), (0.15, 0.45), (0.65, 0.4), (0.85, 0.7), (0.55, 1.0), (0.08, 0.9)),
            ((0.22, 0.03), (0.85, 0.02)),
        ),
    ),
    (
        (((0.72, 0.0), (0.3, 0.3), (0.1, 0.7), (0.3, 0.98), (0.7, 0.95), (0.82, 0.7), (0.55, 0.52), (0.15, 0.7)),),
        (((0.55, 0.0), (0.18, 0.45), (0.15, 0.8), (0.45, 1.0), (0.78, 0.8), (0.6, 0.58), (0.2, 0.72)),),
    ),
    (
        (((0.08, 0.04), (0.88, 0.03), (0.88, 0.03), (0.55, 0.5), (0.38, 1.0)),),
        (((0.08, 0.04), (0.88, 0.03), (0.88, 0.03), (0.55, 0.5), (0.4, 1.0)), ((0.28, 0.52), (0.8, 0.5))),
        (((0.1, 0.18), (0.12, 0.04), (0.12, 0.04), (0.85, 0.04), (0.85, 0.04), (0.6, 0.5), (0.48, 1.0)),),
    ),
    (
        (
            (
                (0.75, 0.12),
                (0.45, 0.0),
                (0.18, 0.2),
                (0.5, 0.47),
                (0.85, 0.75),
                (0.5, 1.0),
                (0.12, 0.78),
                (0.5, 0.48),
                (0.8, 0.22),
                (0.7, 0.08),
            ),
        ),
        (
            ((0.5, 0.0), (0.2, 0.22), (0.5, 0.45), (0.8, 0.22), (0.5, 0.0)),
            ((0.5, 0.45), (0.1, 0.72), (0.5, 1.0), (0.88, 0.72), (0.5, 0.45)),
        ),
    ),
    (
        (((0.8, 0.2), (0.45, 0.0), (0.15, 0.25), (0.4, 0.5), (0.75, 0.35), (0.8, 0.18), (0.8, 0.18), (0.72, 1.0)),),
        (((0.8, 0.22), (0.5, 0.0), (0.18, 0.22), (0.4, 0.48), (0.78, 0.3), (0.82, 0.15), (0.75, 0.6), (0.4, 1.0)),),
    ),
)


def strokes(digit: int, rng: np.random.Generator, height: int, width: float) -> np.ndarray:
    """A digit `height` pixels high, drawn with a round pen `width` pixels wide."""
    ways = STROKES[digit]
    way = ways[rng.integers(len(ways))]
    wide = rng.uniform(0.5, 0.85) * height
    slant, angle = rng.normal(0, 0.12), rng.normal(0, 0.07)
    scale = 3  # drawn large, so that the pen's edge is smooth
    lines = []
    for stroke in way:
        points = np.array(stroke) - 0.5
        corners = np.append([False], np.all(points[1:] == points[:-1], axis=1))
        moved = points + rng.normal(0, 0.02, points.shape)
        moved[corners] = moved[np.flatnonzero(corners) - 1]
        curve = _smooth(moved)
        x, y = curve[:, 0] * wide, curve[:, 1] * height
        x = x - slant * y
        lines.append(np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], 1))
    low = np.min([line.min(axis=0) for line in lines], axis=0) - width
    high = np.max([line.max(axis=0) for line in lines], axis=0) + width
    size = np.ceil((high - low) * scale).astype(int)
    image = Image.new("L", (int(size[0]), int(size[1])))
    draw = ImageDraw.Draw(image)
    for line in lines:
        at = [(float(x), float(y)) for x, y in (line - low) * scale]
        draw.line(at, fill=255, width=max(1, round(width * scale)), joint="curve")
        radius = width * scale / 2
        for x, y in (at[0], at[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return _cut(image.reduce(scale))


def _smooth(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom spline through the points (Catmull & Rom 1974), eight steps between two."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        cubic = (3 * b - a - 3 * c + d) * t**3 + (2 * a - 5 * b + 4 * c - d) * t**2 + (c - a) * t + 2 * b
        pieces.append(cubic / 2)
    return np.concatenate([*pieces, points[-1:]])


def printed(digit: int, font: Path, height: int) -> np.ndarray:
    """A digit of a font's file."""
    drawn = ImageFont.truetype(str(font), max(8, round(height * 1.35)))
    left, top, right, bottom = drawn.getbbox(str(digit))
    image = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), str(digit), fill=255, font=drawn)
    return _cut(image)


def enlarged(image: np.ndarray, height: int) -> np.ndarray:
    """A figure of MNIST, (28, 28) uint8, drawn large: its longer side gets `height` pixels, its edge stays soft."""
    ys, xs = np.nonzero(image > 20)
    cut = np.pad(image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], 2)
    scale = height / max(cut.shape)
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    large = np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    return np.clip((large - 0.5) * min(scale / 2, 4) + 0.5, 0, 1)


def _cut(image: Image.Image) -> np.ndarray:
    box = image.getbbox()
    return np.asarray(image.crop(box) if box else image, np.float32) / 255
