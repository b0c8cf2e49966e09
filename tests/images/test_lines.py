"""Ruled lines go, strokes across them stay, and so do strokes that are as long as the picture."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from serving.images.lines import ruled_lines


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


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("slope", [-3, -1.5, 0, 0.5, 2.5])
@pytest.mark.parametrize("width", [5, 7, 9])
def test_a_long_stroke_is_no_line(slope: float, width: int, down: bool) -> None:
    image = Image.new("L", (94, 94))
    ImageDraw.Draw(image).line((3, 45 - slope, 93, 45 + slope), fill=255, width=width)
    share = np.asarray(image, np.float32) / 255
    assert not ruled_lines(share.T if down else share, 0.1).any()


def test_a_dark_line_that_ends_inside_is_a_stroke() -> None:
    share = np.zeros((100, 100), np.float32)
    share[50:52, 3:97] = 1
    assert not ruled_lines(share, 0.1).any()
    share[50:52] = 1
    assert ruled_lines(share, 0.1)[50:52].all()


def test_many_lines_all_go() -> None:
    share = np.zeros((128, 128), np.float32)
    share[4::8] = 0.4
    share[20:100, 60:66] = 1
    gone = ruled_lines(share, 0.1)
    assert gone[4::8, :58].all()
    assert not gone[20:100, 60:66].any()
