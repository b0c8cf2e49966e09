"""A figure on a plain ground -> the grey picture that MNIST's networks know. Knows arrays, no files and no models."""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

FIGURE = 20 / 28  # MNIST's figures fit a 20x20 box inside 28x28, centred by their mass (LeCun et al. 1998, III.A)
_MIN_CONTRAST = 24  # grey levels between figure and background; below it there is no figure to centre
_INK = 0.25  # fraction of the contrast from which on a pixel belongs to the figure's box


class Figure(NamedTuple):
    """`grey` (H, W) uint8 as MNIST was made; whether there was a figure at all."""

    grey: np.ndarray
    found: bool


def light_on_dark(grey: np.ndarray, shape: tuple[int, int, int], resample: Image.Resampling) -> Figure:
    """A (h, w) uint8 figure on a plain ground -> (H, W) uint8 as MNIST was made.

    Dark-on-light pictures are inverted; specks and a frame around it are left out; the figure is cut out, scaled to
    20/28 of the frame, its contrast stretched, and placed with its centre of mass in the middle (LeCun et al. 1998,
    section III.A). A picture of the model's size whose figure already stands so is returned as it is, whatever file
    and mode it came in.
    """
    ground = _border_level(grey)
    if ground > 127:
        grey, ground = 255 - grey, 255 - ground
    size = shape[:2]
    figure = np.maximum(grey, np.uint8(ground)) - np.uint8(ground)
    contrast = int(figure.max())
    if contrast < _MIN_CONTRAST:
        frame = Image.fromarray(grey)
        small = frame if grey.shape == size else frame.resize((size[1], size[0]), resample)
        return Figure(np.asarray(small), False)
    if grey.shape == size and _stands_as_mnist(figure, _bounding_box(figure > contrast * _INK)):
        return Figure(grey, True)
    figure = without_clutter(figure)
    box = _bounding_box(figure > figure.max() * _INK)
    cut = thickened(Image.fromarray(figure).crop(box))
    scale = FIGURE * min(size) / max(cut.size)
    small = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), resample)
    # After the resize, which makes thin strokes pale: MNIST's are as bright as a pen's on paper is dark.
    brightest = max(1, int(np.asarray(small).max()))
    small = small.point([min(255, int(level * (255 / brightest))) for level in range(256)])
    x, y = _centre_of_mass(np.asarray(small))
    left = min(max(round(size[1] / 2 - x), 0), size[1] - small.width)
    top = min(max(round(size[0] / 2 - y), 0), size[0] - small.height)
    canvas = Image.new("L", (size[1], size[0]))
    canvas.paste(small, (left, top))
    return Figure(np.asarray(canvas), True)


def without_clutter(figure: np.ndarray) -> np.ndarray:
    """(h, w) uint8, light on black: without specks and without a frame around the figure, which are told by their size
    and shape in a small copy. What touches the figure stays."""
    factor = -(-max(figure.shape) // _COPY_PIXELS)
    small = np.asarray(Image.fromarray(figure).reduce(factor)) if factor > 1 else figure
    parts = connected(small > small.max() * _INK)
    figures = [part for part in parts if not _is_frame(part, parts)]
    largest = max(figures, key=lambda part: (part.longer, part.area))
    height, width = small.shape
    unwanted = [part for part in parts if part not in figures or part.longer < _SPECK * largest.longer]
    for part in figures:  # what the edge cuts off belongs to something else
        at_edge = part.left == 0 or part.top == 0 or part.right == width or part.bottom == height
        if at_edge and part is not largest and _SPECK * largest.longer <= part.longer < _CUT * largest.longer:
            unwanted.append(part)
    if not unwanted:
        return figure
    erased = figure.copy()
    for part in unwanted:
        for row, start, end in part.runs:  # with a border of one pixel of the copy, for what is paler than ink
            top, bottom = max(0, (row - 1) * factor), (row + 2) * factor
            erased[top:bottom, max(0, (start - 1) * factor) : (end + 1) * factor] = 0
    return erased if erased.max() >= _MIN_CONTRAST else figure


def thickened(cut: Image.Image) -> Image.Image:
    """A figure, light on black, that fills its frame: drawn with a thin pen, its strokes get MNIST's width."""
    longer = max(cut.size)
    if longer > _STROKE_PIXELS:
        scale = _STROKE_PIXELS / longer
        small = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.BOX)
    else:
        small = cut
    pixels = np.asarray(small)
    ink = np.pad(pixels > pixels.max() * _INK, 1)
    inner = ink[1:-1, 1:-1] & ink[:-2, 1:-1] & ink[2:, 1:-1] & ink[1:-1, :-2] & ink[1:-1, 2:]
    area, edge = int(ink.sum()), int(ink.sum()) - int(inner.sum())
    width = 2 * area / max(edge, 1)  # of a stroke in pixels; 2 where every pixel is an edge
    if longer <= _STROKE_PIXELS or width > _THIN * _STROKE_PIXELS:
        return cut
    stretched = small.point([min(255, int(level * (255 / max(1, int(pixels.max()))))) for level in range(256)])
    margin = Image.new("L", (small.width + 6, small.height + 6))
    margin.paste(stretched, (3, 3))
    return margin.filter(ImageFilter.MaxFilter(7))


_STROKE_PIXELS = 60  # the longer side of the copy in which strokes are measured
_THIN = 0.05  # of a figure's longer side: MNIST's strokes are twice that and more
_COPY_PIXELS = 128  # the longer side of the copy in which parts are told apart
_SPECK = 0.25  # a part shorter than this fraction of the figure is a speck
_CUT = 0.6  # a part at the edge shorter than this fraction of the figure is no part of it
_SIDE = 0.8  # fraction of each side of a frame that is drawn


class Part(NamedTuple):
    """Connected ink: its runs (row, first column, column behind the last), and its box."""

    runs: list[tuple[int, int, int]]
    left: int
    top: int
    right: int
    bottom: int

    @property
    def longer(self) -> int:
        return max(self.right - self.left, self.bottom - self.top)

    @property
    def area(self) -> int:
        return sum(end - start for _, start, end in self.runs)


def connected(ink: np.ndarray) -> list[Part]:
    """The 8-connected parts of a (h, w) bool mask, by runs and union-find (Rosenfeld and Pfaltz 1966)."""
    padded = np.zeros((ink.shape[0], ink.shape[1] + 2), np.int8)
    padded[:, 1:-1] = ink
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    parent = list(range(len(runs)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0  # the first run that may touch the one at hand from the row before
    for run, (row, start, end) in enumerate(runs):
        while above < run and (runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] < start)):
            above += 1
        other = above
        while other < run and runs[other][0] == row - 1 and runs[other][1] <= end:
            parent[root(run)] = root(other)
            other += 1
    grouped: dict[int, list[tuple[int, int, int]]] = {}
    for run, place in enumerate(runs):
        grouped.setdefault(root(run), []).append(place)
    return [
        Part(group, min(r[1] for r in group), group[0][0], max(r[2] for r in group), group[-1][0] + 1)
        for group in grouped.values()
    ]


def _is_frame(part: Part, parts: list[Part]) -> bool:
    """Whether it is drawn along all four sides of its box, and something else stands inside."""
    inside = [
        other
        for other in parts
        if other is not part
        and other.left > part.left
        and other.top > part.top
        and other.right < part.right
        and other.bottom < part.bottom
        and other.longer >= _SPECK * part.longer
    ]
    if not inside:
        return False
    height, width = part.bottom - part.top, part.right - part.left
    thickness = max(2, max(height, width) // 12)
    columns: tuple[set[int], set[int]] = (set(), set())  # of the upper and the lower side
    lines: tuple[set[int], set[int]] = (set(), set())  # of the left and the right side
    for row, start, end in part.runs:
        if row < part.top + thickness:
            columns[0].update(range(start, end))
        if row >= part.bottom - thickness:
            columns[1].update(range(start, end))
        if start < part.left + thickness:
            lines[0].add(row)
        if end > part.right - thickness:
            lines[1].add(row)
    drawn = [*(len(side) / width for side in columns), *(len(side) / height for side in lines)]
    return min(drawn) >= _SIDE


def _border_level(grey: np.ndarray) -> int:
    """The median of the outermost pixels."""
    ring = sorted(np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]]).tobytes())
    return (ring[(len(ring) - 1) // 2] + ring[len(ring) // 2]) // 2


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


def _stands_as_mnist(figure: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the figure's longer side and centre of mass are within two pixels and one of where MNIST puts them."""
    height, width = figure.shape
    longer = max(box[2] - box[0], box[3] - box[1])
    x, y = _centre_of_mass(figure)
    return abs(longer - FIGURE * min(height, width)) <= 2 and abs(x - width / 2) <= 1.5 and abs(y - height / 2) <= 1.5


def stands_as_mnist(raw: bytes, width: int) -> bool:
    """The same of the bytes of a grey picture on black, in a tenth of the time; False also where only the rest of this
    module can tell."""
    last = len(raw) - width
    height = last // width + 1
    ring = raw[:width] + raw[last:] + raw[width:last:width] + raw[2 * width - 1 : last : width]
    if 2 * ring.count(0) < len(ring) + 2:
        return False  # the ground, their median, is not black
    grey = np.frombuffer(raw, np.uint8)
    contrast = int(np.maximum.reduce(grey))
    if contrast < _MIN_CONTRAST:
        return False
    ink = raw.translate(_inked(contrast))
    across = len(np.bitwise_or.reduce(np.frombuffer(ink, np.uint8).reshape(height, width)).tobytes().strip(b"\0"))
    down = (len(ink.rstrip(b"\0")) - 1) // width - (len(ink) - len(ink.lstrip(b"\0"))) // width + 1
    if abs(max(across, down) - FIGURE * min(height, width)) > 2:
        return False
    mass, x, y = grey.astype(np.float32).dot(_moments(height, width)).tolist()
    return abs(x / mass - width / 2) <= 1.5 and abs(y / mass - height / 2) <= 1.5


@functools.cache
def _inked(contrast: int) -> bytes:
    """A table for bytes.translate: 1 for the levels that belong to a figure's box."""
    return bytes(level > contrast * _INK for level in range(256))


@functools.cache
def _moments(height: int, width: int) -> np.ndarray:
    """(height * width, 3): what a pixel adds to the mass and to its centre's x and y."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([np.ones(height * width), x.ravel(), y.ravel()], axis=1).astype(np.float32)
