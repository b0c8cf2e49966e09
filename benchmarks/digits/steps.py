"""The steps from a picture of writing to MNIST's figure -> pictures of what `serving/images` computes in each of them.

Every figure is drawn by `ink.strokes`, none comes from a data set. Knows no models, nor how the pictures are laid out.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.digits import ink
from benchmarks.digits.papers import grey, lit
from serving.images import digits, figure, ground, lines

SIDE = 120  # pixels of a picture: below those of the copy in which a figure is looked for, so nothing is scaled
RED, BLUE, PALE = (214, 48, 40), (40, 90, 214), (150, 165, 205)  # what goes, what is pointed at, what is pale


class Panel(NamedTuple):
    """`picture` (h, w) uint8 or (h, w, 3) uint8, and what it is, in a line or two."""

    caption: str
    picture: np.ndarray


# Pictures to begin with


def _digit(digit: int, height: float = 70, width: float = 8, seed: int = 3) -> np.ndarray:
    return ink.strokes(digit, np.random.default_rng(seed), round(height), width)


def _bold(digit: int, height: int, width: int) -> np.ndarray:
    """With a pen that is wide for its curves."""
    thin = np.pad(_digit(digit, height - width, 7), width // 2)
    wide = Image.fromarray(grey(255 * thin)).filter(ImageFilter.MaxFilter(width // 2 * 2 - 5))
    return np.asarray(wide, np.float32) / 255


def _on(*placed: tuple[np.ndarray, int, int], side: int = SIDE) -> np.ndarray:
    """(side, side) float32: each ink with its left and top; what would lie outside is cut off."""
    sheet = np.zeros((3 * side, 3 * side), np.float32)
    for drawn, left, top in placed:
        part = sheet[side + top : side + top + drawn.shape[0], side + left : side + left + drawn.shape[1]]
        np.maximum(part, drawn, out=part)
    return sheet[side : 2 * side, side : 2 * side]


def _middle(drawn: np.ndarray, side: int = SIDE) -> np.ndarray:
    return _on((drawn, (side - drawn.shape[1]) // 2, (side - drawn.shape[0]) // 2), side=side)


def _pen(sheet: np.ndarray, light: np.ndarray | float = 245, pen: float = 0.15) -> np.ndarray:
    return grey(lit(sheet, light, pen))


def _light() -> np.ndarray:
    """(SIDE, SIDE) the light of a photo: brighter at the left, and the edge of a shadow."""
    x = np.arange(SIDE, dtype=np.float32)
    return np.tile(np.where(x < 66, 235 - 0.2 * x, 130 - 0.2 * x), (SIDE, 1))


# What a step shows


def _black(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0, 255).astype(np.uint8)


def _levels(share: np.ndarray) -> np.ndarray:
    return grey(255 * (1 - np.clip(share, 0, 1)))


def _coloured(picture: np.ndarray, *layers: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    result = np.stack([picture] * 3, axis=-1)
    for mask, colour in layers:
        result[mask] = colour
    return result


def _ink(picture: np.ndarray) -> figure._Ink:
    drawn = figure._writing(ground.dark_ink(picture), None)
    assert drawn is not None
    return drawn


def _chosen(picture: np.ndarray) -> np.ndarray:
    """The parts of the figure black, the others red."""
    drawn, chosen = figure._figure(_ink(picture), None)
    assert chosen is not None
    mask, every = drawn.parts.mask(chosen), drawn.parts.mask(np.arange(len(drawn.parts)))
    return _coloured(_black(mask), (every & ~mask, RED))


def _answer(picture: np.ndarray) -> str:
    _, unsure = figure.find_figure(picture)
    return "one figure" if unsure is None else unsure


def even_ground() -> list[Panel]:
    drawing = _pen(_middle(_digit(5)))
    even = ground.even_ground(drawing)
    assert even is not None
    panels = [
        Panel("a drawing", drawing),
        Panel("its ink", _black(figure._beyond(drawing, even.light, even.share, 0.35 * even.strongest))),
    ]
    for width in (22, 48):
        bold = _pen(_middle(_bold(0, 118, width)))
        paper = np.count_nonzero(bold > 245 - ground._SAME) / bold.size
        kind = "even ground" if ground.even_ground(bold) else "to step 3"
        panels.append(Panel(f"{paper:.0%} is ground:\n{kind}", bold))
    pencil = _pen(_middle(_digit(5)), pen=0.93)
    pale = ground.even_ground(pencil)
    strongest = 0.0 if pale is None else pale.strongest
    kind = "ink" if strongest >= figure._FAINT else "no ink"
    return [*panels, Panel(f"{strongest:.2f} of the light:\n{kind}", pencil)]


def from_the_edge() -> list[Panel]:
    seven, five = _digit(7, 90, 12), _digit(5, 60)
    desk, thumb = np.zeros((2, SIDE, SIDE), np.float32)
    desk[:, :22] = 1
    y, x = np.mgrid[:SIDE, :SIDE]
    thumb[(x < 11) & (y > SIDE - 11)] = 1
    board = 45 + 190 * _middle(np.ones((86, 86), np.float32))
    sheet = grey(board * (1 - 0.8 * _middle(_digit(5, 50))))
    pictures = {
        "cut by the edge": _pen(_on((seven, -9, 14))),
        "a strip of desk": _pen(np.maximum(_on((five, 50, 30)), desk), pen=0.25),
        "a small corner": _pen(np.maximum(_on((five, 40, 30)), thumb), pen=0.25),
        "a light sheet": sheet,
        "chalk": grey(40 + 200 * _middle(_digit(3, 84, 9))),
    }
    return [
        Panel(f"{name}:\n{'a drawing' if figure._drawn(picture, None) else 'to step 3'}", picture)
        for name, picture in pictures.items()
    ]


def paper_and_light() -> list[Panel]:
    photo = _pen(_middle(_digit(4)), _light())
    cut = _pen(_on((_digit(7, 90, 12), -9, 14)), _light())
    margin = 40
    behind = ground._continued(cut, margin, np.maximum, np.minimum)
    frame = np.zeros(behind.shape, bool)
    frame[margin - 1 : -margin + 1, margin - 1 : -margin + 1] = True
    frame[margin:-margin, margin:-margin] = False
    return [
        Panel("a photo", photo),
        Panel("its ground: what is\nwider than a stroke", ground._closed(photo, np.maximum, np.minimum)),
        Panel("the share of light\nthat is missing", _levels(ground.dark_ink(photo))),
        Panel("cut by the edge", cut),
        Panel("behind the edge the\nground goes on", _coloured(behind, (frame, RED))),
    ]


def mask_of_ink() -> list[Panel]:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 14, (SIDE, SIDE))
    photo = grey(lit(_middle(_digit(2)), 200, 0.3) + noise)
    drawn = _ink(photo)
    inside = drawn.share() > drawn.threshold
    pale = (drawn.share() > figure._PALE * drawn.threshold) & figure._grown(inside) & ~inside
    blank = grey(200 + noise)
    kind = "no ink" if figure._writing(ground.dark_ink(blank), None) is None else "ink"
    near = slice(28, 88)
    return [
        Panel("a noisy photo", photo),
        Panel("the share of ink", _levels(drawn.share() / drawn.level)),
        Panel("ink, and its pale rim,\nfrom nearer", _coloured(_black(inside), (pale, PALE))[near, near]),
        Panel(f"noise alone: {kind}", blank),
    ]


def dark_or_light() -> list[Panel]:
    panels = []
    for digit, dark in ((0, True), (6, False)):
        drawn = _middle(_digit(digit, 80, 9))
        picture = _pen(drawn, _light()) if dark else grey(0.15 * _light() + 150 * drawn)
        layers, scores = [], []
        for share, sign, colour in ((ground.dark_ink, -1, BLUE), (ground.light_ink, 1, RED)):
            writing, chosen = figure._written_in(share(picture), None)
            if writing is not None and chosen is not None:
                layers.append((writing.parts.mask(chosen), colour))
                likeness = figure._likeness(picture, writing, chosen, sign)
                scores.append(f"{'light' if sign > 0 else 'dark'} {likeness:.2f}")
        panels.append(Panel("dark or light?", picture))
        panels.append(Panel("like strokes:\n" + ", ".join(scores), _coloured(picture, *layers)))
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    plate = (x / 52) ** 2 + (y / 44) ** 2 < 1
    turned = (np.abs(x + 0.1 * y) < 46) & (np.abs(y - 0.1 * x) < 40)
    for name, shape in (("turned", turned), ("round", plate)):
        picture = grey((60 + 170 * shape) * (1 - 0.8 * _middle(_digit(3, 45, 6))) + np.where(x > 0, 12, 0))
        (light, a), (dark, b) = (figure._written_in(f(picture), None) for f in (ground.light_ink, ground.dark_ink))
        sheet = light is not None and a is not None and dark is not None and b is not None
        sheet = sheet and figure._on_sheet(picture, (light.parts, a), (dark.parts, b))
        panels.append(Panel(f"{name}:\n{'a sheet' if sheet else 'no sheet'}", picture))
    return panels


def ruled_lines() -> list[Panel]:
    sheet = _middle(_digit(9, 84, 8))
    for row in range(12, SIDE, 27):
        slope = np.round(row + 3 * (np.arange(SIDE) / SIDE - 0.5)).astype(int)
        sheet[slope, np.arange(SIDE)] = np.maximum(sheet[slope, np.arange(SIDE)], 0.45)
    picture = _pen(sheet, _light())
    drawn = _ink(picture)
    faint = drawn.share() > figure._PALE * drawn.threshold
    bounds = np.zeros(faint.shape, bool)
    bounds[:, lines._pieces(SIDE)[1:-1]] = True
    assert drawn.erased is not None
    return [
        Panel("ruled paper", picture),
        Panel(f"ink, in {lines._BLOCKS} pieces", _coloured(_black(faint), (bounds & ~faint, PALE))),
        Panel("lines across all", _coloured(_black(faint), (drawn.erased & faint, RED))),
        Panel("what is left", _black(drawn.parts.mask(np.arange(len(drawn.parts))))),
    ]


def frame() -> list[Panel]:
    panels = []
    for name, missing in (("a form's box", 0), ("a side half missing", 50)):
        box = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(box).rectangle((18, 14, 101, 105), outline=255, width=2)
        if missing:
            ImageDraw.Draw(box).rectangle((90, 30, 110, 30 + missing), fill=0)
        picture = _pen(np.maximum(_middle(_digit(2, 56, 7)), np.asarray(box, np.float32) / 255), _light())
        before = _ink(picture)
        after, chosen = figure._figure(before, None)
        every = before.parts.mask(np.arange(len(before.parts)))
        assert chosen is not None
        kept = after.parts.mask(chosen)
        gone = every & ~kept
        caption = "a frame: it goes" if gone.any() else "no frame: it stays"
        panels += [Panel(name, picture), Panel(caption, _coloured(_black(kept), (gone, RED)))]
    return panels


def specks() -> list[Panel]:
    dots = Image.new("L", (SIDE, SIDE))
    for x, y, radius in ((20, 24, 3), (98, 30, 2), (96, 96, 4), (24, 92, 2)):
        ImageDraw.Draw(dots).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    specked = _pen(np.maximum(_middle(_digit(6)), np.asarray(dots, np.float32) / 255), _light())
    cut = _pen(_on((_digit(6), 34, 24), (_digit(3), -30, 20)), _light())
    comma = _pen(_on((np.ones((5, 3), np.float32), 56, 60)))
    return [
        Panel("specks", specked),
        Panel("the figure, and\nwhat goes", _chosen(specked)),
        Panel("cut by the edge", cut),
        Panel("the figure, and\nwhat goes", _chosen(cut)),
        Panel(f"a comma:\n{_answer(comma)}", comma),
    ]


def near_parts() -> list[Panel]:
    bar = np.ones((7, 30), np.float32)
    pair = _on((_digit(3, 70), 8, 24), (_digit(8, 70), 66, 24))
    smaller = _on((_digit(8, 70), 14, 24), (_digit(3, 34, 5), 76, 60))
    joined = _pen(_on((_digit(3, 56, 7), 40, 42), (bar, 52, 25)), _light())
    stem, dot = np.ones((60, 10), np.float32), np.ones((10, 10), np.float32)
    dotted = _pen(_on((stem, 54, 14), (dot, 54, 88), (dot[:4, :4], 57, 106), (dot, 86, 60)), _light())
    return [
        Panel("a bar apart", joined),
        Panel("near enough:\none figure", _chosen(joined)),
        Panel("its dot stays,\nand dirt goes", _chosen(dotted)),
        Panel(f"as high, beside:\n{_answer(_pen(pair))}", _pen(pair)),
        Panel(f"half as high:\n{_answer(_pen(smaller))}", _pen(smaller)),
    ]


def closer_look() -> list[Panel]:
    drawn = _digit(5, 66, 7)
    picture = _pen(_on((drawn, 150, 240), side=600), pen=0.2)
    factor = -(-600 // figure._COPY_PIXELS)
    copy = np.asarray(Image.fromarray(picture).reduce(factor))
    longer = max(drawn.shape)
    left, top = 150 - longer // 2, 240 - longer // 2
    near = picture[top : top + 2 * longer, left : left + 2 * longer]
    cut, _ = figure.find_figure(picture)
    assert cut is not None
    return [
        Panel("600 pixels", picture),
        Panel(f"in the copy {longer / factor:.0f} pixels:\nlooked at from nearer", copy),
        Panel("from nearer", near),
        Panel("cut out", np.asarray(cut)),
    ]


def cut_out() -> list[Panel]:
    sharp = Image.fromarray(_pen(_middle(_digit(5, 44, 6)), _light()))
    picture = np.asarray(sharp.filter(ImageFilter.GaussianBlur(1.6)))
    drawn, chosen = figure._figure(_ink(picture), None)
    assert chosen is not None
    faint = figure._PALE * drawn.threshold
    soft = np.clip((drawn.share() - faint) * (255 / (drawn.level - faint)), 0, 255)
    kept = (soft * figure._grown(drawn.parts.mask(chosen))).astype(np.uint8)
    cut, _ = figure.find_figure(picture)
    assert cut is not None
    near, few = slice(30, 90), (kept > 0) & (kept < figure._NOISE)
    return [
        Panel("a soft stroke", picture[near, near]),
        Panel("from pale to full ink", kept[near, near]),
        Panel("too faint to widen\nthe figure's box", _coloured(kept, (few, RED))[near, near]),
        Panel("cut out", np.asarray(cut)),
    ]


def as_mnist() -> list[Panel]:
    thin = Image.fromarray(grey(255 * _digit(4, 100, 3)))
    thick = digits.thickened(thin)
    assert thick is not None
    placed = digits.light_on_dark(_pen(_middle(_digit(4, 100, 3))), (28, 28, 1), Image.Resampling.BILINEAR)
    y, x = np.mgrid[:50, :44]
    blot = _black(((x - 22) / 22) ** 2 + ((y - 25) / 25) ** 2 > 1)
    kind = "no figure" if digits.thickened(Image.fromarray(blot)) is None else "a figure"
    return [
        Panel("a thin pen, cut out", np.asarray(thin)),
        Panel("as thick as MNIST's", np.asarray(thick)),
        Panel("20 of 28 pixels, by\nits centre of mass", placed.grey),
        Panel(f"a blot: {kind}", blot),
    ]
