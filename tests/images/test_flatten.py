"""Files whose levels, transparency or end is not as usual: right, or refused with the reason."""

import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from serving.errors import InvalidImage
from serving.images.picture import Picture, decode_image
from serving.settings import Settings
from tests.fixtures.pictures import colours, digit, encode, with_chunks

COLOUR = (8, 8, 3)


def decode_digit_of(data: bytes) -> np.ndarray:
    return decode_image(data, (28, 28, 1), "light_on_dark_centred")[..., 0]


# Levels of more than 8 bits


def png16(levels: np.ndarray, significant: int | None = None) -> bytes:
    """A grey PNG of 16 bits; `significant` writes an sBIT chunk."""
    data = encode(Image.fromarray(levels.astype(np.uint16)))
    return data if significant is None else with_chunks(data, [(b"sBIT", bytes([significant]))])


RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))


@pytest.mark.parametrize("white", [255, 1023, 4095])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_of_which_few_are_used_are_refused_with_the_reason(white: int, form: str) -> None:
    data = encode(Image.fromarray((RAMP * white).astype(np.uint16)), form)
    with pytest.raises(InvalidImage, match="does not say which is white"):
        decode_image(data, (64, 64, 1))


@pytest.mark.parametrize("white", [255, 1023, 4095, 65535])
def test_a_figure_has_its_contrast_stretched_however_few_bits_it_uses(white: int) -> None:
    sheet = np.asarray(digit("7", (280, 280), ink=0, ground=255))
    expected = decode_digit_of(encode(Image.fromarray(sheet)))
    wide = encode(Image.fromarray((sheet.astype(np.uint32) * white // 255).astype(np.uint16)))
    assert np.abs(decode_digit_of(wide).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["float", "int32 with its white", "uint16"])
def test_levels_whose_range_is_known_are_scaled_to_it(kind: str) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if kind == "float":
        image = Image.fromarray(RAMP.astype(np.float32))
    elif kind == "uint16":
        image = Image.fromarray((RAMP * 65535).astype(np.uint16))
    else:
        image = Image.fromarray((RAMP * 1000).astype(np.int32))
        tags[341] = 1000  # SMaxSampleValue
        tags.tagtype[341] = 4
    found = decode_image(encode(image, "TIFF", tiffinfo=tags), (64, 64, 1))[..., 0]
    assert np.abs(found.astype(int) - (RAMP * 255)).max() <= 1.5


@pytest.mark.parametrize(
    "levels", [RAMP * 1000, RAMP * 1e9, np.full((8, 8), np.nan), np.full((8, 8), np.inf), RAMP - 0.5]
)
def test_levels_whose_range_nobody_knows_are_refused(levels: np.ndarray) -> None:
    with pytest.raises(InvalidImage):
        decode_image(encode(Image.fromarray(levels.astype(np.float32)), "TIFF"), (8, 8, 1))


def test_a_black_picture_of_sixteen_bits_is_black() -> None:
    assert decode_image(png16(np.zeros((8, 8))), (8, 8, 1)).max() == 0


def rgb16(white: int) -> bytes:
    """A PNG of 16 bits a channel, written by hand: Pillow writes none."""
    rows = b"".join(b"\0" + (row * white).astype(">u2").repeat(3).tobytes() for row in RAMP)
    header = b"IHDR" + (64).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    chunks = [header, b"IDAT" + zlib.compress(rows), b"IEND"]
    written = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def test_colours_of_sixteen_bits_are_taken_whole_or_refused() -> None:
    assert np.abs(decode_image(rgb16(65535), (64, 64, 3))[..., 1].astype(int) - RAMP * 255).max() <= 1.01
    with pytest.raises(InvalidImage, match="nearly black"):
        decode_image(rgb16(1023), (64, 64, 3))


# Transparency


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (255, 230, 0), (20, 20, 160), (200, 0, 0)])
def test_ink_on_transparency_never_vanishes(form: str, ink: tuple[int, int, int]) -> None:
    mask = digit("7", (280, 280))
    drawn = Image.merge("RGBA", [*(Image.new("L", mask.size, level) for level in ink), mask])
    options = {"lossless": True} if form == "WEBP" else {}
    found = decode_digit_of(encode(drawn, form, **options))
    expected = decode_digit_of(encode(mask))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def bmp_v5(alpha: int) -> bytes:
    """A BMP of 32 bits with a version 5 header whose alpha channel holds only `alpha`."""
    data = encode(colours((8, 8)).convert("RGBA"), "BMP")
    offset = int.from_bytes(data[10:14], "little")
    pixels = bytearray(data[offset:])
    pixels[3::4] = bytes([alpha]) * (len(pixels) // 4)
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    info = bytearray(data[14:54])
    info[0:4] = (124).to_bytes(4, "little")
    info[16:20] = (3).to_bytes(4, "little")  # BI_BITFIELDS
    header = bytes(info) + masks + bytes(124 - len(info) - len(masks))
    start = 14 + len(header)
    total = start + len(pixels)
    return b"BM" + total.to_bytes(4, "little") + bytes(4) + start.to_bytes(4, "little") + header + bytes(pixels)


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_bitmap_whose_alpha_says_nothing_is_opaque(alpha: int) -> None:
    assert np.array_equal(decode_image(bmp_v5(alpha), COLOUR), np.asarray(colours()))


# JPEG files without their end


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
@pytest.mark.parametrize("size", [(16, 16), (61, 45), (640, 480)])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(options: dict[str, Any], size: tuple[int, int]) -> None:
    data = encode(colours(size), "JPEG", **options)
    assert np.array_equal(decode_image(data[:-2], COLOUR), decode_image(data, COLOUR))
    for behind in (b"", b"\0" * 30, b"ftypmp42" * 9):  # phones put films behind their pictures
        assert np.array_equal(decode_image(data + behind, COLOUR), decode_image(data, COLOUR))


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_and_without_rows_is_refused(progressive: bool, kept: float) -> None:
    noise = np.random.default_rng(0).normal(0, 20, (300, 400, 3))
    picture = Image.fromarray((np.asarray(colours((400, 300))) + noise).clip(0, 255).astype(np.uint8))
    data = encode(picture, "JPEG", quality=90, progressive=progressive)
    with pytest.raises(InvalidImage, match="truncated"):
        decode_image(data[: int(kept * len(data))], COLOUR)


# What phones send


def test_a_phone_picture_of_fifty_megapixels_is_taken_by_default() -> None:
    header = encode(colours((8, 8)), "JPEG")
    at = header.index(b"\xff\xc0") + 5
    claimed = header[:at] + (6144).to_bytes(2, "big") + (8160).to_bytes(2, "big") + header[at + 4 :]
    assert Picture.open(claimed, Settings().max_pixels).pixels == 8160 * 6144
    assert Settings().max_body_bytes >= 20_000_000
