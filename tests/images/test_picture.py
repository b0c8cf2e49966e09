import io
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.errors import ClassifyError, ImageTooLarge, InvalidImage, InvalidRequest, UnsupportedFormat
from serving.images.formats import picture_format
from serving.images.picture import decode_image
from serving.images.png import plain_png
from tests.fixtures.pictures import colours, digit, encode

DIGIT = (28, 28, 1)
COLOUR = (8, 8, 3)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def decode_digit_of(data: bytes) -> np.ndarray:
    return decode_image(data, DIGIT, "light_on_dark_centred")[..., 0]


def decode_digit(image: Image.Image) -> np.ndarray:
    return decode_image(encode(image), DIGIT, "light_on_dark_centred")


# The middle of a photo


@pytest.mark.parametrize(("size", "box"), [((600, 400), (100, 0, 500, 400)), ((300, 900), (0, 300, 300, 600))])
def test_a_centre_crop_is_the_plain_picture_of_the_middle(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = colours(size)
    cropped = decode_image(encode(image), (64, 64, 3), "centre_crop")
    assert np.array_equal(cropped, decode_image(encode(image.crop(box)), (64, 64, 3)))


# What passes byte for byte


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_a_plain_picture_of_the_models_size_and_mode_passes_byte_for_byte(form: str) -> None:
    assert np.array_equal(decode_image(encode(colours(), form), COLOUR), np.asarray(colours()))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_a_digit_that_stands_as_mnists_passes_byte_for_byte_whatever_its_file_and_mode(form: str, mode: str) -> None:
    if form == "BMP" and mode == "LA":
        pytest.skip("Pillow writes no such BMP")
    image = Image.fromarray(decode_digit_of(encode(digit("4", (300, 300)))))
    assert np.array_equal(decode_digit_of(encode(image.convert(mode), form)), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("at", [(0.2, 0.7), (0.7, 0.3)])
def test_a_digit_of_the_models_size_that_stands_elsewhere_is_centred(mode: str, at: tuple[float, float]) -> None:
    shifted = decode_digit_of(encode(digit("4", at=at, height=0.5).convert(mode)))
    centred = decode_digit_of(encode(digit("4", (300, 300))))
    assert np.corrcoef(shifted.ravel(), centred.ravel())[0, 1] > 0.8


@given(st.integers(0, 2**32 - 1), st.sampled_from(["plain", "light_on_dark_centred"]), st.sampled_from([1, 3]))
@example(116, "light_on_dark_centred", 1)  # three by two pixels, half of them white
def test_the_short_way_for_a_plain_png_gives_what_the_ordinary_way_gives(
    seed: int, convention: str, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 12, 2))
    levels = rng.choice([0, 0, 0, 120, 127, 128, 255], (height, width, channels)).astype(np.uint8)
    data = encode(Image.fromarray(levels.squeeze(-1) if channels == 1 else levels))
    short = plain_png(data, levels.shape, convention)
    if convention == "plain":
        assert short is not None
    if short is not None:
        assert np.array_equal(short, decode_image(data, levels.shape, convention))


@given(st.integers(0, 300), st.binary(min_size=1, max_size=2), st.booleans())
def test_the_short_way_leaves_what_is_damaged_to_the_ordinary_one(at: int, noise: bytes, cut: bool) -> None:
    data = encode(digit("4"))
    at %= len(data)
    damaged = data[:at] + (b"" if cut else noise) + data[at + len(noise) :]
    short = plain_png(damaged, DIGIT, "plain")
    assert short is None or np.array_equal(short, decode_image(damaged, DIGIT))
    assert (short is None) == (damaged != data)


@pytest.mark.parametrize("side", [1, 31, 256, 3000])
def test_a_large_jpeg_is_decoded_small_and_comes_out_the_same(side: int) -> None:
    image = colours((64, 48)).resize((side, max(1, side * 3 // 4)), Image.Resampling.BICUBIC)
    data = encode(image, "JPEG")
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode_image(data, COLOUR).astype(int) - whole).max() <= 2


# The plain convention


@pytest.mark.parametrize("form", FORMATS)
def test_every_enabled_format_gives_the_models_shape(form: str) -> None:
    array = decode_image(encode(colours((40, 30)), form), COLOUR)
    assert array.shape == COLOUR
    assert array.dtype == np.uint8
    reference = np.asarray(colours((40, 30)).resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(array.astype(int) - reference).mean() < 20  # lossy formats and GIF's palette differ a little


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (decode_image(encode(clear), COLOUR) == 255).all()
    half = Image.new("LA", (8, 8), (0, 128))
    assert set(np.unique(decode_image(encode(half), (8, 8, 1)))) <= {126, 127, 128}
    palette = Image.new("P", (8, 8), 0)
    assert (decode_image(encode(palette, transparency=0), COLOUR) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = colours((8, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(encode(stored, exif=exif), COLOUR), np.asarray(upright))


def test_a_broken_exif_block_does_not_spoil_the_picture() -> None:
    data = encode(colours(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert np.array_equal(decode_image(data, COLOUR), np.asarray(colours()))


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    assert np.array_equal(decode_image(encode(Image.fromarray(ramp)), (8, 8, 1))[..., 0], ramp >> 8)


def test_cmyk_grey_and_bilevel_become_the_models_channels() -> None:
    for mode in ("CMYK", "L", "1"):
        form = "TIFF" if mode == "CMYK" else "PNG"
        assert decode_image(encode(colours().convert(mode), form), COLOUR).shape == COLOUR
    assert decode_image(encode(colours()), (8, 8, 1)).shape == (8, 8, 1)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(data, (8, 8, 1)) == 0).all()


# The digits' convention


def test_dark_on_light_is_inverted() -> None:
    seven = digit("7")
    negative = Image.fromarray(255 - np.asarray(seven))
    difference = np.abs(decode_digit(negative).astype(int)[..., 0] - np.asarray(seven).astype(int))
    assert difference.mean() < 30
    assert np.median(decode_digit(negative)) == 0


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (64, 64), (30, 200)])
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.35, 0.4)])
def test_a_figure_is_centred_and_scaled_as_mnist_was(size: tuple[int, int], at: tuple[float, float]) -> None:
    array = decode_digit(digit("8", size, at, 0.6, "RGB", (20, 20, 90), (250, 248, 240)))[..., 0]
    ys, xs = np.nonzero(array > 64)
    assert 18 <= max(ys.max() - ys.min(), xs.max() - xs.min()) + 1 <= 20
    weight = array.astype(float)
    centre = [(weight.sum(axis=1 - axis) * (np.arange(28) + 0.5)).sum() / weight.sum() for axis in (0, 1)]
    assert np.abs(np.array(centre) - 14).max() < 1


def test_a_blank_sheet_has_no_figure_and_is_still_an_answer() -> None:
    assert (decode_digit(Image.new("L", (100, 50), "white")) == 0).all()


# Refusals


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidImage),
        (b"hello", InvalidImage),
        (b'{"image": "x"}', InvalidImage),
        (b"http://169.254.169.254/latest/meta-data", InvalidRequest),
        (b" file:///etc/passwd", InvalidRequest),
        (b"data:image/png;base64,iVBORw0KGgo=", InvalidRequest),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedFormat),
        (b"<?xml version='1.0'?>\n<svg/>", UnsupportedFormat),
        (b"\x00\x00\x00\x20ftypheic", UnsupportedFormat),
        (b"\x00\x00\x01\x00\x01\x00", UnsupportedFormat),
        (b"%PDF-1.7", UnsupportedFormat),
        (encode(colours())[:60], InvalidImage),
        (encode(colours(), "JPEG")[:200], InvalidImage),
    ],
)
def test_what_is_no_good_picture_is_refused_by_name(data: bytes, error: type[ClassifyError]) -> None:
    with pytest.raises(error):
        decode_image(data, COLOUR)


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    header = struct.pack(">II5B", 30_000, 30_000, 8, 0, 0, 0, 0)
    body = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", __import__("zlib").crc32(body))
    bomb += struct.pack(">I", 10) + b"IDAT"
    with pytest.raises(ImageTooLarge, match=r"30000x30000 = 900,000,000 pixels; the limit is 64,000,000"):
        decode_image(bomb, COLOUR)


def test_the_bytes_decide_the_format() -> None:
    for form in FORMATS:
        assert picture_format(encode(colours(), form)) == form


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_a_damaged_picture_is_decoded_or_refused_and_nothing_else(form: str, data: st.DataObject) -> None:
    picture = bytearray(encode(colours((16, 16)), form))
    for _ in range(data.draw(st.integers(1, 8))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(picture)))
    for convention, shape in (("plain", COLOUR), ("light_on_dark_centred", DIGIT)):
        try:
            assert decode_image(bytes(picture[:cut]), shape, convention, max_pixels=100_000).shape == shape
        except ClassifyError as err:
            assert err.status in (400, 413, 415)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decode_image(data, COLOUR)
    except ClassifyError as err:
        assert err.status in (400, 413, 415)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_grey_picture_becomes_a_digit_frame(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    assert decode_digit(Image.open(io.BytesIO(encode(Image.fromarray(pixels))))).shape == DIGIT
