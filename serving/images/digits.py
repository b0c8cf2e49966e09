"""Writing on whatever paper and in whatever light -> the grey picture of one figure that MNIST's networks know.

The figure that was found is placed as MNIST places its own, with strokes of MNIST's width. Knows arrays, no files and
no models.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from serving.images.budget import Budget
from serving.images.figure import find_figure
from serving.images.ground import border_level
from serving.images.parts import connected

FIGURE = 20 / 28  # MNIST's figures fit a 20x20 box inside 28x28, centred by their mass (LeCun et al. 1998, III.A)
_MIN_CONTRAST = 24  # grey levels between figure and background; below it there is no figure to centre
_INK = 0.25  # fraction of the contrast from which on a pixel belongs to the figure's box


class Figure(NamedTuple):
    """`grey` (H, W) uint8 as MNIST was made; `unsure` says why no answer about it should be relied on."""

    grey: np.ndarray
    unsure: str | None


def light_on_dark(
    grey: np.ndarray, shape: tuple[int, int, int], resample: Image.Resampling, budget: Budget | None = None
) -> Figure:
    """A (h, w) uint8 picture of writing -> (H, W) uint8 as MNIST was made.

    The figure is cut out, light on black, scaled to 20/28 of the frame, and placed with its centre of mass in the
    middle (LeCun et al. 1998, section III.A). A picture of the model's size whose figure already stands so is returned
    as it is, whatever file and mode it came in. Raises TakesLong where that is more work than `budget` holds.
    """
    size = shape[:2]
    if grey.shape == size and (standing := _standing(grey)) is not None:
        return Figure(standing, None)
    figure, unsure = (cut_by_edge(grey), None) if grey.shape == size else (None, None)
    if figure is None:
        figure, unsure = find_figure(grey, budget)
    if figure is None or (cut := thickened(figure)) is None:
        return Figure(np.zeros(size, np.uint8), unsure or "no_figure")
    scale = FIGURE * min(size) / max(cut.size)
    small = np.asarray(cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), resample))
    # After the resize, which makes thin strokes pale: MNIST's are as bright as a pen's on paper is dark.
    small = _BRIGHTER[max(1, int(small.max()))][small]
    x, y = _centre_of_mass(small)
    height, width = small.shape
    left = min(max(round(size[1] / 2 - x), 0), size[1] - width)
    top = min(max(round(size[0] / 2 - y), 0), size[0] - height)
    canvas = np.zeros(size, np.uint8)
    canvas[top : top + height, left : left + width] = small
    return Figure(canvas, unsure)


# What each level becomes where the first index is the brightest: that becomes 255.
_BRIGHTER = np.minimum(255, np.arange(256) * (255 / np.maximum(1, np.arange(256)))[:, None]).astype(np.uint8)


def cut_by_edge(grey: np.ndarray) -> Image.Image | None:
    """The figure of a picture of the model's size on an even ground whose ink reaches the edge; None of any other.

    There the light beside the ink, from which `find_figure` tells the ground, is not in the picture.
    """
    figure = _on_black(grey)
    contrast = int(figure.max())
    mask = figure > contrast * _INK
    ring = np.concatenate([figure[0], figure[-1], figure[:, 0], figure[:, -1]])
    if contrast < _MIN_CONTRAST or ring.max() <= contrast * _INK or np.count_nonzero(ring > 8) > len(ring) // 2:
        return None
    parts = connected(mask)
    largest = int(np.lexsort((parts.area, parts.longer))[-1])
    slight = parts.slight(largest)
    slight[largest] = False
    if slight.any():
        gone = parts.mask(np.flatnonzero(slight))
        gone[:, :-1] |= gone[:, 1:].copy()  # and the paler pixel before it
        figure[gone] = 0
    return Image.fromarray(figure).crop(_bounding_box(figure > contrast * _INK))


def _on_black(grey: np.ndarray) -> np.ndarray:
    """What stands out of the ground, light on black."""
    ground = border_level(grey)
    if ground > 127:
        grey, ground = 255 - grey, 255 - ground
    return np.maximum(grey, np.uint8(ground)) - np.uint8(ground)


def thickened(cut: Image.Image) -> Image.Image | None:
    """A figure, light on black, that fills its frame: drawn with a thin pen, its strokes get MNIST's width.

    None where it has no strokes: a dot, a blot.
    """
    scale = _STROKE_PIXELS / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    small = cut.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    pixels = np.asarray(small)
    ink = np.zeros((size[1] + 2, size[0] + 2), bool)
    ink[1:-1, 1:-1] = pixels > pixels.max() * _INK
    inner = ink[1:-1, 1:-1] & ink[:-2, 1:-1] & ink[2:, 1:-1] & ink[1:-1, :-2] & ink[1:-1, 2:]
    area = int(np.count_nonzero(ink))
    edge = area - int(np.count_nonzero(inner))
    width = 2 * area / max(edge, 1)  # of a stroke in pixels; 2 where every pixel is an edge
    if width > _BLOT * _STROKE_PIXELS:
        return None
    if width > _THIN * _STROKE_PIXELS:
        return cut
    stretched = Image.fromarray(_BRIGHTER[max(1, int(pixels.max()))][pixels])
    margin = Image.new("L", (small.width + 6, small.height + 6))
    margin.paste(stretched, (3, 3))
    return margin.filter(ImageFilter.MaxFilter(5 if scale > 1 else 7))


_STROKE_PIXELS = 60  # the longer side of the copy in which strokes are measured
_THIN = 0.05  # of a figure's longer side: MNIST's strokes are twice that and more
_BLOT = 0.37  # of a longer side: a disc has 0.5, a dot of few pixels 0.38, a bar three times as long as wide 0.25


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre_of_mass(figure: np.ndarray) -> tuple[float, float]:
    """(x, y) in pixels, a pixel's centre at .5."""
    weight = figure.astype(np.float64)
    total = weight.sum()
    x = (weight.sum(axis=0) * (np.arange(figure.shape[1]) + 0.5)).sum() / total
    y = (weight.sum(axis=1) * (np.arange(figure.shape[0]) + 0.5)).sum() / total
    return float(x), float(y)


def _standing(grey: np.ndarray) -> np.ndarray | None:
    """The picture, light on dark, if its figure stands as MNIST's; None otherwise."""
    if border_level(grey) > 127:
        grey = 255 - grey
    figure = _on_black(grey)
    contrast = int(figure.max())
    boxes = (_bounding_box(figure > level) for level in (0, contrast * _INK))  # with what is faint at the edges or not
    if contrast >= _MIN_CONTRAST and any(stands_as_mnist(figure, box, contrast) for box in boxes):
        return grey
    return None


_SMALLEST = 8  # pixels of a side; of a smaller picture such a figure may take so much that its ground is not black


def stands_as_mnist(figure: np.ndarray, box: tuple[int, int, int, int] | None, contrast: int) -> bool:
    """Whether the longer side and the centre of mass of a figure, light on black, are within two pixels and one and a
    half of where MNIST puts them.

    `box` (left, top, right, bottom) holds it, None if there is none: most of the picture's edge is black then.
    """
    height, width = figure.shape[:2]
    if box is None or contrast < _MIN_CONTRAST or min(height, width) < _SMALLEST:
        return False
    left, top, right, bottom = box
    if abs(max(right - left, bottom - top) - FIGURE * min(height, width)) > 2:
        return False
    mass, x, y = figure.ravel().astype(np.float32).dot(_moments(height, width)).tolist()
    return abs(x / mass - width / 2) <= 1.5 and abs(y / mass - height / 2) <= 1.5


@functools.cache
def _moments(height: int, width: int) -> np.ndarray:
    """(height * width, 3): what a pixel adds to the mass and to its centre's x and y."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([np.ones(height * width), x.ravel(), y.ravel()], axis=1).astype(np.float32)
