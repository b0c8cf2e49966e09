"""Drawn digits, and drawn figures that are none, as the service would hand them to a network.

Letters, signs, polygons, scribbles and grids teach a detector what lies beside the digits. Digits drawn with the same
pens teach it that the pen is not what matters. Every length is drawn at random from the seed; no font is used. Knows no
data set and no network.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from serving.images.digits import light_on_dark

# How a hand draws letters: strokes of points xy on a grid from 0 to 8, y down. ~ marks a smooth curve. Letters that may
# be read as digits (B I O S Z, and l q of the small ones) are left out.
LETTERS: dict[str, str] = {
    "A": "08 40 88|25 65",
    "C": "~72 40 12 04 16 48 77",
    "D": "00 08|~00 51 84 57 08",
    "E": "80 00 08 88|04 64",
    "F": "80 00 08|04 64",
    "G": "~71 40 12 04 16 48 77|77 74 44",
    "H": "00 08|80 88|04 84",
    "J": "20 80|~50 54 47 28 06",
    "K": "00 08|80 04 88",
    "L": "00 08 88",
    "M": "08 00 45 80 88",
    "N": "08 00 88 80",
    "P": "08 00|~00 60 82 64 04",
    "Q": "~40 12 04 16 48 76 84 72 40|55 88",
    "R": "08 00|~00 60 82 64 04|34 88",
    "T": "00 80|40 48",
    "U": "~00 05 28 68 85 80",
    "V": "00 48 80",
    "W": "00 28 42 68 80",
    "X": "00 88|80 08",
    "Y": "00 44 80|44 48",
    "a": "~73 33 05 28 65 73|73 78 88",
    "e": "~05 85 72 40 12 05 28 77",
    "f": "~80 60 43 48|14 74",
    "h": "00 08|~04 43 74 78",
    "k": "00 08|63 05 78",
    "m": "03 08|~04 23 45 48|~45 63 85 88",
    "n": "03 08|~05 33 74 78",
    "r": "03 08|~05 33 73",
    "t": "40 47 78|13 73",
    "u": "~03 06 38 75|73 78",
    "w": "03 28 44 68 83",
}
SIGNS: dict[str, str] = {
    "+": "40 48|04 84",
    "=": "02 82|06 86",
    "?": "~12 30 71 64 45 46|48 48",
    "!": "40 45|48 48",
    "*": "40 48|12 76|16 72",
    "#": "20 28|60 68|02 82|06 86",
    "%": "80 08|~11 20 31 22 11|~57 66 77 68 57",
    "&": "~88 22 40 61 14 08 48 84",
    "(": "~60 22 26 68",
    ">": "00 84 08",
    "-": "04 84",
    "^": "08 40 88",
}
# Ways to write each digit.
DIGITS: tuple[tuple[str, ...], ...] = (
    ("~40 10 04 18 48 78 84 70 40", "~50 11 05 38 68 84 72 50", "~40 20 14 28 48 68 74 60 40"),
    ("40 48", "22 40 48", "13 40 48|18 78", "50 38", "~12 31 40|40 48"),
    ("~02 20 60 72 44 08|08 88", "~11 40 72 55 17 06 37 88", "~02 30 80 73 08|08 88"),
    ("~11 40 72 43|~43 75 58 07", "00 70 43|~43 75 58 07", "~01 40 82 53 33|~33 64 86 48 07"),
    ("60 05 85|60 68", "10 14 74|60 58", "50 05 85|64 58", "68 60 05 85"),
    ("80 10 13|~13 53 76 58 07", "10 04|~04 43 75 58 07|10 80", "80 10 04|~04 53 86 48 07"),
    ("~70 32 05 28 68 75 54 14", "~60 23 06 38 76 54 15", "~72 40 12 05 28 68 86 64 34 06"),
    ("00 80 38", "00 80 38|24 64", "02 00 80 48", "~00 40 80|~80 54 38"),
    ("~40 12 44 76 48 16 44 72 40", "~71 40 11 44 76 48 16 44 71", "~40 12 44 72 40|~44 06 48 86 44"),
    (
        "~73 54 14 02 30 71 73 58",
        "~72 40 12 44 72|72 68",
        "~83 50 12 35 74 83|~83 75 48 18",
        "~82 50 01 25 64 82|82 86|~86 48 07",
    ),
)
_SHEET = 96  # pixels of a sheet's side, at least


def digits(count: int, side: int, seed: int) -> np.ndarray:
    """(count, side, side, 1) uint8, light on black, placed as the service places a figure; as many of each digit."""
    return _drawn(count, side, seed, lambda k, rng: _written(DIGITS[k % 10][rng.integers(len(DIGITS[k % 10]))], rng))


def no_digits(count: int, side: int, seed: int) -> np.ndarray:
    """As `digits`, but half of them are letters, and the rest signs, polygons, scribbles and grids."""

    def figure(k: int, rng: np.random.Generator) -> list[np.ndarray]:
        return (_letter, _letter, _letter, _letter, _sign, _polygon, _scribble, _grid)[rng.integers(8)](rng)

    return _drawn(count, side, seed, figure)


def _drawn(
    count: int, side: int, seed: int, figure: Callable[[int, np.random.Generator], list[np.ndarray]]
) -> np.ndarray:
    """Pens are 0.03 to 0.22 of the height wide. A drawing in which the service finds no figure, or several, is drawn
    anew: no network ever sees it."""
    rng = np.random.default_rng(seed)
    images: list[np.ndarray] = []
    while len(images) < count:
        sheet = _sheet(figure(len(images), rng), rng)
        found = light_on_dark(sheet, (side, side, 1), Image.Resampling.BILINEAR)
        if found.unsure is None:
            images.append(found.grey)
    return np.stack(images)[..., None]


def _written(way: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The strokes of one figure, each (points, 2) in a square from 0 to 1, a little other each time."""
    strokes = []
    for stroke in way.split("|"):
        points = np.array([[int(place[0]), int(place[1])] for place in stroke.lstrip("~").split()]) / 8
        points = points + rng.normal(0, 0.02, points.shape)
        strokes.append(_smooth(points) if stroke.startswith("~") else points)
    return strokes


def _letter(rng: np.random.Generator) -> list[np.ndarray]:
    return _written(list(LETTERS.values())[rng.integers(len(LETTERS))], rng)


def _sign(rng: np.random.Generator) -> list[np.ndarray]:
    return _written(list(SIGNS.values())[rng.integers(len(SIGNS))], rng)


def _polygon(rng: np.random.Generator) -> list[np.ndarray]:
    """A closed one of 3 to 10 corners whose radii vary, every second one shorter in a star; half have a line inside."""
    corners = int(rng.integers(3, 11))
    radius = np.where(np.arange(corners) % 2, rng.uniform(0.3, 1), 1) * rng.uniform(0.85, 1.15, corners)
    angle = 2 * np.pi * (np.arange(corners) / corners + rng.random())
    points = 0.5 + 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    strokes = [np.concatenate([points, points[:1]])]
    return [*strokes, rng.random((2, 2))] if rng.random() < 0.5 else strokes


def _scribble(rng: np.random.Generator) -> list[np.ndarray]:
    """A line through 5 to 12 points of the square, smooth or with corners."""
    points = rng.random((int(rng.integers(5, 13)), 2))
    return [_smooth(points) if rng.random() < 0.6 else points]


def _grid(rng: np.random.Generator) -> list[np.ndarray]:
    """Crossing lines: 1 to 3 in one direction and 1 to 3 in another, or as many from one point."""
    if rng.random() < 0.4:
        angles = 2 * np.pi * np.sort(rng.random(int(rng.integers(3, 8))))
        return [0.5 + 0.5 * np.array([[0, 0], [np.cos(angle), np.sin(angle)]]) for angle in angles]
    across, down = (np.sort(rng.random(int(rng.integers(1, 4)))) for _ in range(2))
    lines = [np.array([[0, at], [1, at]]) for at in across] + [np.array([[at, 0], [at, 1]]) for at in down]
    return [line + rng.normal(0, 0.03, line.shape) for line in lines]


def _smooth(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom spline through the points (Catmull & Rom 1974), six steps between two."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, 6, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        cubic = (3 * b - a - 3 * c + d) * t**3 + (2 * a - 5 * b + 4 * c - d) * t**2 + (c - a) * t + 2 * b
        pieces.append(cubic / 2)
    return np.concatenate([*pieces, points[-1:]])


def _sheet(strokes: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The strokes with one pen on an even sheet, stretched, slanted and turned: (h, w) uint8."""
    height, width = rng.uniform(60, 140), rng.uniform(0.5, 1.1)
    slant, turn, pen = rng.normal(0, 0.15), rng.normal(0, 0.1), height * rng.uniform(0.03, 0.22)
    stretch = np.array([[width, 0], [slant, 1]]) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    )
    lines = [(stroke - 0.5) @ stretch * height for stroke in strokes]
    low, high = (f([f(line, axis=0) for line in lines], axis=0) for f in (np.min, np.max))
    low, high = low - 2 * pen - 8, high + 2 * pen + 8
    scale = 2  # drawn large, so that the pen's edge is smooth
    size = np.maximum(np.ceil(high - low), _SHEET).astype(int) * scale
    image = Image.new("L", (int(size[0]), int(size[1])))
    draw = ImageDraw.Draw(image)
    radius = pen * scale / 2
    for line in lines:
        at = [(float(x), float(y)) for x, y in (line - low) * scale]
        draw.line(at, fill=255, width=max(1, round(pen * scale)), joint="curve")
        for x, y in (at[0], at[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    ink = np.asarray(image.reduce(scale), np.float32) / 255
    return (250 - ink * rng.uniform(150, 250)).astype(np.uint8)
