"""A grey picture of writing -> the one figure in it, cut out, light on black, or why there is none to rely on.

The figure is told from ruled lines, frames, specks, shadows and desk in a small copy, by size, place and shape. Knows
neither files nor models.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from serving.images.ground import border_level, dark_ink, light_ink
from serving.images.parts import Part, connected, ruled_lines, without_frame

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
_NOISY = 4.5  # writing is as many standard deviations of the paper's noise away


def find_figure(image: Image.Image, nearer: bool = True) -> tuple[Image.Image | None, str | None]:
    """The figure of a grey picture of any size, cut out, light on black; and why it should not be relied on."""
    factor = -(-max(image.size) // _COPY_PIXELS)
    grey = np.asarray(image.reduce(factor) if factor > 1 else image)
    ink, parts = _chosen(grey)
    if parts is None or ink is None:
        return None, "no_figure"
    left, top, right, bottom = _box(parts)
    longer = max(right - left, bottom - top)
    if nearer and factor > 1 and longer < _NEAR_PIXELS:
        margin = max(4, longer // 2)
        box = (left - margin, top - margin, right + margin, bottom + margin)
        left, top, right, bottom = (max(0, min(n * factor, side)) for n, side in zip(box, image.size * 2, strict=True))
        closer, unsure = find_figure(image.crop((left, top, right, bottom)), nearer=False)
        if closer is not None:
            return closer, unsure
        left, top, right, bottom = _box(parts)
    mask = _mask(parts, ink.share.shape)
    kept = mask | (_grown(mask) & ~_grown(ink.erased))  # nor what is pale beside a line
    soft = np.clip((ink.share - _PALE * ink.threshold) * (255 / (ink.level - _PALE * ink.threshold)), 0, 255)
    cut = np.where(kept, soft, 0).astype(np.uint8)[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
    tight = Image.fromarray(cut).point([0] * 32 + list(range(32, 256))).getbbox()
    if tight is None:
        return None, "no_figure"
    others = [p for p in ink.parts if p not in parts]
    return Image.fromarray(cut).crop(tight), "several_figures" if _several(parts, others) else None


def _chosen(grey: np.ndarray) -> tuple["_Ink | None", list[Part] | None]:
    """Dark writing on light ground or light writing on dark: whichever it is, and the parts of its figure."""
    dark = _writing(dark_ink(grey))
    dark_parts = _figure(dark) if dark else None
    likely = _likeness(grey, dark, dark_parts, -1) if dark and dark_parts else 0.0
    if likely >= _LIKELY and border_level(grey) > 127:
        return dark, dark_parts
    light = _writing(light_ink(grey))
    light_parts = _figure(light) if light else None
    if dark_parts is None or light is None or light_parts is None:
        return (light, light_parts) if dark_parts is None else (dark, dark_parts)
    if _on_sheet(grey, light_parts, dark_parts):
        return dark, dark_parts
    clearly_light = _likeness(grey, light, light_parts, 1) > likely + _DOUBT
    return (light, light_parts) if clearly_light else (dark, dark_parts)


def _likeness(grey: np.ndarray, ink: "_Ink", parts: list[Part], sign: int) -> float:
    """How much parts look like strokes, at most 1; `sign` is 1 for light ink.

    The gaps between strokes look like strokes of the other colour, but are wide for their length, or have ends at which
    the grey does not change, or there is ground of the same grey.
    """
    left, top, right, bottom = _box(parts)
    mask = np.pad(_mask(parts, grey.shape)[top:bottom, left:right], 3)
    levels = np.pad(grey, 3, mode="edge")[top : bottom + 6, left : right + 6].astype(np.int16) * sign
    steps = []
    for m, g in ((mask, levels), (mask[::-1], levels[::-1]), (mask.T, levels.T), (mask.T[::-1], levels.T[::-1])):
        steps.append((g[:-3] - g[3:])[m[:-3] & ~m[1:-2]])
    found = np.concatenate(steps)
    if not found.size:
        return 0.0
    most = int(np.partition(found, -(found.size // 10) - 1)[-(found.size // 10) - 1])
    sharp = float((found > 0.35 * most).mean())
    width = 2.5 * float(mask.sum()) / found.size  # of a stroke: its area by half its outline, counted in steps
    inside = sign * float(np.median(levels[mask]))
    ground = grey[ink.share < 0.5 * ink.threshold]
    near = max(12.0, 0.25 * abs(inside - float(np.median(ground)))) if ground.size else 0.0
    same = np.count_nonzero(ground >= inside - near if sign > 0 else ground <= inside + near)
    alone = same < 0.5 * np.count_nonzero(mask)
    also_ground = 0.6 if sign > 0 else 0.3  # a desk or a shadow may be as dark as ink
    return sharp - 1.5 * width / max(right - left, bottom - top) - (0.0 if alone else also_ground)


def _on_sheet(grey: np.ndarray, light: list[Part], dark: list[Part]) -> bool:
    """Whether what is light is a sheet of paper around dark writing: a rectangle, a little turned, without its inside.

    A light 0 around a dark hole is no rectangle.
    """
    (left, top, right, bottom), inner = _box(light), _box(dark)
    if inner[0] <= left or inner[1] <= top or inner[2] >= right or inner[3] >= bottom:
        return False
    between = sum(float(np.median(grey[_mask(parts, grey.shape)])) for parts in (light, dark)) / 2
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


class _Ink(NamedTuple):
    """Writing of one polarity: the `share` of each pixel, the `level` of full ink, the mask's `threshold`, what was
    `erased` as lines, and the parts."""

    share: np.ndarray
    level: float
    threshold: float
    erased: np.ndarray
    parts: list[Part]


def _writing(share: np.ndarray) -> _Ink | None:
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
    lines = ruled_lines(share, max(_PALE * threshold, 3 * noise))
    return _Ink(share, level, threshold, lines, connected((share > threshold) & ~lines))


def _blurred(share: np.ndarray) -> np.ndarray:
    """The mean of 3x3 pixels."""
    padded = np.pad(share, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean: np.ndarray = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return mean


def _figure(ink: _Ink) -> list[Part] | None:
    """The parts that make up the figure; None where there is none."""
    shape, parts = ink.share.shape, ink.parts
    for _ in range(2):
        candidates = [part for part in parts if part.longer >= _SMALLEST * min(shape)]
        if not candidates:
            return None
        framed = max(candidates, key=lambda part: part.longer)
        inner = without_frame(framed, shape)
        if inner is None:
            break
        pieces = connected(inner)
        inside = [p for p in parts if p is not framed] + pieces
        if not inside or max(p.longer for p in inside) < 0.25 * framed.longer:
            break
        parts = inside
        ink.erased[_mask([framed], shape) & ~inner] = True
    total = sum(part.area for part in parts)

    def weight(part: Part) -> float:
        return part.longer * part.area**0.5 * (0.4 if part.at_edge(shape) else 1.0)

    largest = max(candidates, key=weight)
    if largest.area < 0.25 * total and len(parts) > 40:
        return None  # nothing but noise
    kept = [largest]
    for part in parts:
        if part is largest or part.is_slight(largest, shape):
            continue
        if _gap(part, largest) <= 0.2 * largest.longer and not _beside(part, largest):
            kept.append(part)
    return kept


def _gap(one: Part, other: Part) -> int:
    """Pixels between two boxes, in the direction in which they are farther apart."""
    across = max(one.left, other.left) - min(one.right, other.right)
    down = max(one.top, other.top) - min(one.bottom, other.bottom)
    return max(across, down, 0)


def _beside(one: Part, other: Part) -> bool:
    """Whether a part is as high as a figure and stands next to the other."""
    across = max(one.left, other.left) - min(one.right, other.right)
    high = min(one.bottom - one.top, other.bottom - other.top)
    return across > -2 and high >= _SEVERAL * max(one.bottom - one.top, other.bottom - other.top)


def _several(parts: list[Part], others: list[Part]) -> bool:
    return any(_beside(other, parts[0]) and other.area >= 0.25 * parts[0].area for other in others)


def _mask(parts: list[Part], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for part in parts:
        for row, start, end in part.runs:
            mask[row, start:end] = True
    return mask


def _box(parts: list[Part]) -> tuple[int, int, int, int]:
    return (
        min(part.left for part in parts),
        min(part.top for part in parts),
        max(part.right for part in parts),
        max(part.bottom for part in parts),
    )


def _grown(mask: np.ndarray) -> np.ndarray:
    """With one pixel more on each side, for what is paler than ink."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    wide = grown.copy()
    wide[:, 1:] |= grown[:, :-1]
    wide[:, :-1] |= grown[:, 1:]
    return wide
