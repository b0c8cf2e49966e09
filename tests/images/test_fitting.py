"""Each convention puts the picture where the libraries that made it famous put it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serving.images.fitting import enough, fit, surplus
from serving.images.picture import FILTERS, decode_image
from tests.fixtures.pictures import colours, encode

SIZES = [(60, 40), (40, 60), (31, 97), (50, 50), (300, 20), (7, 5)]


def torchvisions(image: Image.Image, resize_to: int, side: int, resample: Image.Resampling) -> Image.Image:
    """Resize(resize_to) and CenterCrop(side), as torchvision 0.20 does them, one after the other."""
    shorter, longer = min(image.size), max(image.size)
    long = int(resize_to * longer / shorter)
    size = (resize_to, long) if image.width <= image.height else (long, resize_to)
    whole = image.resize(size, resample)
    top, left = round((size[1] - side) / 2.0), round((size[0] - side) / 2.0)
    return whole.crop((left, top, left + side, top + side))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", sorted(FILTERS))
def test_resize_then_crop_is_torchvisions(size: tuple[int, int], resample: str) -> None:
    image = colours(size)
    found = decode_image(encode(image), (24, 24, 3), "centre_crop", resample, resize_to=32)
    expected = np.asarray(torchvisions(image, 32, 24, FILTERS[resample]))
    # One level, since the places of pixels are computed in another order; NEAREST may take a neighbour.
    far = np.abs(found.astype(int) - expected).max(axis=2) > 1
    assert far.mean() <= (0.05 if resample == "nearest" else 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", [0, 114, (114,), (1, 2, 3)])
def test_pad_keeps_proportions_and_fills_the_rest(size: tuple[int, int], fill: int | tuple[int, ...]) -> None:
    image = colours(size)
    found = decode_image(encode(image), (32, 48, 3), "pad", "bicubic", fill=fill)
    scale = min(48 / size[0], 32 / size[1])
    inner = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    expected = Image.new("RGB", (48, 32), fill if isinstance(fill, tuple) and len(fill) == 3 else (fill_of(fill),) * 3)
    expected.paste(image.resize(inner, Image.Resampling.BICUBIC), ((48 - inner[0]) // 2, (32 - inner[1]) // 2))
    np.testing.assert_array_equal(found, np.asarray(expected))


def fill_of(fill: int | tuple[int, ...]) -> int:
    return fill if isinstance(fill, int) else fill[0]


def test_a_grey_model_pads_with_one_level() -> None:
    found = decode_image(encode(Image.new("L", (10, 20), 9)), (20, 20, 1), "pad", fill=77)
    assert found[0, :, 0].tolist() == [77] * 5 + [9] * 10 + [77] * 5


@pytest.mark.parametrize("size", SIZES)
def test_plain_is_pillows_resize(size: tuple[int, int]) -> None:
    image = colours(size)
    found = decode_image(encode(image), (24, 36, 3), "plain", "lanczos")
    np.testing.assert_array_equal(found, np.asarray(image.resize((36, 24), Image.Resampling.LANCZOS)))


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["plain", "pad", "centre_crop", "resized"]),
)
def test_boxes_lie_in_the_picture_and_keep_enough(
    width: int, height: int, wide: int, high: int, convention: str
) -> None:
    resize_to = max(wide, high) * 8 // 7 if convention == "resized" else None
    found = fit((width, height), (wide, high), "centre_crop" if resize_to else convention, resize_to)
    left, top, right, bottom = found.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert 0 <= found.at[0] <= wide - found.size[0]
    assert 0 <= found.at[1] <= high - found.size[1]
    shrink = surplus(found)
    assert shrink == 1 or (right - left >= shrink * enough(found.size[0]))
    assert shrink == 1 or (bottom - top >= shrink * enough(found.size[1]))


def crop(image: Image.Image) -> Image.Image:
    return image.crop((image.width // 2 - image.height // 4, 0, image.width // 2 + image.height // 4, image.height))


# Large JPEGs are decoded at a part of their size: that must not show, whatever the model's proportions.


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("shape", "convention", "prepared"),
    [
        ((16, 96, 3), "plain", lambda image: image),
        ((96, 16, 3), "plain", lambda image: image),
        ((64, 32, 3), "centre_crop", crop),
    ],
)
def test_a_drafted_jpeg_is_near_the_whole_one(
    shape: tuple[int, int, int], convention: str, prepared: Callable[[Image.Image], Image.Image], turned: bool
) -> None:
    image = colours((60, 40)).resize((1200, 800), Image.Resampling.BICUBIC)
    stored, exif = image, Image.Exif()
    if turned:
        exif[0x0112] = 6
        stored = image.transpose(Image.Transpose.ROTATE_90)
    data = encode(stored, "JPEG", quality=95, exif=exif)
    found = decode_image(data, shape, convention).astype(int)
    expected = np.asarray(prepared(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    assert np.abs(found - expected).mean() < 2
