"""Ink on what people write on, in the light they have: (h, w) float32 ink -> (H, W) uint8 grey, as a camera sees it.

Each paper is a function of the ink and a random generator. Knows neither digits nor models.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Paper: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def placed(ink: np.ndarray, rng: np.random.Generator, share: tuple[float, float] = (0.35, 0.8)) -> np.ndarray:
    """The ink somewhere on a sheet, of whose shorter side its longer one takes `share`."""
    longer = max(ink.shape)
    side = longer / rng.uniform(*share)
    height, width = int(side * rng.uniform(1, 1.3)), int(side * rng.uniform(1, 1.3))
    sheet = np.zeros((max(height, ink.shape[0] + 2), max(width, ink.shape[1] + 2)), np.float32)
    margin = 0.06 * side
    room = np.maximum(np.array(sheet.shape) - ink.shape - 2 * margin, 0)
    y, x = (np.minimum(margin, (np.array(sheet.shape) - ink.shape) / 2) + rng.random(2) * room).astype(int)
    sheet[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    return sheet


def lit(ink: np.ndarray, light: np.ndarray | float, pen: float) -> np.ndarray:
    """`light` is the grey of white paper, `pen` the share of it that ink reflects."""
    return light * (1 - ink * (1 - pen))


def grey(levels: np.ndarray) -> np.ndarray:
    return np.clip(levels + 0.5, 0, 255).astype(np.uint8)


def clean(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pen of any colour on plain paper, or light on dark, anywhere on the sheet."""
    return _on_plain(placed(ink, rng), rng)


def small(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A figure that takes little of its sheet."""
    return grey(lit(placed(ink, rng, (0.1, 0.25)), rng.uniform(225, 255), rng.uniform(0, 0.4)))


def cropped(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out closely, its edges touching the picture's."""
    edges = rng.integers(0, 4, 4)
    return grey(lit(np.pad(ink, ((edges[0], edges[1]), (edges[2], edges[3]))), 250, rng.uniform(0, 0.3)))


def filling(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A figure that fills its square picture: its longer side takes 88 to 100 % of it."""
    ink = _wide(ink, rng)
    side = max(round(max(ink.shape) / rng.uniform(0.88, 1)), *ink.shape)
    room = side - np.array(ink.shape)
    y, x = (rng.random(2) * (room + 1)).astype(int)
    sheet = np.zeros((side, side), np.float32)
    sheet[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    return _on_plain(sheet, rng)


def reaching(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A figure that reaches one or two edges of its square picture, which cut off up to 3 % of it."""
    ink = _wide(ink, rng)
    side = round(max(ink.shape) / rng.uniform(0.75, 1))
    away = rng.integers(0, 3, 2)  # the figure stands at the one edge, at the other, or between them
    if (away == 1).all():
        away[rng.integers(2)] = rng.choice((0, 2))
    cut = -(rng.random(2) * 0.03 * max(ink.shape)).astype(int)
    room = side - np.array(ink.shape)
    free = (rng.random(2) * np.maximum(room + 1, 1)).astype(int)
    y, x = (int((cut[i], free[i], room[i] - cut[i])[away[i]]) for i in (0, 1))
    sheet = np.zeros((3 * side, 3 * side), np.float32)
    sheet[side + y : side + y + ink.shape[0], side + x : side + x + ink.shape[1]] = ink
    return _on_plain(sheet[side : 2 * side, side : 2 * side], rng)


def _wide(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any figure but a 1 as wide as people write who want to fill a square."""
    height, width = ink.shape
    wanted = round(height * rng.uniform(0.7, 1))
    if width < 0.4 * height or wanted <= width:
        return ink
    return np.asarray(Image.fromarray(ink).resize((wanted, height), Image.Resampling.BICUBIC)).clip(0, 1)


def _on_plain(sheet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.25:
        dark, light = rng.uniform(0, 60), rng.uniform(170, 255)
        return grey(dark + sheet * (light - dark))
    return grey(lit(sheet, rng.uniform(215, 255), rng.uniform(0, 0.5)))


def shifted(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """28x28, light on dark, up to four pixels away from where MNIST would put it."""
    scale = 20 / max(ink.shape)
    size = (max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale)))
    little = Image.fromarray(grey(ink * 255)).resize(size, Image.Resampling.BICUBIC)
    frame = Image.new("L", (28, 28))
    away = [(-4, 4)[bit] for bit in rng.integers(0, 2, 2)]
    frame.paste(little, tuple(min(max(0, (28 - n) // 2 + d), 28 - n) for n, d in zip(size, away, strict=True)))
    return np.asarray(frame)


def _lines(shape: tuple[int, ...], rng: np.random.Generator, step: float, width: float, both: bool) -> np.ndarray:
    """Ink of parallel lines that are a little turned."""
    angle = rng.uniform(-0.02, 0.02)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    ink = np.zeros(shape, np.float32)
    for along, across in ((x, y), (-y, x))[: 2 if both else 1]:
        place = across + angle * along + rng.uniform(0, step)
        distance = np.abs((place + step / 2) % step - step / 2)
        ink = np.maximum(ink, np.clip(width / 2 + 0.5 - distance, 0, 1))
    return ink


def ruled(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sheet = placed(ink, rng, (0.4, 0.7))
    step = max(ink.shape) * rng.uniform(0.45, 1.1)
    lines = _lines(sheet.shape, rng, step, rng.uniform(1, 2.5), False) * rng.uniform(0.25, 0.6)
    return grey(lit(np.maximum(sheet, lines), rng.uniform(230, 255), rng.uniform(0, 0.3)))


def squared(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sheet = placed(ink, rng, (0.4, 0.7))
    step = max(ink.shape) * rng.uniform(0.25, 0.6)
    lines = _lines(sheet.shape, rng, step, rng.uniform(1, 2.0), True) * rng.uniform(0.2, 0.5)
    return grey(lit(np.maximum(sheet, lines), rng.uniform(230, 255), rng.uniform(0, 0.3)))


def boxed(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In a form's box, near its sides, now and then touching one."""
    sheet = placed(ink, rng, (0.45, 0.75))
    ys, xs = np.nonzero(sheet > 0.5)
    gaps = max(ink.shape) * rng.uniform(-0.01, 0.22, 4)
    box = (xs.min() - gaps[0], ys.min() - gaps[1], xs.max() + gaps[2], ys.max() + gaps[3])
    frame = Image.new("L", (sheet.shape[1], sheet.shape[0]))
    ImageDraw.Draw(frame).rectangle(box, outline=255, width=int(rng.integers(1, 5)))
    drawn = np.asarray(frame, np.float32) / 255 * rng.uniform(0.6, 1)
    return grey(lit(np.maximum(sheet, drawn), 250, rng.uniform(0, 0.3)))


def specked(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Six specks of dirt anywhere."""
    sheet = Image.fromarray(grey(placed(ink, rng) * 255))
    draw = ImageDraw.Draw(sheet)
    for _ in range(6):
        x, y = rng.uniform(0, sheet.width), rng.uniform(0, sheet.height)
        radius = max(ink.shape) * rng.uniform(0.008, 0.035)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(150, 256)))
    return grey(lit(np.asarray(sheet, np.float32) / 255, 250, 0.1))


def _shade(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(h, w) in about [-1, 1]: the distance to a line through the sheet, as a share of its size."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    place = (x / shape[1] - rng.uniform(0.3, 0.7)) * np.cos(angle) + (y / shape[0] - rng.uniform(0.3, 0.7)) * np.sin(
        angle
    )
    shade: np.ndarray = place
    return shade


def shadowed(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light that falls to 45 % from one side to the other."""
    sheet = placed(ink, rng)
    shade = _shade(sheet.shape, rng)
    shade = (shade - shade.min()) / (shade.max() - shade.min())
    return grey(lit(sheet, 245 * (0.45 + 0.55 * shade), rng.uniform(0.05, 0.35)))


def hard_shadow(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The edge of a shadow through the sheet."""
    sheet = placed(ink, rng)
    edge = np.clip(_shade(sheet.shape, rng) * max(sheet.shape) / rng.uniform(2, 8) + 0.5, 0, 1)
    depth = rng.uniform(0.45, 0.65)
    return grey(lit(sheet, 245 * (depth + (1 - depth) * edge), rng.uniform(0.05, 0.3)))


def desk(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sheet that lies a little turned on a dark desk."""
    sheet = placed(ink, rng, (0.4, 0.7))
    height, width = sheet.shape
    paper = Image.fromarray(grey(lit(sheet, rng.uniform(220, 250), rng.uniform(0.05, 0.3))))
    edge = int(max(height, width) * rng.uniform(0.06, 0.25))
    table = rng.uniform(20, 90)
    turned = paper.convert("LA").rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
    whole = Image.new("L", (turned.width + 2 * edge, turned.height + 2 * edge), int(table))
    whole.paste(turned.getchannel("L"), (edge, edge), turned.getchannel("A"))
    grain = rng.normal(0, 3, (whole.height, whole.width))
    return grey(np.asarray(whole, np.float32) + grain)


def photo(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By a phone: dark corners, uneven light, a little out of focus, noise."""
    sheet = placed(ink, rng, (0.3, 0.65))
    height, width = sheet.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) / 0.5
    shade = _shade(sheet.shape, rng)
    light = rng.uniform(150, 215) * (1 - rng.uniform(0.4, 0.75) * radius) * (1 + rng.uniform(0, 0.3) * shade)
    levels = lit(sheet, light, rng.uniform(0.15, 0.45)) + rng.normal(0, rng.uniform(2, 7), sheet.shape)
    blurred = Image.fromarray(grey(levels)).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    return np.asarray(blurred)


def noisy(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of 25 grey levels."""
    sheet = placed(ink, rng)
    return grey(lit(sheet, 225, rng.uniform(0.05, 0.4)) + rng.normal(0, 25, sheet.shape))


# Without a figure


def blank(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sheet that nobody has written on, now and then in uneven light; the ink is not used."""
    shape = tuple(int(n) for n in rng.integers(28, 600, 2))
    light = np.full(shape, rng.uniform(0, 255), np.float32)
    if rng.random() < 0.5:
        light *= 0.7 + 0.3 * np.clip(_shade(shape, rng) + 0.5, 0, 1)
    return grey(light + rng.normal(0, rng.uniform(0, 4), shape))


def noise(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nothing but noise; the ink is not used."""
    shape = tuple(int(n) for n in rng.integers(28, 400, 2))
    return grey(rng.normal(128, rng.uniform(10, 80), shape))
