"""The commonest uploads, small PNGs of nothing but pixels, in a third of the time that Pillow's layers take; and back.

Whatever is damaged or holds more is left to Pillow, which knows what to say of it.
"""

import functools
import io
import zlib

import numpy as np
from PIL import Image

from serving.images.digits import stands_as_mnist
from serving.images.seams import as_bytes, as_image, inflated

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
    pixels = inflated(data[41:end], mode, width, height)
    if pixels is None:
        return None
    array = np.frombuffer(as_bytes(pixels, mode, width, height), np.uint8).reshape(shape)
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


SMALL = 256 * 256  # pixels
MOST_CHUNKS = 256  # of pixels in a file
_SIGNATURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_MODES = {b"\x08\0": "L", b"\x08\2": "RGB", b"\x08\6": "RGBA"}  # bits and colour type (PNG 1.2, section 4.1.1)
_IDLE = (b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME")  # chunks that change nothing here


def small_png(data: bytes | memoryview, max_pixels: int) -> Image.Image | None:
    """The picture of a small PNG that has 8 bits a channel, no interlacing and nothing but pixels; None for any
    other file. It is decoded already, in at most a millisecond."""
    head = bytes(data[:33])
    mode = _MODES.get(head[24:26])
    if mode is None or head[:16] != _SIGNATURE or head[26:29] != b"\0\0\0":
        return None
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if not 0 < width * height <= min(SMALL, max_pixels) or zlib.crc32(head[12:29]) != int.from_bytes(
        head[29:33], "big"
    ):
        return None
    at = 33
    packed: list[bytes] = []
    while (kind := bytes(data[at + 4 : at + 8])) != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind not in (b"IDAT", *_IDLE) or end + 12 > len(data) or len(packed) > MOST_CHUNKS:
            return None
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        if kind == b"IDAT":
            packed.append(bytes(data[at + 8 : end]))
        at = end + 4
    pixels = inflated(b"".join(packed), mode, width, height)
    return None if pixels is None else as_image(pixels)


def to_png(array: np.ndarray) -> bytes:
    """The PNG of (H, W, C) uint8, C 1 or 3."""
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()
