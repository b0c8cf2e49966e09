"""A grey picture of writing -> the one figure in it, cut out, light on black, or why there is none to rely on.

The figure is told from ruled lines, frames, specks, shadows and desk in a small copy, by size, place and shape. Knows
neither files nor models.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from serving.images.budget import Budget
from serving.images.ground import border_level, dark_ink, even_ground, light_ink
from serving.images.lines import may_be_ruled, ruled_lines
from serving.images.parts import Box, Parts, connected, without_frame

_COPY_PIXELS = 128  # the longer side of the copy in which the figure is looked for
_NEAR_PIXELS = 40  # a figure that is smaller than this in the copy is looked at again from nearer
_SMALLEST = 0.05  # a part shorter than this fraction of the picture is no figure
_SEVERAL = 0.55  # another part as high as this fraction of the figure, and beside it, is a figure of its own
_LIKELY = 0.5  # what looks so much like strokes is not looked for in the other colour too
_DOUBT = 0.1  # light writing must look so much more like strokes than dark writing
_TURNS = (-0.16, -0.08, 0.0, 0.08, 0.16)  # slopes that a sheet on a desk may have
_RECTANGLE = 0.9  # of a sheet's box is filled; of an ellipse's 0.79
_PALE = 0.4  # of the mask's threshold: less ink is none
_FAINT = 0.09  # share of the light; writing takes away more
_FILLED = 0.5  # of its box: what is light and fills more may be a sheet
_SMALL = 0.01  # of the picture: what comes in from the edge and is smaller is no desk
_REACHING = 0.2  # of a figure's outline may be the picture's edge, whatever its ink
_CUT_OFF = 0.38  # of the outline: more is cut off of a desk or a shadow only
_PIXELS_A_RUN = 8  # of the copy, that cost about as much as a run of ink
_NOISE = 32  # grey levels of a cut figure: fainter edges of its box are left away
_NOISY = 4.5  # writing is as many standard deviations of the paper's noise away


def find_figure(
    picture: np.ndarray, budget: Budget | None = None, even: bool = True, nearer: bool = True
) -> tuple[Image.Image | None, str | None]:
    """The figure of a (h, w) uint8 picture of any size, cut out, light on black; and why it should not be relied on.

    Raises TakesLong where that is more work than `budget` holds. Without `even`, the ground is that of a photo; without
    `nearer`, a figure that is small in the picture is not looked at again.
    """
    factor = -(-max(picture.shape) // _COPY_PIXELS)
    grey = np.asarray(Image.fromarray(picture).reduce(factor)) if factor > 1 else picture
    drawn = _drawn(grey, budget) if even else None
    ink, chosen = drawn or _chosen(grey, budget)
    if ink is None or chosen is None:
        return None, "no_figure"
    parts = ink.parts
    left, top, right, bottom = parts.box(chosen)
    unsure = "several_figures" if _several(parts, chosen) else None
    longer = max(right - left, bottom - top)
    if nearer and factor > 1 and longer < _NEAR_PIXELS:
        margin = max(4, longer // 2)
        y, x = (max(0, n - margin) * factor for n in (top, left))
        near = picture[y : (bottom + margin) * factor, x : (right + margin) * factor]
        closer, reason = find_figure(near, budget, even=drawn is not None, nearer=False)
        if closer is not None:
            return closer, unsure or reason  # from near, the edge cuts the figure beside it
    height, width = grey.shape
    box = (max(0, left - 1), max(0, top - 1), min(width, right + 1), min(height, bottom + 1))
    mask = parts.mask(chosen, box)
    kept = _grown(mask)
    if ink.erased is not None:
        kept = mask | (kept & ~_grown(ink.erased[box[1] : box[3], box[0] : box[2]]))  # nor what is pale beside a line
    faint = _PALE * ink.threshold
    soft = np.clip((ink.share(box) - faint) * (255 / (ink.level - faint)), 0, 255)
    cut = (soft * kept).astype(np.uint8)
    bright = cut >= _NOISE
    rows, columns = np.flatnonzero(np.logical_or.reduce(bright, 1)), np.flatnonzero(np.logical_or.reduce(bright))
    if not len(rows):
        return None, "no_figure"
    return Image.fromarray(cut[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]), unsure


class _Ink(NamedTuple):
    """Writing of one polarity: how much ink each pixel holds, by its own value or by a `table` of grey levels; the
    `level` of full ink, the mask's `threshold`, what was `erased` as lines, and the parts."""

    values: np.ndarray
    table: np.ndarray | None
    level: float
    threshold: float
    erased: np.ndarray | None
    parts: Parts

    def share(self, box: Box | None = None) -> np.ndarray:
        """(h, w) float32, at most about 1: the share of ink of each pixel in `box`, or of all."""
        left, top, right, bottom = box or (0, 0, self.values.shape[1], self.values.shape[0])
        values = self.values[top:bottom, left:right]
        return values if self.table is None else self.table[values]


def _drawn(grey: np.ndarray, budget: Budget | None) -> tuple[_Ink, np.ndarray] | None:
    """The writing of a picture on even ground and the parts of its figure; None where it may be something else."""
    even = even_ground(grey)
    if even is None or even.strongest < _FAINT:
        return None
    level, threshold = even.strongest, 0.35 * even.strongest
    mask = _beyond(grey, even.light, even.share, threshold)
    faint = _PALE * threshold
    erased = None
    if may_be_ruled(_beyond(grey, even.light, even.share, faint)):
        erased = ruled_lines(even.share[grey], faint, budget)
        mask &= ~erased
    ink = _Ink(grey, even.share, level, threshold, erased, connected(mask, budget))
    parts = ink.parts
    for part in np.flatnonzero(parts.at_edge & (parts.area > _SMALL * grey.size)).tolist():
        if _comes_in(ink, part):
            return None  # a desk, a shadow
    ink, chosen = _figure(ink, budget)
    if chosen is None:
        return None
    parts, largest = ink.parts, int(chosen[0])
    left, top, right, bottom = parts.box(chosen[:1])
    filled = parts.area[largest] > _FILLED * (right - left) * (bottom - top)
    if even.light and filled and np.count_nonzero(parts.runs.part == largest) > bottom - top:
        return None  # a sheet on a desk, with what is written on it: more than a run in some rows
    return ink, chosen


def _comes_in(ink: _Ink, part: int) -> bool:
    """Whether a part goes on behind the picture's edge, and is no figure that reaches it: more of its outline is cut
    off there, or some is and most of it is paler than ink, as a shadow with a figure in it."""
    height, width = ink.parts.shape
    chosen = np.array([part])
    left, top, right, bottom = box = ink.parts.box(chosen)
    mask = np.pad(ink.parts.mask(chosen, box), 1)
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    area = int(ink.parts.area[part])
    sides = (
        (left == 0, mask[1:-1, 1]),
        (top == 0, mask[1, 1:-1]),
        (right == width, mask[1:-1, -2]),
        (bottom == height, mask[-2, 1:-1]),
    )
    cut = sum(int(np.count_nonzero(side)) for at_edge, side in sides if at_edge)
    cut_off = cut / (area - int(np.count_nonzero(inner)))
    if cut_off < _REACHING or cut_off > _CUT_OFF:
        return cut_off > _CUT_OFF
    return bool(np.count_nonzero(ink.share(box)[mask[1:-1, 1:-1]] < 0.7 * ink.level) > area / 2)


def _beyond(grey: np.ndarray, light: bool, share: np.ndarray, threshold: float) -> np.ndarray:
    """Where there is more ink than `threshold`; `share` has it for each grey level, in order."""
    levels = np.flatnonzero(share > threshold)
    return grey >= levels[0] if light else grey <= levels[-1]


def _chosen(grey: np.ndarray, budget: Budget | None) -> tuple[_Ink | None, np.ndarray | None]:
    """Dark writing on light ground or light writing on dark: whichever it is, and the parts of its figure."""
    if budget is not None:
        budget.take(grey.size // _PIXELS_A_RUN)
    dark, dark_parts = _written_in(dark_ink(grey), budget)
    likely = _likeness(grey, dark, dark_parts, -1) if dark and dark_parts is not None else 0.0
    if likely >= _LIKELY and border_level(grey) > 127:
        return dark, dark_parts
    light, light_parts = _written_in(light_ink(grey), budget)
    if dark is None or dark_parts is None or light is None or light_parts is None:
        return (light, light_parts) if dark_parts is None else (dark, dark_parts)
    if _on_sheet(grey, (light.parts, light_parts), (dark.parts, dark_parts)):
        return dark, dark_parts
    clearly_light = _likeness(grey, light, light_parts, 1) > likely + _DOUBT
    return (light, light_parts) if clearly_light else (dark, dark_parts)


def _written_in(share: np.ndarray, budget: Budget | None) -> tuple[_Ink | None, np.ndarray | None]:
    ink = _writing(share, budget)
    return _figure(ink, budget) if ink else (None, None)


def _likeness(grey: np.ndarray, ink: _Ink, chosen: np.ndarray, sign: int) -> float:
    """How much parts look like strokes, at most 1; `sign` is 1 for light ink.

    The gaps between strokes look like strokes of the other colour, but are wide for their length, or have ends at which
    the grey does not change, or there is ground of the same grey.
    """
    left, top, right, bottom = box = ink.parts.box(chosen)
    mask = np.pad(ink.parts.mask(chosen, box), 3)
    levels = np.pad(grey, 3, mode="edge")[top : bottom + 6, left : right + 6].astype(np.int16) * sign
    steps = []
    for m, g in ((mask, levels), (mask[::-1], levels[::-1]), (mask.T, levels.T), (mask.T[::-1], levels.T[::-1])):
        steps.append((g[:-3] - g[3:])[m[:-3] & ~m[1:-2]])
    edges = np.concatenate(steps)
    if not edges.size:
        return 0.0
    most = int(np.partition(edges, -(edges.size // 10) - 1)[-(edges.size // 10) - 1])
    sharp = float((edges > 0.35 * most).mean())
    width = 2.5 * float(mask.sum()) / edges.size  # of a stroke: its area by half its outline, counted in steps
    inside = sign * float(np.median(levels[mask]))
    ground = grey[ink.share() < 0.5 * ink.threshold]
    near = max(12.0, 0.25 * abs(inside - float(np.median(ground)))) if ground.size else 0.0
    same = np.count_nonzero(ground >= inside - near if sign > 0 else ground <= inside + near)
    alone = same < 0.5 * np.count_nonzero(mask)
    also_ground = 0.6 if sign > 0 else 0.3  # a desk or a shadow may be as dark as ink
    return sharp - 1.5 * width / max(right - left, bottom - top) - (0.0 if alone else also_ground)


def _on_sheet(grey: np.ndarray, light: tuple[Parts, np.ndarray], dark: tuple[Parts, np.ndarray]) -> bool:
    """Whether what is light is a sheet of paper around dark writing: a rectangle, a little turned, without its inside.

    A light 0 around a dark hole is no rectangle.
    """
    (left, top, right, bottom), inner = (parts.box(chosen) for parts, chosen in (light, dark))
    if inner[0] <= left or inner[1] <= top or inner[2] >= right or inner[3] >= bottom:
        return False
    between = sum(float(np.median(grey[parts.mask(chosen)])) for parts, chosen in (light, dark)) / 2
    paper = grey[top:bottom, left:right] > between
    rows = np.flatnonzero(paper.mean(axis=1) > 0.1)
    if not rows.size:
        return False
    first = paper[rows].argmax(axis=1)
    last = paper.shape[1] - paper[rows, ::-1].argmax(axis=1)
    x, y = np.concatenate([first, last]), np.concatenate([rows, rows])
    area, smallest = float((last - first).sum()), np.inf
    for slope in _TURNS:  # the box of the outline, turned
        along, across = x + slope * y, y - slope * x
        sides = (along.max() - along.min()) * (across.max() - across.min() + 1)
        smallest = min(smallest, sides / (1 + slope * slope))
    return area > _RECTANGLE * smallest


def _writing(share: np.ndarray, budget: Budget | None) -> _Ink | None:
    """The parts of what stands out of the paper's noise; None where nothing does."""
    some = share[::2, ::2] if share.size > 4000 else share
    ground = float(np.median(some))
    share = share - ground
    noise = 1.4826 * float(np.median(np.abs(some - ground)))
    if noise > 0.02:
        smooth = _blurred(share)
        share, noise = smooth, noise / 2.5
    count = min(share.size, max(6, share.size // 300))
    level = float(np.partition(share, -count, axis=None)[-count])
    level = max(level, 0.6 * float(share.max()))
    if level < _FAINT or level < _NOISY * noise:
        return None
    threshold = max(0.35 * level, min(0.6 * level, 3.5 * noise))
    lines = ruled_lines(share, max(_PALE * threshold, 3 * noise), budget)
    return _Ink(share, None, level, threshold, lines, connected((share > threshold) & ~lines, budget))


def _blurred(share: np.ndarray) -> np.ndarray:
    """The mean of 3x3 pixels."""
    padded = np.pad(share, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean: np.ndarray = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return mean


def _figure(ink: _Ink, budget: Budget | None) -> tuple[_Ink, np.ndarray | None]:
    """The numbers of the parts that make up the figure, None where there is none; and the ink without a frame."""
    for _ in range(2):
        parts = ink.parts
        longer = parts.longer
        if not len(longer) or longer.max() < _SMALLEST * min(parts.shape):
            return ink, None
        framed = int(longer.argmax())
        left, top, right, bottom = box = parts.box(np.array([framed]))
        frame = parts.mask(np.array([framed]), box)
        inner = without_frame(frame)
        if inner is None:
            break
        mask = parts.mask(np.flatnonzero(np.arange(len(parts)) != framed))
        mask[top:bottom, left:right] |= inner
        inside = connected(mask, budget)
        if not len(inside) or inside.longer.max() < 0.25 * longer[framed]:
            break
        erased = np.zeros(parts.shape, bool) if ink.erased is None else ink.erased.copy()
        erased[top:bottom, left:right] |= frame & ~inner
        ink = ink._replace(parts=inside, erased=erased)
    parts = ink.parts
    if len(parts) == 1:
        return ink, np.zeros(1, int)
    longer = parts.longer
    weight = longer * np.sqrt(parts.area) * np.where(parts.at_edge, 0.4, 1.0)
    largest = int(np.where(longer >= _SMALLEST * min(parts.shape), weight, 0).argmax())
    if longer[largest] < _SMALLEST * min(parts.shape):
        return ink, None
    if parts.area[largest] < 0.25 * parts.area.sum() and len(parts) > 40:
        return ink, None  # nothing but noise
    near = ~parts.slight(largest) & (parts.gap(largest) <= 0.2 * longer[largest]) & ~_beside(parts, largest)
    near |= parts.dotted(largest)
    near[largest] = False
    return ink, np.concatenate([[largest], np.flatnonzero(near)])


def _beside(parts: Parts, one: int) -> np.ndarray:
    """Whether each part is as high as a figure and stands next to `one`."""
    high = np.minimum(parts.height, parts.height[one])
    return (parts.across(one) > -2) & (high >= _SEVERAL * np.maximum(parts.height, parts.height[one]))


def _several(parts: Parts, chosen: np.ndarray) -> bool:
    if len(chosen) == len(parts):
        return False
    figures = _beside(parts, int(chosen[0])) & (parts.area >= 0.25 * parts.area[chosen[0]])
    figures[chosen] = False
    return bool(figures.any())


def _grown(mask: np.ndarray) -> np.ndarray:
    """With one pixel more on each side, for what is paler than ink."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    wide = grown.copy()
    wide[:, 1:] |= grown[:, :-1]
    wide[:, :-1] |= grown[:, 1:]
    return wide
