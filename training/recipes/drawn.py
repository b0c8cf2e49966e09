"""Drawn figures of a 1 with a flag, with and without a foot, which MNIST has hardly any of: its ones are bars.

They stand in their frame as MNIST's figures do and join the training images before the recipe's distortions. Every
length is drawn at random from the seed; no font is used. Knows no data set and no network.
"""

import numpy as np

LABEL = "1"
_HEIGHT = 20 / 28  # of the frame (LeCun et al. 1998, section III.A)
_PIECES = 4  # straight ones that a flag is drawn from


def flagged_ones(count: int, side: int, seed: int) -> np.ndarray:
    """(count, side, side, 1) uint8, light on black, upright, with the centre of mass in the middle.

    In shares of the stem's height: strokes are 0.07 to 0.25 wide, flags reach 0.15 to 0.4 to the left and fall by 17
    to 60 degrees, half of them straight and half hollow as a serif's; two of five ones have a foot.
    """
    rng = np.random.default_rng(seed)
    width, reach, fall, hollow, foot, thin = rng.uniform(
        [0.07, 0.15, 0.3, -1, -0.1, 0.6], [0.25, 0.4, 1.05, 1, 0.4, 1], (count, 6)
    ).T
    reach = np.minimum(reach, 0.25 + 0.25 * fall)  # a long and level flag would make it a 7
    drop = np.minimum(reach * np.tan(fall), 0.45)
    # A quadratic Bezier curve from the stem's head to the flag's end, straight where its middle point is half-way
    t = np.linspace(0, 1, _PIECES + 1)[:, None]
    middle = 0.5 - 0.35 * np.maximum(hollow, 0)
    flag_x = -reach * (2 * t * (1 - t) * middle + t**2)
    flag_y = drop * (2 * t * (1 - t) * (1 - middle) + t**2)
    none, ones = np.zeros(count), np.ones(count)
    below = np.where(foot > 0.2, width * thin, -2)  # a stroke of no width leaves no light
    # Each row is a stroke's x and y at its two ends, and its width
    strokes = [(none, none, none, ones, width), (-foot, ones, foot, ones, below)]
    strokes += [(flag_x[k], flag_y[k], flag_x[k + 1], flag_y[k + 1], width * thin) for k in range(_PIECES)]
    lines = np.stack([np.stack(stroke) for stroke in strokes]) * (_HEIGHT * side / (1 + width))
    square = rng.random(count) < 0.5
    images = _rasterized(lines, square, side)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    mass = images.sum(axis=(1, 2))
    for axis, row in ((x, 0), (y, 1)):
        lines[:, [row, row + 2]] -= np.round((images * axis).sum(axis=(1, 2)) / mass)
    images = _rasterized(lines, square, side)
    return (255 * images / images.max(axis=(1, 2), keepdims=True)).astype(np.uint8)[..., None]


def _rasterized(lines: np.ndarray, square: np.ndarray, side: int) -> np.ndarray:
    """Lines (strokes, 5, N) in pixels, from the frame's upper middle -> light (N, side, side) in [0, 1].

    A pixel's light follows its distance from the nearest stroke. The strokes' ends are square or round.
    """
    y, x = np.mgrid[:side, :side]
    x, y = (x - (side - 1) / 2)[None], (y - (1 - _HEIGHT) / 2 * side)[None]
    light = np.zeros((lines.shape[2], side, side), np.float32)
    for x0, y0, x1, y1, width in lines[..., None, None]:
        length = np.maximum(np.hypot(x1 - x0, y1 - y0), 1e-6)
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
        across = np.abs((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
        beyond = np.maximum(np.maximum(-along, along - length), 0)
        ends = np.maximum(across, beyond)
        distance = np.where(square[:, None, None], ends, np.hypot(across, beyond))
        light = np.maximum(light, np.clip(width / 2 + 0.5 - distance, 0, 1))
    return light
