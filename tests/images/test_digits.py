"""The figure is found among specks, inside a frame and drawn with any pen; what stands already is left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from serving.images.digits import connected, light_on_dark, stands_as_mnist, thickened, without_clutter
from serving.images.picture import Picture
from tests.fixtures.pictures import digit, encode

SHAPE = (28, 28, 1)
SEVEN = np.asarray(digit("7", (300, 300)))


def brought(grey: np.ndarray) -> np.ndarray:
    return light_on_dark(grey, SHAPE, Image.Resampling.BILINEAR).grey


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


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


@pytest.mark.parametrize("specks", [1, 6])
def test_specks_are_left_out(specks: int) -> None:
    sheet = SEVEN.copy()
    rng = np.random.default_rng(specks)
    for _ in range(specks):
        y, x = rng.choice((8, 280)), rng.integers(8, 280)
        sheet[y : y + 6, x : x + 6] = 255
    assert alike(brought(sheet), brought(SEVEN)) > 0.99


@pytest.mark.parametrize("width", [2, 6])
def test_a_frame_around_the_figure_is_left_out(width: int) -> None:
    framed = Image.fromarray(SEVEN.copy())
    ImageDraw.Draw(framed).rectangle((10, 10, 290, 290), outline=255, width=width)
    assert alike(brought(np.asarray(framed)), brought(SEVEN)) > 0.99


def test_a_nought_is_no_frame_and_figures_in_parts_are_kept() -> None:
    nought = np.asarray(digit("0", (300, 300)))
    assert np.array_equal(without_clutter(nought), nought)
    broken = SEVEN.copy()
    broken[150:156] = 0
    assert np.array_equal(without_clutter(broken), broken)


@pytest.mark.parametrize("pen", [1, 2, 4])
def test_a_thin_pen_is_as_good_as_a_thick_one(pen: int) -> None:
    thin = Image.new("L", (600, 600), 255)
    ImageDraw.Draw(thin).line([(180, 130), (420, 130), (260, 480)], fill=0, width=pen)
    strokes = brought(np.asarray(thin))
    assert (strokes > 127).sum() > 50  # MNIST's sevens have some hundred such pixels
    assert strokes.max() == 255


def test_strokes_of_a_usual_width_are_not_thickened() -> None:
    cut = Image.fromarray(SEVEN).crop(Image.fromarray(SEVEN).getbbox())
    assert thickened(cut) is cut


@given(st.integers(0, 2**32 - 1))
def test_the_quick_look_never_passes_what_the_thorough_one_would_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stands = brought(np.asarray(digit(str(rng.integers(10)), (200, 200))))
    shifted = np.roll(stands, tuple(rng.integers(-3, 4, 2)), (0, 1))
    noise = rng.integers(0, 40, (28, 28)) * (rng.random() < 0.3)
    grey = np.clip(shifted.astype(int) * rng.choice([0.05, 0.5, 1.0]) + noise, 0, 255).astype(np.uint8)
    if stands_as_mnist(grey.tobytes(), 28):
        assert np.array_equal(brought(grey), grey)


def test_a_picture_without_a_figure_says_so() -> None:
    for blank in (Image.new("L", (28, 28)), Image.new("RGB", (500, 400), "white")):
        decoded = Picture.open(encode(blank), 10**7).to_array(SHAPE, "light_on_dark_centred", "bilinear")
        assert decoded.unsure == "no_figure"
    decoded = Picture.open(encode(digit("7")), 10**7).to_array(SHAPE, "light_on_dark_centred", "bilinear")
    assert decoded.unsure is None
