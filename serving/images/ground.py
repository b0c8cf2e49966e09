"""A grey picture of writing -> how much ink there is in each pixel, whatever the paper, the light and the colours.

What is wider than a stroke is ground: paper, shadow, desk. Knows neither figures nor models.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Extreme = Callable[[np.ndarray, np.ndarray], np.ndarray]

STROKE = 0.3  # of the shorter side, or 0.8 of a long one: what is wider than this in both directions is ground
_CUT = 0.6  # of a side: ink that the edge cuts off is no longer there, a desk or a shadow mostly is
_EVEN = 24  # grey levels: an edge that differs by less is not written on
_DARKEST = 40.0  # grey level: in darker light than this, contrast is not multiplied any more


def dark_ink(grey: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> float32 in [0, 1]: the share of the light that dark ink takes away from its paper.

    The paper's grey is the closing of the picture (Serra 1982), which fills what is narrower than STROKE and keeps
    every edge of what is wider, such as a shadow's.
    """
    paper = _closed(grey, np.maximum, np.minimum).astype(np.float32)
    share: np.ndarray = (paper - grey) / np.maximum(paper, _DARKEST)
    return share


def light_ink(grey: np.ndarray) -> np.ndarray:
    """The same of light ink on dark ground: by how much it is lighter, of 255 levels."""
    ground = _closed(grey, np.minimum, np.maximum).astype(np.float32)
    share: np.ndarray = (grey - ground) / 255
    return share


def _closed(grey: np.ndarray, first: Extreme, second: Extreme) -> np.ndarray:
    size = max(3, round(STROKE * max(min(grey.shape), 0.8 * max(grey.shape))))
    padded = _continued(grey, size - 1, first, second)
    for extreme in (first, second):
        padded = _running(_running(padded, size, extreme).T, size, extreme).T
    return padded


def _continued(grey: np.ndarray, margin: int, first: Extreme, second: Extreme) -> np.ndarray:
    """With more of the ground on each side: what is at the edge goes on behind it, but for ink that the edge cuts."""
    padded = np.pad(grey, margin, mode="edge")
    for view in (padded, padded.T):
        for side in (view[:margin], view[-margin:]):
            line = side[0]
            if int(line.max()) - int(line.min()) < _EVEN:
                continue
            reach = round(_CUT * (len(line) - 2 * margin))
            longer = np.pad(line, reach, mode="edge")[:, None]
            side[:] = _running(_running(longer, reach + 1, first), reach + 1, second)[:, 0]
    return padded


def _running(array: np.ndarray, size: int, extreme: Extreme) -> np.ndarray:
    """The extreme of each `size` rows in turn, in log2(size) steps."""
    span = 1
    while 2 * span <= size:
        array = extreme(array[:-span], array[span:])
        span *= 2
    rest = size - span
    return extreme(array[:-rest], array[rest:]) if rest else array


def border_level(grey: np.ndarray) -> int:
    """The median of the outermost pixels."""
    ring = sorted(np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]]).tobytes())
    return (ring[(len(ring) - 1) // 2] + ring[len(ring) // 2]) // 2


class Even(NamedTuple):
    """A picture on ground of one level: `light` ink, or dark; how strong it is at most; and the share of a full
    light's difference for each grey level, (256,) float32."""

    light: bool
    strongest: float
    share: np.ndarray


_SAME = 8  # grey levels within which even ground stays, be it scanned or compressed
_GROUND = 0.4  # of the picture is ground at least
_RING = 0.48  # of its outermost pixels may be ink
_OTHERS = 0.1  # of the ink: so many pixels may be on the ground's other side, as beside a compressed stroke


def even_ground(grey: np.ndarray) -> Even | None:
    """What the levels of a (h, w) uint8 picture mean whose ground is all of one level, as in a drawing, a scan or a
    screenshot; None of any other. There ink may be as wide as it likes, and reach the edges."""
    ring = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    level = _median(np.bincount(ring, minlength=256), len(ring))
    low, high = max(0, level - _SAME), min(255, level + _SAME)
    counts = np.bincount(grey.ravel(), minlength=256)
    darker, ground = int(counts[:low].sum()), int(counts[low : high + 1].sum())
    lighter = grey.size - darker - ground
    ink, others = max(darker, lighter), min(darker, lighter)
    if ground < _GROUND * grey.size or not ink or others > _OTHERS * ink:
        return None
    light = lighter > darker
    outside = ring > high if light else ring < low
    if np.count_nonzero(outside) > _RING * len(ring):
        return None
    levels = np.arange(256, dtype=np.float32)
    share = (levels - level) / 255 if light else (level - levels) / max(level, _DARKEST)
    # The level that so many pixels exceed; a few may be noise.
    count = min(grey.size, max(6, grey.size // 300))
    most = np.flatnonzero(np.add.accumulate(counts[::-1] if light else counts) >= count)[0]
    strongest = float(share[255 - most if light else most])
    return Even(light, max(strongest, 0.6 * float(share[grey.max() if light else grey.min()])), share)


def _median(counts: np.ndarray, total: int) -> int:
    return int(np.searchsorted(np.add.accumulate(counts), (total + 1) // 2))
