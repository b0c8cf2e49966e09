"""A mask of ink -> its connected parts, and whether one of them is a form's frame.

Everything is done for all runs or parts at once: the time depends on the number of pixels, whatever they show. Knows
masks (h, w) only, no models.
"""

from typing import NamedTuple

import numpy as np

from serving.images.budget import Budget

_SIDE = 0.8  # fraction of each side of a frame that is drawn
_SPECK = 0.25  # a part shorter than this fraction of the figure is a speck
_CUT = 0.6  # a part that the edge cuts, shorter than this fraction of the figure, is no part of it
_DOT = 0.08  # a dot's shorter side is at least this fraction of the figure; dirt is smaller
_PEN = 0.8  # and at least this fraction of the pen's width
_AWAY = 0.3  # of the figure, at most: between a dot and the figure below or above it

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two behind it


class Runs(NamedTuple):
    """Ink beside ink in a row: its row, its first column, the column behind its last, and the number of its part."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    part: np.ndarray


class Parts(NamedTuple):
    """The connected parts of a (h, w) mask: an array has a value for each part. Boxes end behind the last pixel."""

    shape: tuple[int, int]
    runs: Runs
    left: np.ndarray
    top: np.ndarray
    right: np.ndarray
    bottom: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.area)

    @property
    def height(self) -> np.ndarray:
        return self.bottom - self.top

    @property
    def longer(self) -> np.ndarray:
        return np.maximum(self.right - self.left, self.height)

    @property
    def at_edge(self) -> np.ndarray:
        """Whether a part touches the edge of the picture."""
        height, width = self.shape
        return (self.left == 0) | (self.top == 0) | (self.right == width) | (self.bottom == height)

    def slight(self, largest: int) -> np.ndarray:
        """Whether a part is too short beside the figure's largest to be one of its own."""
        longer = self.longer
        return longer < np.where(self.at_edge, _CUT, _SPECK) * longer[largest]

    def dotted(self, largest: int) -> np.ndarray:
        """Whether a part is a dot above or below the figure's largest, as of `!`, `?` or `i`: as thick as the pen."""
        pen = np.median((self.runs.end - self.runs.start)[self.runs.part == largest])
        size = self.longer[largest]
        shorter = np.minimum(self.right - self.left, self.height)
        middle = (self.left + self.right) / 2
        over = (middle > self.left[largest]) & (middle < self.right[largest])
        down = self.down(largest)
        thick = shorter >= max(_PEN * pen, _DOT * size)
        return thick & over & (down > 0) & (down <= _AWAY * size) & ~self.at_edge

    def gap(self, one: int) -> np.ndarray:
        """Pixels between a part's box and that of `one`, in the direction in which they are farther apart."""
        return np.maximum(np.maximum(self.across(one), self.down(one)), 0)

    def across(self, one: int) -> np.ndarray:
        """Columns between a part's box and that of `one`; below 0 where they share some."""
        return np.maximum(self.left, self.left[one]) - np.minimum(self.right, self.right[one])

    def down(self, one: int) -> np.ndarray:
        """Rows between a part's box and that of `one`; below 0 where they share some."""
        return np.maximum(self.top, self.top[one]) - np.minimum(self.bottom, self.bottom[one])

    def box(self, chosen: np.ndarray) -> Box:
        """The box around the parts with these numbers."""
        if len(chosen) == 1:
            one = int(chosen[0])
            return int(self.left[one]), int(self.top[one]), int(self.right[one]), int(self.bottom[one])
        return (
            int(self.left[chosen].min()),
            int(self.top[chosen].min()),
            int(self.right[chosen].max()),
            int(self.bottom[chosen].max()),
        )

    def mask(self, chosen: np.ndarray, box: Box | None = None) -> np.ndarray:
        """The mask of the parts with these numbers, whole or inside `box`, which holds them."""
        left, top, right, bottom = box or (0, 0, self.shape[1], self.shape[0])
        runs = self.runs
        if len(chosen) < len(self):
            wanted = np.zeros(len(self), bool)
            wanted[chosen] = True
            kept = wanted[runs.part]
            row, start, end = runs.row[kept] - top, runs.start[kept] - left, runs.end[kept] - left
        else:
            row, start, end = runs.row - top, runs.start - left, runs.end - left
        steps = np.zeros((bottom - top, right - left + 1), np.int8)
        steps[row, start] = 1
        steps[row, end] = -1  # no run begins where another ends
        return np.add.accumulate(steps[:, :-1], axis=1, dtype=np.int8).view(bool)


def connected(ink: np.ndarray, budget: Budget | None = None) -> Parts:
    """The 8-connected parts of a (h, w) bool mask.

    Runs are joined with those of the row before, and the lowest number goes round among the joined ones (Shiloach and
    Vishkin 1982): the number of rounds grows with the logarithm of their number. Raises TakesLong.
    """
    height, width = ink.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = ink
    places = np.flatnonzero(np.diff(padded.ravel()))  # where ink begins and ends, in turn
    starts, ends = places[::2], places[1::2]
    if budget is not None:
        budget.take(len(starts))
    rows = starts // (width + 2)
    begin = rows * (width + 2)
    start, end = starts - begin, ends - begin
    label = _joined(starts, ends, width + 2)
    lowest = label == np.arange(len(label))
    part = (np.add.accumulate(lowest, dtype=int) - 1)[label] if len(label) else label
    runs = Runs(rows, start, end, part)
    count = int(part.max()) + 1 if len(part) else 0
    if count == 1:
        sides = (start.min(), rows[0], end.max(), rows[-1] + 1, np.add.reduce(end - start))
        return Parts((height, width), runs, *np.array(sides)[:, None])
    order = np.argsort(part, kind="stable")
    first = np.searchsorted(part[order], np.arange(count))
    by_part = [values[order] for values in (start, rows, end, rows + 1, end - start)]
    merged = (np.minimum, np.minimum, np.maximum, np.maximum, np.add)
    if not count:
        return Parts((height, width), runs, *by_part)
    boxes = [merge.reduceat(values, first) for merge, values in zip(merged, by_part, strict=True)]
    return Parts((height, width), runs, *boxes)


def _joined(starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """The lowest number of a run that each run is connected with; places count along rows of `width` pixels, of which
    the outermost hold no ink."""
    count = len(starts)
    label = np.arange(count)
    # The runs of the row before that touch a run, also by a corner, are neighbours of each other.
    low = np.searchsorted(ends, starts - width, side="left")
    high = np.searchsorted(starts, ends - width, side="right")
    touching = np.maximum(high - low, 0)
    lower = np.repeat(label, touching)
    if not len(lower):
        return label
    upper = np.repeat(low - np.cumsum(touching) + touching, touching) + np.arange(len(lower))
    while True:
        one, other = label[lower], label[upper]
        if (one == other).all():
            return label
        least = np.minimum(one, other)
        np.minimum.at(label, one, least)
        np.minimum.at(label, other, least)
        while ((root := label[label]) != label).any():
            label = root


def without_frame(mask: np.ndarray) -> np.ndarray | None:
    """The (h, w) mask of a part in its box without the frame that it draws along the sides; None if it draws none."""
    if min(mask.shape) < 12:
        return None
    thickness = max(2, max(mask.shape) // 12)
    for band in (mask[:thickness], mask[-thickness:], mask[:, :thickness].T, mask[:, -thickness:].T):
        if np.count_nonzero(band.any(axis=0)) < _SIDE * band.shape[1]:
            return None
    inner = mask.copy()
    for view in (inner, inner[::-1], inner.T, inner.T[::-1]):
        # From the outside to where most of a side's ink ends.
        share = view.mean(axis=1)
        depth = next((d for d in range(1, min(len(share) // 4, 2 * thickness)) if share[d] < 0.5), 0)
        view[: depth + 1] = False
    return inner
