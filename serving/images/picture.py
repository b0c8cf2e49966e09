"""The bytes of an uploaded picture -> the uint8 array a model takes. No framework, no model, no settings.

The header is read once, and the size checked before any pixel is decoded. Whatever Pillow raises becomes one of this
project's errors here.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from serving.errors import ClassifyError, ImageTooLarge, InvalidImage
from serving.images import profile
from serving.images.avif import largest_frame
from serving.images.budget import Budget, TakesLong
from serving.images.digits import light_on_dark
from serving.images.fitting import Fit, fit, surplus
from serving.images.flatten import flat, orientation, profile_mode, whole_jpeg
from serving.images.formats import picture_format
from serving.images.png import small_png
from serving.images.seams import OPENERS

MAX_PIXELS = 64_000_000  # of a picture, where nobody says another limit

# Pillow walks over a file's segments in Python, and libjpeg over all pixels for each scan of a JPEG: without limits a
# few megabytes keep a core busy for seconds, or for many minutes. Cameras and editors stay far below both.
MAX_READS = 100_000
MAX_SCANS = 32
MAX_SCANNED_PIXELS = 2_000_000_000  # of a JPEG with more scans than that: pixels times scans

# What may be decoded on the event loop, beside its bytes and pixels: a hundred milliseconds can hide in a small file.
QUICK_READS = 500
QUICK_SCANS = 16  # of a JPEG
QUICK_WORK = 1000  # of finding a figure: runs of ink
QUICK_TEXTS = 4  # compressed texts of a PNG, 1 MB each

__all__ = ["FILTERS", "MAX_PIXELS", "Decoded", "Picture", "TakesLong", "decode_image"]

FILTERS: dict[str, Image.Resampling] = {f.name.lower(): f for f in Image.Resampling}


class Decoded(NamedTuple):
    """`array` (H, W, C) uint8 as the model takes it; `unsure` says why no answer about it should be relied on."""

    array: np.ndarray
    unsure: str | None = None


def decode_image(
    data: bytes | memoryview,
    shape: tuple[int, int, int],
    convention: str = "plain",
    resample: str = "bilinear",
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> np.ndarray:
    """`shape` is the model's (H, W, C), C 1 or 3; returns that shape as uint8. `options` are those of `to_array`.

    Raises InvalidImage, UnsupportedFormat, ImageTooLarge, or InvalidRequest for an address in place of bytes.
    """
    return Picture.open(data, max_pixels).to_array(shape, convention, resample, **options).array


class Picture:
    """An upload whose header has been read, once: `to_array` decodes it, on whichever thread."""

    def __init__(self, image: Image.Image, reads: "_Reads"):
        self._image = image
        self._reads = reads

    @classmethod
    def open(cls, data: bytes | memoryview, max_pixels: int = MAX_PIXELS, quick: bool = False) -> "Picture":
        """Read the header: the format is enabled and the size within the limit. Raises what decode_image raises.

        With `quick` it raises TakesLong, and so may `to_array`, where decoding it takes more than its size tells.
        """
        if (small := small_png(data, max_pixels)) is not None:
            return cls(small, _Reads(b"", quick))
        form = picture_format(data)
        scans = bytes(data).count(b"\xff\xda") if form == "JPEG" else 0
        if quick and form == "AVIF":
            raise TakesLong  # its frame may have more pixels than the file says, which only decoding shows
        if quick and (scans > QUICK_SCANS or (form == "PNG" and bytes(data).count(b"TXt") > QUICK_TEXTS)):
            raise TakesLong
        # Pillow refuses above twice this: a GIF's frame or a TIFF's tile may be far larger than the picture is said to
        # be, and memory is taken for it (4 GB for a GIF of 65 bytes, found by fuzzing Pillow 13.0).
        Image.MAX_IMAGE_PIXELS = max_pixels // 2
        reads = _Reads(data, quick)
        try:
            if form == "AVIF" and (inner := largest_frame(bytes(data))) > max_pixels:
                raise ImageTooLarge(f"the AVIF image has a frame of {inner:,} pixels; the limit is {max_pixels:,}")
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

    @property
    def is_decoded(self) -> bool:
        """Whether nothing is left to do but to bring it to the model's shape."""
        return self._image.format is None

    @property
    def mode(self) -> str:
        """Pillow's name for what a pixel holds."""
        return self._image.mode

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        image = self._image
        if self.is_decoded or image.format == "TIFF":  # of which Pillow gives the size that it will have, upright
            return image.size
        if image.format == "PNG" and "exif" not in image.info and b"eXIf" not in self._reads.getvalue():
            return image.size  # Pillow would decode all pixels to look behind them
        return (image.height, image.width) if orientation(image) in (5, 6, 7, 8) else image.size

    def take_time(self) -> None:
        """Decoding it may take long from now on."""
        self._reads.quick = False

    def to_array(
        self,
        shape: tuple[int, int, int],
        convention: str = "plain",
        resample: str = "bilinear",
        resize_to: int | None = None,
        fill: int | Sequence[int] = 0,
    ) -> Decoded:
        """Decode it and bring it to `shape` (H, W, C), once. Raises InvalidImage if its data is damaged.

        `convention` is plain, pad, centre_crop or light_on_dark_centred, `resample` one of FILTERS. `resize_to` is for
        centre_crop (see `fitting.fit`), `fill` for pad: the level of each channel beside the picture.
        """
        image = self._image
        try:
            decoded = self._decoded(shape, convention, FILTERS[resample], resize_to, fill)
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

    def _decoded(
        self,
        shape: tuple[int, int, int],
        convention: str,
        resample: Image.Resampling,
        resize_to: int | None,
        fill: int | Sequence[int],
    ) -> Decoded:
        image, frame = self._image, (shape[1], shape[0])
        centred = convention == "light_on_dark_centred"
        if image.format == "JPEG":
            self._reads.end_with(whole_jpeg(self._reads.getvalue()))
        if centred:
            # Without its profile: writing is told from paper by contrast, and a profile keeps that.
            grey = flat(image, "L", any_range=True, coloured=False)
            budget = Budget(QUICK_WORK) if self._reads.quick else None
            return Decoded(*light_on_dark(np.asarray(grey), shape, resample, budget))
        shrink = surplus(fit(self.size, frame, convention, resize_to))
        if image.format == "JPEG" and shrink > 1:
            # libjpeg decodes to 1/2, 1/4 or 1/8 of the size, up to eight times as fast.
            before = image.width
            image.draft(None, (image.width // shrink, image.height // shrink))
            shrink = max(1, shrink * image.width // before)
        self._refuse_slow_profile()
        pixels = flat(image, "L" if shape[2] == 1 else "RGB", shrink=shrink)
        return Decoded(
            np.asarray(_fitted(pixels, fit(pixels.size, frame, convention, resize_to), frame, resample, fill))
        )

    def _refuse_slow_profile(self) -> None:
        """Where there is no time, a profile that was never seen before takes too much of it."""
        embedded, kind = self._image.info.get("icc_profile"), profile_mode(self._image.mode)
        if self._reads.quick and embedded and kind and not profile.is_known(embedded, kind):
            raise TakesLong


def _fitted(
    pixels: Image.Image,
    fit: Fit,
    frame: tuple[int, int],
    resample: Image.Resampling,
    fill: int | Sequence[int],
) -> Image.Image:
    """`pixels` in the model's frame, as `fit` says."""
    if fit.cut:
        pixels = pixels if fit.box == (0, 0, *pixels.size) else pixels.crop(fit.box)
        part = pixels if pixels.size == fit.size else pixels.resize(fit.size, resample)
    elif fit.box == (0, 0, *pixels.size) and pixels.size == fit.size:
        part = pixels
    else:
        part = pixels.resize(fit.size, resample, fit.box)
    if fit.size == frame:
        return part
    levels = [fill] if isinstance(fill, int) else list(fill)
    canvas = Image.new(pixels.mode, frame, tuple(levels * len(pixels.getbands()) if len(levels) == 1 else levels))
    canvas.paste(part, fit.at)
    return canvas


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
