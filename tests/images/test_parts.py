"""Connected parts are those that a flood would find; ruled lines go and strokes stay."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.images.parts import connected, without_lines


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


def test_lines_go_and_strokes_across_them_stay() -> None:
    ink = np.zeros((100, 100), bool)
    ink[10:90, 48:54] = True
    stroke = ink.copy()
    ink[60:62] = True
    assert np.array_equal(without_lines(ink)[:, :45], stroke[:, :45])
    assert without_lines(ink)[10:90, 48:54].all()
