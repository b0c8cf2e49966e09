"""Pictures drawn for the tests, and their bytes in a format. No data set is involved."""

import io
import itertools
import zlib
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Pixels = int | tuple[int, int, int]


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def digit(
    text: str,
    size: tuple[int, int] = (28, 28),
    at: tuple[float, float] = (0.5, 0.5),
    height: float = 0.8,
    mode: str = "L",
    ink: Pixels = 255,
    ground: Pixels = 0,
) -> Image.Image:
    """`text` in Pillow's own font; `at` is its centre and `height` the font's size, as fractions of the picture."""
    image = Image.new(mode, size, ground)
    font = ImageFont.load_default(height * min(size))
    ImageDraw.Draw(image).text((at[0] * size[0], at[1] * size[1]), text, fill=ink, font=font, anchor="mm")
    return image


def colours(size: tuple[int, int] = (8, 8)) -> Image.Image:
    """An RGB gradient in which no two pixels, rows or corners are alike."""
    image = Image.new("RGB", size)
    for x, y in itertools.product(range(size[0]), range(size[1])):
        image.putpixel((x, y), (x * 255 // size[0], y * 255 // size[1], (x + y) % 256))
    return image


def with_chunks(png: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The PNG with more chunks behind its header."""
    made = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    ]
    return b"".join([png[:33], *made, png[33:]])
