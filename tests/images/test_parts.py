"""Connected parts are those that a flood would find, at a cost that the picture's pixels bound."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.images.budget import TakesLong
from serving.images.digits import light_on_dark
from serving.images.parts import connected
from serving.images.picture import Picture
from tests.fixtures.pictures import digit, encode


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.7))
def test_connected_parts_are_those_that_a_flood_would_find(seed: int, density: float) -> None:
    ink = np.random.default_rng(seed).random((12, 15)) < density
    parts = connected(ink)
    found = np.zeros(ink.shape, int)
    for number in range(len(parts)):
        mask = parts.mask(np.array([number]))
        assert not found[mask].any()
        found[mask] = number + 1
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert parts.box(np.array([number])) == box
        assert np.array_equal(parts.mask(np.array([number]), box), mask[box[1] : box[3], box[0] : box[2]])
        assert parts.area[number] == mask.sum()
    assert np.array_equal(found > 0, ink)
    padded = np.pad(found, 1)
    for dy in (0, 1):
        for dx in (-1, 0, 1):
            moved = padded[1 + dy : 13 + dy, 1 + dx : 16 + dx]
            touching = (found > 0) & (moved > 0)
            assert (found[touching] == moved[touching]).all()  # neighbours are of one part
    for number in range(1, len(parts) + 1):  # and a part is no two
        reached = np.zeros(ink.shape, bool)
        reached[tuple(np.argwhere(found == number)[0])] = True
        for _ in range(ink.size):
            grown = np.pad(reached, 1)
            grown = np.max([grown[i : i + 12, j : j + 15] for i in range(3) for j in range(3)], axis=0) & (
                found == number
            )
            if np.array_equal(grown, reached):
                break
            reached = grown
        assert np.array_equal(reached, found == number)


def calls(work: Callable[[], object]) -> int:
    """How many functions are called meanwhile, NumPy's included."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


SIDE = 128
GRID = np.indices((SIDE, SIDE))
ZIGZAG = np.zeros((SIDE, SIDE), bool)
ZIGZAG[:, ::2] = True
ZIGZAG[0, 1::4] = ZIGZAG[-1, 3::4] = True
DEAR = {
    "checkerboard": GRID.sum(axis=0) % 2 == 0,
    "squares of two": (GRID // 2).sum(axis=0) % 2 == 0,
    "dots": (GRID % 2 == 0).all(axis=0),
    "stripes": GRID[0] % 2 == 0,
    "dashes": (GRID[0] % 2 == 0) & (GRID[1] % 4 < 2),
    "zigzag": ZIGZAG,
    "noise": np.random.default_rng(0).random((SIDE, SIDE)) < 0.4,
    "sparse noise": np.random.default_rng(0).random((SIDE, SIDE)) < 0.1,
}


@pytest.mark.parametrize("name", DEAR)
def test_no_picture_makes_many_steps(name: str) -> None:
    grey = np.where(DEAR[name], np.uint8(20), np.uint8(240))
    plain = np.asarray(digit("7", (SIDE, SIDE), ink=20, ground=240))

    def steps(picture: np.ndarray) -> int:
        light_on_dark(picture, (28, 28, 1), Image.Resampling.BILINEAR)  # what is imported late is there then
        return calls(lambda: light_on_dark(picture, (28, 28, 1), Image.Resampling.BILINEAR))

    usual = steps(plain)
    assert steps(grey) < 12 * usual
    assert steps(255 - grey) < 12 * usual


@pytest.mark.parametrize("name", DEAR)
def test_a_dear_picture_is_not_decoded_between_others(name: str) -> None:
    data = encode(Image.fromarray(DEAR[name]).convert("L"))
    picture = Picture.open(data, 10**6, quick=True)
    with pytest.raises(TakesLong):
        picture.to_array((28, 28, 1), "light_on_dark_centred", "bilinear")
    picture = Picture.open(data, 10**6)
    assert picture.to_array((28, 28, 1), "light_on_dark_centred", "bilinear").array.shape == (28, 28, 1)


@pytest.mark.parametrize("side", [28, 100, 128])
@pytest.mark.parametrize("text", list("0123456789"))
def test_a_usual_figure_is_decoded_between_others(text: str, side: int) -> None:
    for ink, ground in ((255, 0), (20, 240)):
        data = encode(digit(text, (side, side), (0.45, 0.5), 0.7, ink=ink, ground=ground))
        picture = Picture.open(data, 10**6, quick=True)
        assert picture.to_array((28, 28, 1), "light_on_dark_centred", "bilinear").unsure is None
