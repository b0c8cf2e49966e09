"""A picture's file -> a uint8 array, decoded by the very code that decodes an upload (`serving/images`).

So accuracy from posting the files equals accuracy here, under every convention. What serving refuses is a DatasetError
that names the file. Knows neither labels nor folders.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from serving.errors import ClassifyError
from serving.images.digits import light_on_dark
from serving.images.picture import Picture
from training.data.dataset import Array, DatasetError, first_line

RESAMPLE = Image.Resampling.BILINEAR  # antialiasing when it shrinks; named in the card, used again by the service
RESIZES = {"squash": "plain", "pad": "pad", "crop": "centre_crop"}  # and the conventions of `Picture.to_array`
_HEAD = 256 * 1024  # bytes of a JPEG that mostly hold its header


def header(file: Path) -> tuple[tuple[int, int], str]:
    """The (width, height) of the upright picture and its Pillow mode, from the file's header. Raises DatasetError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_HEAD)
            if not data.startswith(b"\xff\xd8"):
                data += opened.read()
                picture = Picture.open(data)
            else:  # a folder of photos is gigabytes
                try:
                    picture = Picture.open(data)
                except ClassifyError:  # a long thumbnail stands before the size
                    picture = Picture.open(data + opened.read())
        return picture.size, picture.mode
    except (ClassifyError, OSError) as err:
        raise _unreadable(file, err) from err


def decode(
    file: Path,
    mode: str,
    size: tuple[int, int],
    convention: str = "plain",
    resample: str = RESAMPLE.name.lower(),
    resize_to: int | None = None,
    fill: int | Sequence[int] = 0,
) -> Array:
    """One file as (H, W, C) uint8: `mode` is L or RGB, `size` (width, height) in pixels.

    The other arguments are those of `Picture.to_array`, and stand in a card. Raises DatasetError.
    """
    shape = (size[1], size[0], 1 if mode == "L" else 3)
    try:
        return Picture.open(file.read_bytes()).to_array(shape, convention, resample, resize_to, fill).array
    except (ClassifyError, OSError) as err:
        raise _unreadable(file, err) from err


def _unreadable(file: Path, err: Exception) -> DatasetError:
    return DatasetError(f"{file}: not a readable image ({err if isinstance(err, ClassifyError) else first_line(err)})")


def resized(images: Array, size: int) -> Array:
    """(N, h, w, C) -> (N, size, size, C) with RESAMPLE."""
    small = [
        np.asarray(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize((size, size), RESAMPLE))
        for image in images
    ]
    return np.stack(small).reshape(len(images), size, size, images.shape[-1])


def centred(images: Array) -> Array:
    """(N, H, W, 1) pictures of figures -> the same as the service would show them to a network whose convention is
    `light_on_dark_centred`: light on black, as large and as far in the middle as MNIST's."""
    return np.stack([light_on_dark(image[..., 0], image.shape, RESAMPLE).grey[..., None] for image in images])
