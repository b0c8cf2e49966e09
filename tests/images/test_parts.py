"""Connected parts are those that a flood would find; ruled lines go and strokes stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.images.parts import connected, ruled_lines


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.7))
def test_connected_parts_are_those_that_a_flood_would_find(seed: int, density: float) -> None:
    ink = np.random.default_rng(seed).random((12, 15)) < density
    parts = connected(ink)
    found = np.zeros(ink.shape, int)
    for number, part in enumerate(parts, 1):
        for row, start, end in part.runs:
            assert (found[row, start:end] == 0).all()
            found[row, start:end] = number
    assert np.array_equal(found > 0, ink)
    padded = np.pad(found, 1)
    for dy in (0, 1):
        for dx in (-1, 0, 1):
            moved = padded[1 + dy : 13 + dy, 1 + dx : 16 + dx]
            touching = (found > 0) & (moved > 0)
            assert (found[touching] == moved[touching]).all()  # neighbours are of one part
    for number, part in enumerate(parts, 1):  # and a part is no two
        reached = np.zeros(ink.shape, bool)
        row, start, _ = part.runs[0]
        reached[row, start] = True
        for _ in range(ink.size):
            grown = np.pad(reached, 1)
            grown = np.max([grown[i : i + 12, j : j + 15] for i in range(3) for j in range(3)], axis=0) & (
                found == number
            )
            if np.array_equal(grown, reached):
                break
            reached = grown
        assert np.array_equal(reached, found == number)


@pytest.mark.parametrize("pale", [0.3, 1.0])
@pytest.mark.parametrize("down", [False, True])
def test_lines_go_and_strokes_across_them_stay(down: bool, pale: float) -> None:
    stroke = np.zeros((100, 100), np.float32)
    stroke[10:90, 48:54] = 1
    lines = np.zeros((100, 100), np.float32)
    lines[30] = lines[60:62] = pale
    if down:
        lines[:, 20:22] = pale
    gone = ruled_lines(np.maximum(stroke, lines), 0.1)
    beside = np.zeros((100, 100), bool)
    beside[:, 46:56] = True  # a pixel or two of a line stay where it meets the stroke
    assert gone[(lines > 0) & ~beside].all()
    assert not gone[10:90, 48:54].any()


def test_a_line_that_is_a_little_turned_goes_too() -> None:
    y, x = np.mgrid[:100, :120]
    share = np.clip(1.5 - np.abs(y - 40 - 0.03 * x), 0, 1).astype(np.float32) * 0.4
    gone = ruled_lines(share, 0.05)
    assert gone[share > 0.05].all()
    assert gone.sum() < 6 * 120


def test_strokes_that_do_not_cross_the_whole_picture_are_no_lines() -> None:
    share = np.zeros((100, 100), np.float32)
    share[50:53, 10:80] = 1
    assert not ruled_lines(share, 0.1).any()
