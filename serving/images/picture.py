"""The bytes of an uploaded picture -> the uint8 array a model takes. No framework, no model, no settings.

The header is read once, and the size checked before any pixel is decoded. Whatever Pillow raises becomes one of this
project's errors here.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from serving.errors import ClassifyError, ImageTooLarge, InvalidImage
from serving.images.digits import light_on_dark
from serving.images.flatten import flat, least, whole_jpeg
from serving.images.formats import picture_format
from serving.images.seams import OPENERS

# Pillow walks over a file's segments in Python, and libjpeg over all pixels for each scan of a JPEG: without limits a
# few megabytes keep a core busy for seconds, or for many minutes. Cameras and editors stay far below both.
MAX_READS = 100_000
MAX_SCANS = 32
MAX_SCANNED_PIXELS = 2_000_000_000  # of a JPEG with more scans than that: pixels times scans

# What may be decoded on the event loop, beside its bytes and pixels: a hundred milliseconds can hide in a small file.
QUICK_READS = 500
QUICK_SCANS = 16  # of a JPEG
QUICK_TEXTS = 4  # compressed texts of a PNG, 1 MB each

FILTERS: dict[str, Image.Resampling] = {f.name.lower(): f for f in Image.Resampling}


class TakesLong(Exception):
    """More work than was allowed; no failure."""


class Decoded(NamedTuple):
    """`array` (H, W, C) uint8 as the model takes it; `unsure` says why no answer about it should be relied on."""

    array: np.ndarray
    unsure: str | None = None


def decode_image(
    data: bytes | memoryview,
    shape: tuple[int, int, int],
    convention: str = "plain",
    resample: str = "bilinear",
    max_pixels: int = 64_000_000,
) -> np.ndarray:
    """`shape` is the model's (H, W, C), C 1 or 3; returns that shape as uint8.

    Raises InvalidImage, UnsupportedFormat, ImageTooLarge, or InvalidRequest for an address in place of bytes.
    """
    return Picture.open(data, max_pixels).to_array(shape, convention, resample).array


class Picture:
    """An upload whose header has been read, once: `to_array` decodes it, on whichever thread."""

    def __init__(self, image: Image.Image, reads: "_Reads"):
        self._image = image
        self._reads = reads

    @classmethod
    def open(cls, data: bytes | memoryview, max_pixels: int, quick: bool = False) -> "Picture":
        """Read the header: the format is enabled and the size within the limit. Raises what decode_image raises.

        With `quick` it raises TakesLong, and so may `to_array`, where decoding it takes more than its size tells.
        """
        form = picture_format(data)
        scans = bytes(data).count(b"\xff\xda") if form == "JPEG" else 0
        if quick and (scans > QUICK_SCANS or (form == "PNG" and bytes(data).count(b"TXt") > QUICK_TEXTS)):
            raise TakesLong
        # Pillow refuses above twice this: a GIF's frame or a TIFF's tile may be far larger than the picture is said to
        # be, and memory is taken for it (4 GB for a GIF of 65 bytes, found by fuzzing Pillow 13.0).
        Image.MAX_IMAGE_PIXELS = max_pixels // 2
        reads = _Reads(data, quick)
        try:
            image = OPENERS[form](reads)
        except Image.DecompressionBombError as err:
            raise ImageTooLarge(
                f"the {form} image, or a piece of it, has more than the limit of {max_pixels:,} pixels"
            ) from err
        except (ClassifyError, TakesLong):
            raise
        except Exception as err:  # Pillow's plugins raise what they like on damaged files
            raise InvalidImage(f"the {form} image cannot be decoded: its header is truncated or damaged") from err
        width, height = image.size
        pixels = width * height
        if pixels > max_pixels:
            raise ImageTooLarge(f"the image has {width}x{height} = {pixels:,} pixels; the limit is {max_pixels:,}")
        if pixels == 0:
            raise InvalidImage(f"the image is empty: {width}x{height} pixels")
        if scans > MAX_SCANS and scans * max(pixels, 256 * 256) > MAX_SCANNED_PIXELS:
            raise ImageTooLarge(
                f"the JPEG has {scans:,} scans of {width}x{height} pixels; the limit is {MAX_SCANS} scans"
            )
        return cls(image, reads)

    @property
    def pixels(self) -> int:
        return self._image.width * self._image.height

    def take_time(self) -> None:
        """Decoding it may take long from now on."""
        self._reads.quick = False

    def to_array(self, shape: tuple[int, int, int], convention: str, resample: str) -> Decoded:
        """Decode it and bring it to `shape`, once. Raises InvalidImage if its data is damaged."""
        image = self._image
        try:
            decoded = self._decoded(shape, convention, FILTERS[resample])
        except Image.DecompressionBombError as err:
            raise ImageTooLarge(f"a piece of the {image.format} image has more pixels than the limit") from err
        except (ClassifyError, TakesLong):
            raise
        except Exception as err:  # Pillow's plugins raise what they like on damaged files
            raise InvalidImage(f"the {image.format} image cannot be decoded: it is truncated or damaged") from err
        array = decoded.array
        if array.ndim == 2:
            array = array[..., None] if shape[2] == 1 else np.repeat(array[..., None], 3, axis=2)
        return decoded._replace(array=array)

    def _decoded(self, shape: tuple[int, int, int], convention: str, resample: Image.Resampling) -> Decoded:
        image, size = self._image, (shape[1], shape[0])
        centred = convention == "light_on_dark_centred"
        if image.format == "JPEG":
            self._reads.end_with(whole_jpeg(self._reads.getvalue()))
            if not centred:
                image.draft(None, (least(size[0]), least(size[1])))
        pixels = flat(image, "L" if shape[2] == 1 or centred else "RGB", any_range=centred)
        if centred:
            return Decoded(*light_on_dark(np.asarray(pixels), shape, resample))
        if convention == "centre_crop":
            pixels = pixels.crop(_middle(pixels.size, size))
        return Decoded(np.asarray(pixels if pixels.size == size else pixels.resize(size, resample)))


def _middle(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest box of the proportions of `shape` (width, height) in the middle of a picture of `size`."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    width, height = max(1, round(scale * shape[0])), max(1, round(scale * shape[1]))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


class _Reads(io.BytesIO):
    """An upload that Pillow may read from MAX_READS times, or QUICK_READS."""

    reads = 0

    def __init__(self, data: bytes | memoryview, quick: bool):
        super().__init__(data)
        self.quick = quick

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.quick and self.reads > QUICK_READS:
            raise TakesLong
        if self.reads > MAX_READS:
            raise InvalidImage(f"the image consists of too many pieces: reading it takes more than {MAX_READS:,} steps")
        return super().read(size)

    def end_with(self, data: bytes) -> None:
        """Append what `data` has more."""
        at = self.tell()
        have = self.seek(0, io.SEEK_END)
        self.write(data[have:])
        self.seek(at)
