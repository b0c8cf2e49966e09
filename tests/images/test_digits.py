"""The figure is found among specks, inside a frame and drawn with any pen; what stands already is left alone."""

import functools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from serving.images.digits import light_on_dark, stands_as_mnist, thickened
from serving.images.figure import find_figure
from serving.images.picture import Picture
from tests.fixtures.pictures import digit, encode

SHAPE = (28, 28, 1)
SEVEN = np.asarray(digit("7", (300, 300)))


def brought(grey: np.ndarray) -> np.ndarray:
    return light_on_dark(grey, SHAPE, Image.Resampling.BILINEAR).grey


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("specks", [1, 6])
def test_specks_are_left_out(specks: int) -> None:
    sheet = SEVEN.copy()
    rng = np.random.default_rng(specks)
    for _ in range(specks):
        y, x = rng.choice((8, 280)), rng.integers(8, 280)
        sheet[y : y + 6, x : x + 6] = 255
    assert alike(brought(sheet), brought(SEVEN)) > 0.99


@pytest.mark.parametrize(("stem", "dot"), [((20, 200), (232, 262)), ((120, 280), (58, 88))], ids=["!", "i"])
@pytest.mark.parametrize("pen", [20, 30])
def test_a_dot_above_or_below_is_part_of_the_figure(stem: tuple[int, int], dot: tuple[int, int], pen: int) -> None:
    sheet = np.zeros((300, 300), np.uint8)
    sheet[slice(*stem), 150 : 150 + pen] = 255
    sheet[slice(*dot), 150 : 150 + pen] = 255
    rows = np.flatnonzero(brought(sheet).max(axis=1) > 127)
    assert (np.diff(rows) > 1).sum() == 1  # a stem, a gap and a dot


@pytest.mark.parametrize("place", [(150, 20), (266, 152)])
def test_dirt_is_no_dot(place: tuple[int, int]) -> None:
    """Beside the figure, or below it and thinner than the pen."""
    sheet = np.zeros((300, 300), np.uint8)
    sheet[20:240, 150:180] = 255
    alone = brought(sheet)
    side = 30 if place[1] < 100 else 14
    sheet[place[0] : place[0] + side, place[1] : place[1] + side] = 255
    assert alike(brought(sheet), alone) > 0.99


@pytest.mark.parametrize("width", [2, 6])
def test_a_frame_around_the_figure_is_left_out(width: int) -> None:
    framed = Image.fromarray(SEVEN.copy())
    ImageDraw.Draw(framed).rectangle((10, 10, 290, 290), outline=255, width=width)
    assert alike(brought(np.asarray(framed)), brought(SEVEN)) > 0.99


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


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32 - 1))
def test_the_quick_look_never_passes_what_the_thorough_one_would_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stands = brought(np.asarray(digit(str(rng.integers(10)), (200, 200))))
    shifted = np.roll(stands, tuple(rng.integers(-3, 4, 2)), (0, 1))
    noise = rng.integers(0, 40, (28, 28)) * (rng.random() < 0.3)
    grey = np.clip(shifted.astype(int) * rng.choice([0.05, 0.5, 1.0]) + noise, 0, 255).astype(np.uint8)
    if stands_as_mnist(grey, Image.fromarray(grey).getbbox(), int(grey.max())):
        assert np.array_equal(brought(grey), grey)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_figure_at_the_edge_is_whole_and_what_comes_in_elsewhere_is_no_part_of_it(axis: int, dark: bool) -> None:
    stands = brought(np.asarray(digit("2", (200, 200))))
    margin = int(np.flatnonzero(stands.any(axis=1 - axis))[0])
    moved = np.roll(stands, -margin, axis)  # its ink begins at the edge
    moved[-1 if axis == 0 else slice(20, 24), slice(20, 24) if axis == 0 else -1] = 255  # a piece of something else
    assert alike(brought(255 - moved if dark else moved), stands) > 0.9


def test_a_picture_without_a_figure_says_so() -> None:
    for blank in (Image.new("L", (28, 28)), Image.new("RGB", (500, 400), "white")):
        decoded = Picture.open(encode(blank), 10**7).to_array(SHAPE, "light_on_dark_centred", "bilinear")
        assert decoded.unsure == "no_figure"
    decoded = Picture.open(encode(digit("7")), 10**7).to_array(SHAPE, "light_on_dark_centred", "bilinear")
    assert decoded.unsure is None


# Where there is more than a figure, or none


def unsure(grey: np.ndarray) -> str | None:
    return light_on_dark(grey, SHAPE, Image.Resampling.BILINEAR).unsure


@pytest.mark.parametrize("text", list("0123456789"))
def test_a_figure_alone_is_one(text: str) -> None:
    for ink, ground in ((255, 0), (20, 240)):
        assert unsure(np.asarray(digit(text, (200, 300), ink=ink, ground=ground))) is None


def test_two_figures_are_several_and_a_broken_one_is_not() -> None:
    assert unsure(np.asarray(digit("42", (300, 300), height=0.5))) == "several_figures"
    broken = SEVEN.copy()
    broken[150:156] = 0
    assert unsure(broken) is None
    assert alike(brought(broken), brought(SEVEN)) > 0.95


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32 - 1), st.floats(2, 80))
def test_noise_and_blank_sheets_hold_no_figure(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    sheet = rng.normal(rng.uniform(0, 255), strength, (120, 140))
    assert unsure(np.clip(sheet, 0, 255).astype(np.uint8)) == "no_figure"


# Papers and lights


PEN = 255 - (SEVEN * 0.8).astype(np.uint8)  # dark on white


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("level", [120, 170, 220])
@pytest.mark.parametrize("squared", [False, True])
def test_ruled_and_squared_paper_changes_nothing(squared: bool, level: int, width: int) -> None:
    lines = np.full((300, 300), 255, np.uint8)
    for place in range(30, 300, 60):
        lines[place : place + width] = level
        if squared:
            lines[:, place : place + width] = level
    ruled = np.minimum(PEN, lines)
    assert unsure(ruled) is None
    assert alike(brought(ruled), brought(PEN)) > 0.9


@pytest.mark.parametrize("depth", [0.45, 0.7])
def test_a_shadow_changes_nothing(depth: float) -> None:
    light = np.ones((300, 300))
    light[:, 150:] = depth  # a hard edge through the figure
    assert alike(brought((PEN * light).astype(np.uint8)), brought(PEN)) > 0.85
    soft = np.linspace(1, depth, 300)[:, None]
    assert alike(brought((PEN * soft).astype(np.uint8)), brought(PEN)) > 0.97


def test_a_desk_around_the_sheet_is_no_ink() -> None:
    desk = np.full((500, 500), 50, np.uint8)
    desk[100:400, 120:420] = PEN
    assert alike(brought(desk), brought(PEN)) > 0.97


def test_a_sheet_with_little_room_around_the_figure_is_no_light_ink() -> None:
    for turned in (-6, 0, 5):
        sheet = Image.fromarray(PEN).convert("LA").rotate(turned, Image.Resampling.BICUBIC, expand=True)
        desk = Image.new("L", (sheet.width + 60, sheet.height + 60), 30)
        desk.paste(sheet.getchannel("L"), (30, 30), sheet.getchannel("A"))
        upright = desk.rotate(-turned, Image.Resampling.BICUBIC, fillcolor=30)
        assert alike(brought(np.asarray(upright)), brought(PEN)) > 0.9


def test_thin_light_ink_around_a_dark_spot_is_no_sheet() -> None:
    board = Image.new("L", (300, 300), 60)
    pen = ImageDraw.Draw(board)
    pen.ellipse((60, 40, 240, 260), outline=230, width=2)
    pen.line((140, 120, 150, 180), fill=5, width=6)
    assert brought(np.asarray(board)).any()


@pytest.mark.parametrize("text", list("0689"))
def test_a_hole_in_light_ink_is_no_dark_ink(text: str) -> None:
    light = np.asarray(digit(text, (200, 160), ink=230, ground=40))
    assert alike(brought(light), brought(255 - light)) > 0.97


def test_thick_strokes_that_touch_the_edge_are_ink() -> None:
    thick = Image.new("L", (240, 300), 250)
    ImageDraw.Draw(thick).line([(40, 30), (200, 30), (110, 280)], fill=30, width=60)
    wide = Image.new("L", (600, 600), 250)
    wide.paste(thick, (180, 150))
    assert alike(brought(np.asarray(thick)), brought(np.asarray(wide))) > 0.9


def test_a_thick_bar_in_a_narrow_picture_is_ink() -> None:
    bar = np.full((120, 40), 250, np.uint8)
    bar[4:116, 11:29] = 40
    found = brought(bar)
    assert unsure(bar) is None
    rows, columns = (np.flatnonzero(found.max(axis=axis) > 64) for axis in (1, 0))
    assert 18 <= len(rows) <= 20
    assert 3 <= len(columns) <= 5


def test_a_figure_that_is_small_on_its_sheet_is_looked_at_from_nearer() -> None:
    sheet = np.full((2000, 2000), 250, np.uint8)
    sheet[900:1200, 300:600] = np.minimum(sheet[900:1200, 300:600], PEN)
    assert alike(brought(sheet), brought(PEN)) > 0.97
    found, reason = find_figure(sheet)
    assert found is not None
    assert reason is None
    assert max(found.size) > 40


# Figures that fill their picture, and what is no figure


def drawn(text: str, side: int = 280, pen: int = 18, fills: float = 1.0) -> np.ndarray:
    """Dark strokes on white that fill `fills` of a square picture; more than 1 is cut off at the edges."""
    strokes = {
        "2": [[(0.15, 0.2), (0.3, 0.05), (0.7, 0.05), (0.85, 0.25), (0.8, 0.4), (0.15, 1), (0.9, 1)]],
        "4": [[(0.6, 0), (0.05, 0.65), (0.95, 0.65)], [(0.65, 0.35), (0.65, 1)]],
        "5": [[(0.9, 0), (0.2, 0), (0.15, 0.45), (0.6, 0.4), (0.9, 0.65), (0.75, 0.95), (0.3, 1), (0.05, 0.85)]],
        "7": [[(0.05, 0), (0.95, 0), (0.4, 1)]],
        "9": [[(0.8, 0.3), (0.6, 0.02), (0.3, 0.05), (0.15, 0.3), (0.4, 0.5), (0.75, 0.35), (0.7, 1)]],
    }
    image = Image.new("L", (side, side), 255)
    pencil = ImageDraw.Draw(image)
    for stroke in strokes[text]:
        at = [((0.5 + (x - 0.5) * fills) * side, (0.5 + (y - 0.5) * fills) * side) for x, y in stroke]
        pencil.line(at, fill=17, width=pen, joint="curve")
        for x, y in at:
            pencil.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=17)
    return np.asarray(image)


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("pen", [8, 18, 30])
@pytest.mark.parametrize("fills", [0.9, 1.0])
@pytest.mark.parametrize("text", list("24579"))
def test_a_figure_may_fill_its_picture(text: str, fills: float, pen: int, light: bool) -> None:
    sheet = drawn(text, pen=pen, fills=fills)
    sheet = 255 - sheet if light else sheet
    assert unsure(sheet) is None
    assert answer(sheet) == text


@functools.cache
def model() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(Path(__file__).parents[2] / "models/digits_cnn-mnist/1/model.onnx")


def answer(sheet: np.ndarray) -> str:
    (probabilities,) = model().run(None, {"image": brought(sheet)[None, ..., None]})
    return str(probabilities[0].argmax())


@pytest.mark.parametrize("side", [64, 280])
@pytest.mark.parametrize("pair", ["38", "17", "42", "10", "96"])
@pytest.mark.parametrize("height", [0.3, 0.5])
def test_two_figures_are_several(pair: str, side: int, height: float) -> None:
    for ink, ground in ((255, 0), (20, 240)):
        apart = digit(pair[0], (side, side), (0.25, 0.5), height, ink=ink, ground=ground)
        apart.paste(digit(pair[1], (side // 2, side), (0.5, 0.5), 2 * height, ink=ink, ground=ground), (side // 2, 0))
        assert unsure(np.asarray(apart)) == "several_figures"


@pytest.mark.parametrize("side", [28, 64, 280, 600])
@pytest.mark.parametrize("radius", [0.05, 0.1, 0.3])
def test_a_dot_is_no_figure(side: int, radius: float) -> None:
    for ink, ground in ((255, 0), (20, 240)):
        dot = Image.new("L", (side, side), ground)
        x, y, r = 0.4 * side, 0.5 * side, radius * side
        ImageDraw.Draw(dot).ellipse((x - r, y - r, x + r, y + r), fill=ink)
        assert unsure(np.asarray(dot)) == "no_figure"


def test_a_thick_one_is_no_dot() -> None:
    one = np.full((200, 200), 250, np.uint8)
    one[30:170, 75:125] = 10
    assert unsure(one) is None
