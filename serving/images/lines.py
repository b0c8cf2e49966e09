"""How much ink there is in each pixel -> which of it is a ruled line across the whole picture, and no stroke.

Knows shares of ink (h, w) only, neither figures nor models.
"""

import functools

import numpy as np

from serving.images.budget import Budget

_BLOCKS = 12  # a ruled line is looked for in as many pieces of the picture's width
_LINE = 0.025  # of the picture's height: a ruled line is no thicker
_SLOPES = range(-6, 7)  # pixels by which a ruled line may rise or fall over the width
_DARKER = 1.5  # ink is so many times as dark as the line that it crosses, or it goes on above and below
_LINE_WORK = 20  # runs of ink that cost as much as looking at a line
_PALE = 0.7  # of the strongest ink: a line that is darker than this must reach both edges, as a pen's stroke does not


def ruled_lines(share: np.ndarray, faint: float, budget: Budget | None = None) -> np.ndarray:
    """The (h, w) mask of ruled lines that cross the whole picture, across or down, without the strokes that cross them.

    `share` (h, w) is how much ink there is in each pixel; less than `faint` is none. Raises TakesLong.
    """
    ink = share > faint
    across = _ruled_rows(ink, share, budget)
    return across | _ruled_rows(ink.T, np.where(across, 0, share).T, budget).T


def may_be_ruled(ink: np.ndarray) -> bool:
    """Whether the (h, w) mask holds ink in so many pieces of its width or height that a line may be there."""
    if min(ink.shape) < 2 * _BLOCKS:
        return False
    for side in (ink, ink.T):
        crossed: np.ndarray = np.logical_or.reduce(side)
        bounds = _pieces(len(crossed))
        drawn = np.add.reduceat(crossed, bounds[:-1], dtype=np.int32) > 0.6 * (bounds[1:] - bounds[:-1])
        if np.count_nonzero(drawn) >= _BLOCKS - 1:
            return True
    return False


@functools.cache
def _pieces(side: int) -> np.ndarray:
    """Where each piece begins, and the end."""
    return np.linspace(0, side, _BLOCKS + 1).astype(int)


def _ruled_rows(ink: np.ndarray, share: np.ndarray, budget: Budget | None) -> np.ndarray:
    height, width = share.shape
    result = np.zeros(share.shape, bool)
    if min(height, width) < 2 * _BLOCKS:
        return result
    bounds = _pieces(width)
    thick = ink.copy()
    thick[1:] |= ink[:-1]
    drawn = np.add.reduceat(thick, bounds[:-1], axis=1, dtype=np.int32) / np.diff(bounds) > 0.6
    if drawn.any(axis=0).sum() < 0.8 * _BLOCKS:
        return result
    shifts = np.round(np.outer(_SLOPES, np.arange(_BLOCKS) / (_BLOCKS - 1) - 0.5)).astype(int)
    places = len(_SLOPES) // 2 + shifts[:, None] + np.arange(height)[:, None]
    drawn = np.pad(drawn, ((len(_SLOPES) // 2,) * 2, (0, 0)))
    pieces = drawn[places, np.arange(_BLOCKS)].sum(axis=2)  # of each slope and row: the pieces that are drawn
    lines = pieces >= _BLOCKS - 1
    if not lines.any():
        return result
    thickest = max(3, round(_LINE * height))  # pixels
    strongest = float(share.max())
    rows, half = _courses(lines, width, thickest)
    if budget is not None:
        budget.take(_LINE_WORK * len(rows))
    # Of each line (first index): ink at and beside it (second), for each column.
    reach = int(half.max(initial=0)) + 1
    offsets = np.arange(-reach, reach + 1)
    at = rows[:, None] + offsets[:, None]
    inside = (at >= 0) & (at < height)
    band = np.where(inside, share[np.clip(at, 0, height - 1), np.arange(width)], 0)
    level = np.median(np.maximum(band[:, reach - 1], band[:, reach]), axis=1)
    darker = (_DARKER * level)[:, None]
    numbers = np.arange(len(rows))
    above, below = band[numbers, reach - half - 1], band[numbers, reach + half + 1]
    goes_on = np.minimum(above, below) > np.minimum(darker, _PALE * strongest)
    kept = goes_on.copy()
    kept[:, 1:] |= goes_on[:, :-1]
    kept[:, :-1] |= goes_on[:, 1:]
    gone = (band < darker[:, None]) & inside & ~kept[:, None] & (np.abs(offsets) <= half[:, None])[..., None]
    gone &= ~_strokes(ink, rows, thickest, level > _PALE * strongest)[:, None, None]
    _, _, column = np.nonzero(gone)
    result[at[gone], column] = True
    return result


def _courses(lines: np.ndarray, width: int, thickest: int) -> tuple[np.ndarray, np.ndarray]:
    """The row of each line at each of `width` columns, (n, width), and half of its thickness in rows, (n,).

    `lines` (slopes, rows) are those that are full. Neighbouring rows are one line, along the slope at which most of
    them are full; what is thicker than `thickest` rows is a stroke or a dark band.
    """
    lines = np.pad(lines, ((0, 0), (0, 1)))
    edges = np.flatnonzero(np.diff(lines.any(axis=0).astype(np.int8), prepend=0))
    first, behind = edges[::2], edges[1::2]
    fullest = np.add.reduceat(lines, edges, axis=1, dtype=np.int32)[:, ::2].argmax(axis=0)
    line_of = np.repeat(np.arange(len(first)), behind - first)
    row = np.concatenate([np.arange(a, b) for a, b in zip(first, behind, strict=True)])
    full = lines[fullest[line_of], row]
    row, line_of = row[full], line_of[full]
    start = np.searchsorted(line_of, np.arange(len(first)))
    top, bottom = row[start], row[np.append(start[1:], len(row)) - 1] + 1
    thin = bottom - top - 1 <= thickest
    top, bottom, slope = top[thin], bottom[thin], np.array(_SLOPES)[fullest[thin]]
    course = ((top + bottom - 2) / 2)[:, None] + slope[:, None] * (np.arange(width) / max(1, width - 1) - 0.5)
    return np.round(course).astype(int), (bottom - top) // 2 + 1


def _strokes(ink: np.ndarray, rows: np.ndarray, thickest: int, dark: np.ndarray) -> np.ndarray:
    """Whether what lies along each of `rows` (n, width) is a pen's: thicker than a ruled line, or `dark` and ending
    inside the picture.

    The full rows of a stroke between two slopes are few, so its thickness is measured across it.
    """
    height, width = ink.shape
    at = np.clip(rows[:, None] + np.arange(-2 * thickest, 2 * thickest + 1)[:, None], 0, height - 1)
    across = ink[at, np.arange(width)]
    middle = 2 * thickest
    near: np.ndarray = np.logical_or.reduce(across[:, middle - 1 : middle + 2], axis=1)
    # Ink that goes on from the middle, upwards and downwards.
    up, down = (
        np.logical_and.accumulate(side, axis=1).sum(axis=1) for side in (across[:, middle::-1], across[:, middle + 1 :])
    )
    thick = np.count_nonzero((up + down > thickest + 1) & near, axis=1) * 2 > np.count_nonzero(near, axis=1)
    return thick | (dark & ~(near[:, 0] & near[:, -1]))
