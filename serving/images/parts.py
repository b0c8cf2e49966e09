"""A mask of ink -> its connected parts, and what in it is a ruled line or a form's box rather than writing.

Knows masks and shares of ink (h, w) only, no models.
"""

from typing import NamedTuple

import numpy as np

_SIDE = 0.8  # fraction of each side of a frame that is drawn
_BLOCKS = 12  # a ruled line is looked for in as many pieces of the picture's width
_LINE = 0.025  # of the picture's height: a ruled line is no thicker
_SLOPES = range(-6, 7)  # pixels by which a ruled line may rise or fall over the width
_SPECK = 0.25  # a part shorter than this fraction of the figure is a speck
_CUT = 0.6  # a part that the edge cuts, shorter than this fraction of the figure, is no part of it
_DARKER = 1.5  # ink is so many times as dark as the line that it crosses, or it goes on above and below


class Part(NamedTuple):
    """Connected ink: its runs (row, first column, column behind the last), its box and its pixels."""

    runs: list[tuple[int, int, int]]
    left: int
    top: int
    right: int
    bottom: int
    area: int

    @property
    def longer(self) -> int:
        return max(self.right - self.left, self.bottom - self.top)

    def at_edge(self, shape: tuple[int, ...]) -> bool:
        """Whether it touches the edge of a picture of `shape` (h, w)."""
        return self.left == 0 or self.top == 0 or self.right == shape[1] or self.bottom == shape[0]

    def is_slight(self, largest: "Part", shape: tuple[int, ...]) -> bool:
        """Whether it is too short beside the figure's largest part to be one of its own."""
        return self.longer < (_CUT if self.at_edge(shape) else _SPECK) * largest.longer


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
        Part(
            group,
            min(r[1] for r in group),
            group[0][0],
            max(r[2] for r in group),
            group[-1][0] + 1,
            sum(r[2] - r[1] for r in group),
        )
        for group in grouped.values()
    ]


def ruled_lines(share: np.ndarray, faint: float) -> np.ndarray:
    """The (h, w) mask of ruled lines that cross the whole picture, across or down, without the strokes that cross them.

    `share` (h, w) is how much ink there is in each pixel; less than `faint` is none.
    """
    ink = share > faint
    across = _ruled_rows(ink, share)
    return across | _ruled_rows(ink.T, np.where(across, 0, share).T).T


def _ruled_rows(ink: np.ndarray, share: np.ndarray) -> np.ndarray:
    height, width = share.shape
    result = np.zeros(share.shape, bool)
    if min(height, width) < 2 * _BLOCKS:
        return result
    bounds = np.linspace(0, width, _BLOCKS + 1).astype(int)
    thick = ink.copy()
    thick[1:] |= ink[:-1]
    drawn = np.add.reduceat(thick, bounds[:-1], axis=1, dtype=np.int32) / np.diff(bounds) > 0.6
    if drawn.any(axis=0).sum() < 0.8 * _BLOCKS:
        return result
    shifts = np.round(np.outer(_SLOPES, np.arange(_BLOCKS) / (_BLOCKS - 1) - 0.5)).astype(int)
    places = len(_SLOPES) // 2 + shifts[:, None] + np.arange(height)[:, None]
    drawn = np.pad(drawn, ((len(_SLOPES) // 2,) * 2, (0, 0)))
    found = drawn[places, np.arange(_BLOCKS)].sum(axis=2)  # of each slope and row: the pieces that are drawn
    lines = found >= _BLOCKS - 1
    if not lines.any():
        return result
    columns, strongest = np.arange(width), float(share.max())
    edges = np.flatnonzero(np.diff(np.pad(lines.any(axis=0).astype(np.int8), 1))).tolist()
    for first, behind in zip(edges[::2], edges[1::2], strict=True):
        slope = int(lines[:, first:behind].sum(axis=1).argmax())  # along which most of its rows are full
        along = first + np.flatnonzero(lines[slope, first:behind])
        top, bottom = int(along[0]), int(along[-1]) + 1
        if bottom - top - 1 > max(3, round(_LINE * height)):
            continue  # a stroke, or a dark band
        rows = (top + bottom - 2) / 2 + _SLOPES[slope] * (columns / max(1, width - 1) - 0.5)
        rows = np.round(rows).astype(int)
        reach = (bottom - top) // 2 + 1
        at = rows + np.arange(-reach - 1, reach + 2)[:, None]
        within = (at >= 0) & (at < height)
        band = np.where(within, share[np.clip(at, 0, height - 1), columns], 0)
        darker = _DARKER * float(np.median(band[reach : reach + 2].max(axis=0)))
        dark = band[[0, -1]] > min(darker, 0.7 * strongest)
        kept = dark[0] & dark[1]  # ink goes on above and below
        kept[1:] |= kept[:-1].copy()
        kept[:-1] |= kept[1:].copy()
        row, column = np.nonzero((band[1:-1] < darker) & within[1:-1] & ~kept)
        result[at[row + 1, column], column] = True
    return result


def without_frame(part: Part, shape: tuple[int, ...]) -> np.ndarray | None:
    """The mask of a part without the frame that it draws along the sides of its box; None if it draws none."""
    height, width = part.bottom - part.top, part.right - part.left
    if min(height, width) < 12:
        return None
    mask = np.zeros((height, width), bool)
    for row, start, end in part.runs:
        mask[row - part.top, start - part.left : end - part.left] = True
    thickness = max(2, max(height, width) // 12)
    bands = (mask[:thickness], mask[-thickness:], mask[:, :thickness].T, mask[:, -thickness:].T)
    if min(band.any(axis=0).mean() for band in bands) < _SIDE:
        return None
    inner = mask.copy()
    for view in (inner, inner[::-1], inner.T, inner.T[::-1]):
        # From the outside to where most of a side's ink ends.
        share = view.mean(axis=1)
        depth = next((d for d in range(1, min(len(share) // 4, 2 * thickness)) if share[d] < 0.5), 0)
        view[: depth + 1] = False
    erased = np.zeros(shape, bool)
    erased[part.top : part.bottom, part.left : part.right] = inner
    return erased
