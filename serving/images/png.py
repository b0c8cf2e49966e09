"""The commonest upload, a PNG of the model's own size, in a third of the time that Pillow's layers take; and back."""

import functools
import io
import zlib

import numpy as np
from PIL import Image

from serving.images.digits import stands_as_mnist
from serving.images.seams import inflated

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def plain_png(
    data: bytes, shape: tuple[int, int, int], convention: str, resize_to: int | None = None
) -> np.ndarray | None:
    """The pixels of a PNG that has the model's `shape` already and holds nothing but them; None for any other file.

    What is damaged, is to be centred or has one chunk more is left to the ordinary way, which knows what to say of it.
    """
    height, width, channels = shape
    if resize_to is not None and resize_to != min(height, width):
        return None  # the picture is made larger, and its middle cut out
    start, mode = _plain_png_start(height, width, channels)
    if not (data.startswith(start) and data.endswith(_PNG_END) and data[37:41] == b"IDAT"):
        return None
    end = 41 + int.from_bytes(data[33:37], "big")
    if end + 4 + len(_PNG_END) != len(data) or zlib.crc32(data[37:end]) != int.from_bytes(data[end : end + 4], "big"):
        return None
    found = inflated(data[41:end], mode, width, height, height * width * channels)
    if found is None:
        return None
    raw, pixels = found
    array = np.frombuffer(raw, np.uint8).reshape(shape)
    if convention == "light_on_dark_centred" and not (
        channels == 1 and stands_as_mnist(array, pixels.getbbox(False), pixels.getextrema()[1])
    ):
        return None
    return array


@functools.cache
def _plain_png_start(height: int, width: int, channels: int) -> tuple[bytes, str]:
    """The first 33 bytes of an 8-bit PNG without interlacing or palette (PNG 1.2, section 4.1.1), and Pillow's mode."""
    colour, mode = (0, "L") if channels == 1 else (2, "RGB")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big"), mode


def to_png(array: np.ndarray) -> bytes:
    """The PNG of (H, W, C) uint8, C 1 or 3."""
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()
