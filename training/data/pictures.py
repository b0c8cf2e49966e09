"""A picture's file -> a uint8 array, exactly as the service decodes an upload under the `plain` convention.

EXIF orientation is applied, transparency laid on white or black, channels are converted, and the picture is resized
with RESAMPLE. Training may not import serving: this module mirrors `serving/images`, and tests/test_layering.py
compares the two byte by byte.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.dataset import Array, DatasetError, first_line
from training.data.flatten import flat, least, orientation, whole_jpeg

RESAMPLE = Image.Resampling.BILINEAR  # antialiasing when it shrinks; named in the card, used again by the service


def header(file: Path) -> tuple[tuple[int, int], str]:
    """The (width, height) of the upright picture and its Pillow mode, from the file's header. Raises DatasetError."""
    try:
        with Image.open(file) as image:
            # Pillow turns a TIFF itself, and gives the size it will have then
            turned = image.format != "TIFF" and orientation(image) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size, image.mode
    except Exception as err:  # Pillow's plugins raise what they like on damaged files
        raise DatasetError(f"{file}: not a readable image ({first_line(err)})") from err


def decode(file: Path, mode: str, size: tuple[int, int]) -> Array:
    """One file under the `plain` convention: (H, W, C) uint8."""
    try:
        # From memory: an uncompressed grey TIFF of orientation 5 to 8 opened by its path comes out garbled (Pillow 13).
        with Image.open(io.BytesIO(whole_jpeg(file.read_bytes()))) as image:
            image.draft(None, (least(max(size)),) * 2)  # does nothing but to a JPEG
            pixels = flat(image, mode)
    except Exception as err:  # Pillow's plugins raise what they like on damaged files
        raise DatasetError(f"{file}: not a readable image ({first_line(err)})") from err
    if pixels.size != size:
        pixels = pixels.resize(size, RESAMPLE)
    array = np.asarray(pixels)
    return array if array.ndim == 3 else array[..., None]


def resized(images: Array, size: int) -> Array:
    """(N, h, w, C) -> (N, size, size, C) with RESAMPLE."""
    small = [
        np.asarray(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize((size, size), RESAMPLE))
        for image in images
    ]
    return np.stack(small).reshape(len(images), size, size, images.shape[-1])
