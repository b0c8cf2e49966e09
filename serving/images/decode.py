"""The bytes of an uploaded picture -> the uint8 array a model takes. No framework, no model, no settings.

The bytes decide the format, never a declared type. The format is told by its signature, the size is checked before
any pixel is decoded, and whatever Pillow raises becomes one of this project's errors here.
"""

import functools
import io
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
)

from serving.errors import ClassifyError, ImageTooLarge, InvalidImage, InvalidRequest, UnsupportedFormat

# Of damaged metadata and large sizes; each distinct text would be written to the log and remembered for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Called directly: Image.open would refuse what is over the limit without telling its size.
_OPENERS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_ENABLED = "PNG, JPEG, WebP, GIF, BMP and TIFF"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
_DISABLED: tuple[tuple[bytes, str], ...] = (
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II+\x00", "BigTIFF"),
    (b"MM\x00+", "BigTIFF"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"v/1\x01", "OpenEXR"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
)
_ADDRESSES = (b"http:", b"https:", b"file:", b"ftp:", b"s3:", b"gs:", b"//")
_UPRIGHT: dict[int, Image.Transpose] = {  # EXIF 2.3, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow walks over a file's segments in Python, and libjpeg over all pixels for each scan of a JPEG: without limits a
# few megabytes keep a core busy for seconds, or for many minutes. Cameras and editors stay far below both.
MAX_READS = 100_000
MAX_SCANS = 32
MAX_SCANNED_PIXELS = 2_000_000_000  # of a JPEG with more scans than that: pixels times scans

# What may be decoded on the event loop, beside its bytes and pixels: a hundred milliseconds can hide in a small file.
QUICK_READS, QUICK_SCANS, QUICK_TEXTS = 500, 16, 4  # of a JPEG the scans, of a PNG the compressed texts, 1 MB each

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still this many times the model's (libjpeg scales while
# it decodes, eight times as fast): the antialiasing that follows averages the rest. Training does the same.
DRAFT = 4

FIGURE = 20 / 28  # MNIST's figures fit a 20x20 box inside 28x28, centred by their mass (LeCun et al. 1998, III.A)
_MIN_CONTRAST = 24  # grey levels between figure and background; below it there is no figure to centre


class TakesLong(Exception):
    """More work than was allowed; no failure."""


def decode_image(
    data: bytes | memoryview,
    shape: tuple[int, int, int],
    convention: str = "plain",
    resample: str = "bilinear",
    max_pixels: int = 50_000_000,
) -> np.ndarray:
    """`shape` is the model's (H, W, C), C 1 or 3; returns that shape as uint8.

    Raises InvalidImage, UnsupportedFormat, ImageTooLarge, or InvalidRequest for an address in place of bytes.
    """
    return to_array(open_image(data, max_pixels), shape, convention, resample)


def open_image(
    data: bytes | memoryview, max_pixels: int, quick: bool = False, reads: "_Reads | None" = None
) -> Image.Image:
    """Header only: the format is enabled and the size within the limit. Raises what decode_image raises.

    With `quick` it raises TakesLong, and so may `to_array`, where more than its bytes and pixels tell is to be done.
    """
    form = picture_format(data)
    if quick and (
        (form == "JPEG" and bytes(data).count(b"\xff\xda") > QUICK_SCANS)
        or (form == "PNG" and bytes(data).count(b"TXt") > QUICK_TEXTS)
    ):
        raise TakesLong
    # Pillow refuses above twice this: a GIF's frame or a TIFF's tile may be far larger than the picture is said to be,
    # and memory is taken for it (4 GB for a GIF of 65 bytes, found by fuzzing Pillow 13.0).
    Image.MAX_IMAGE_PIXELS = max_pixels // 2
    try:
        image = _OPENERS[form](_Reads(data, quick) if reads is None else reads)
    except Image.DecompressionBombError as err:
        raise ImageTooLarge(
            f"the {form} image, or a piece of it, has more than the limit of {max_pixels:,} pixels"
        ) from err
    except (ClassifyError, TakesLong):
        raise
    except Exception as err:  # Pillow's plugins raise what they like on damaged files
        raise InvalidImage(f"the {form} image cannot be decoded: its header is truncated or damaged") from err
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"the image has {width}x{height} = {width * height:,} pixels; the limit is {max_pixels:,}")
    if width * height == 0:
        raise InvalidImage(f"the image is empty: {width}x{height} pixels")
    if form == "JPEG":
        scans = bytes(data).count(b"\xff\xda")
        if scans > MAX_SCANS and scans * max(width * height, 256 * 256) > MAX_SCANNED_PIXELS:
            raise ImageTooLarge(
                f"the JPEG has {scans:,} scans of {width}x{height} pixels; the limit is {MAX_SCANS} scans"
            )
    return image


class Decoded(NamedTuple):
    """`array` (H, W, C) uint8 as the model takes it; `unsure` says why no answer about it should be relied on."""

    array: np.ndarray
    unsure: str | None = None


class Picture:
    """An upload whose header has been read, once: `to_array` decodes it, on whichever thread."""

    def __init__(self, image: Image.Image, reads: "_Reads"):
        self._image = image
        self._reads = reads

    @classmethod
    def open(cls, data: bytes | memoryview, max_pixels: int, quick: bool = False) -> "Picture":
        """Raises what decode_image raises; with `quick` TakesLong, and so may `to_array`."""
        reads = _Reads(data, quick)
        return cls(open_image(data, max_pixels, quick, reads), reads)

    @property
    def pixels(self) -> int:
        return self._image.width * self._image.height

    def take_time(self) -> None:
        """Decoding it may take long from now on."""
        self._reads.quick = False

    def to_array(self, shape: tuple[int, int, int], convention: str, resample: str) -> Decoded:
        return Decoded(to_array(self._image, shape, convention, resample))


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


def plain_png(data: bytes, shape: tuple[int, int, int], convention: str) -> np.ndarray | None:
    """The pixels of a PNG that has the model's `shape` already and holds nothing but them; None for any other file.

    The commonest request in a third of the time: Pillow's decoder without the layers above it. What is damaged,
    inverted or has one chunk more is left to the ordinary way, which knows what to say of it.
    """
    height, width, channels = shape
    start, mode = _plain_png_start(height, width, channels)
    if not (data.startswith(start) and data.endswith(_PNG_END) and data[37:41] == b"IDAT"):
        return None
    end = 41 + int.from_bytes(data[33:37], "big")
    if end + 4 + len(_PNG_END) != len(data) or zlib.crc32(data[37:end]) != int.from_bytes(data[end : end + 4], "big"):
        return None
    raw = _inflated(data[41:end], mode, width, height, height * width * channels)
    if raw is None:
        return None
    array = np.frombuffer(raw, np.uint8).reshape(shape)
    if convention == "light_on_dark_centred":
        last = len(raw) - width
        ring = raw[:width] + raw[last:] + raw[width:last:width] + raw[2 * width - 1 : last : width]
        light = len(ring.translate(None, _DARK))
        if channels != 1 or 2 * light >= len(ring):  # the median may be above 127: dark on light
            return None
    return array


def _inflated(compressed: bytes, mode: str, width: int, height: int, size: int) -> bytes | None:
    """What Image.frombytes(mode, (width, height), compressed, "zip", mode, False).tobytes() does with Pillow's C types,
    in half the time (Pillow 13.0); the tests hold one against the other."""
    try:
        pixels = _imaging.new(mode, (width, height))
        decoder = _imaging.zip_decoder(mode, mode, False)
        decoder.setimage(pixels, (0, 0, width, height))
        left, error = decoder.decode(compressed)
        if left >= 0 or error:  # rows are missing
            return None
        encoder = _imaging.raw_encoder(mode, mode, 0, 1)
        encoder.setimage(pixels, (0, 0, width, height))
        raw: bytes = encoder.encode(size)[2]
    except Exception:  # as everywhere in Pillow
        return None
    return raw if len(raw) == size else None


_DARK = bytes(range(128))
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@functools.cache
def _plain_png_start(height: int, width: int, channels: int) -> tuple[bytes, str]:
    """The first 33 bytes of an 8-bit PNG without interlacing or palette (PNG 1.2, section 4.1.1), and Pillow's mode."""
    colour, mode = (0, "L") if channels == 1 else (2, "RGB")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    signature = _SIGNATURES[0][0]
    return signature + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big"), mode


def to_array(image: Image.Image, shape: tuple[int, int, int], convention: str, resample: str) -> np.ndarray:
    """The opened `image` decoded and brought to `shape`; raises InvalidImage if its data is damaged."""
    grey = shape[2] == 1 or convention == "light_on_dark_centred"
    try:
        if convention == "plain":
            image.draft(None, (DRAFT * max(shape[:2]), DRAFT * max(shape[:2])))  # does nothing but to a JPEG
        pixels = _flat(image, "L" if grey else "RGB")
        if convention == "light_on_dark_centred":
            array = light_on_dark(np.asarray(pixels), pixels.mode == image.mode, shape, _FILTERS[resample])
        else:
            array = np.asarray(_fit(pixels, shape, _FILTERS[resample]))
    except Image.DecompressionBombError as err:
        raise ImageTooLarge(f"a piece of the {image.format} image has more pixels than the limit") from err
    except (ClassifyError, TakesLong):
        raise
    except Exception as err:  # Pillow's plugins raise what they like on damaged files
        raise InvalidImage(f"the {image.format} image cannot be decoded: it is truncated or damaged") from err
    if array.ndim == 2:
        array = array[..., None] if shape[2] == 1 else np.repeat(array[..., None], 3, axis=2)
    return array


def picture_format(data: bytes | memoryview) -> str:
    """Pillow's name of the enabled format that `data` starts with, else the error that says what it is instead."""
    head = bytes(data[:512])
    if not head:
        raise InvalidImage("the image is empty: 0 bytes")
    for signature, form in _SIGNATURES:
        if head.startswith(signature):
            return form
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for signature, form in _DISABLED:
        if head.startswith(signature):
            raise UnsupportedFormat(f"{form} is not enabled; send {_ENABLED}")
    if head[4:8] == b"ftyp":
        raise UnsupportedFormat(f"AVIF, HEIC and video are not enabled; send {_ENABLED}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        raise UnsupportedFormat(f"SVG is not enabled; send {_ENABLED}")
    if text.startswith(b"data:"):
        raise InvalidRequest("send the image's bytes, not a data: URL")
    if text.startswith(_ADDRESSES):
        raise InvalidRequest("send the image's bytes, not an address: the service never fetches one")
    raise InvalidImage(f"the bytes are no image in an enabled format ({_ENABLED})")


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Upright, without transparency (laid on white), in `mode`; an image that is all that already is not copied."""
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip and not scale
        wide = np.array(image)  # changed in place: up to 200 MB at the pixel limit
        wide >>= 8
        image = Image.fromarray(np.clip(wide, 0, 255, out=wide).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it is missing or cannot be read: a broken tag does not spoil a good picture."""
    image.load()
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises many kinds on malformed EXIF
        return 1


def _fit(image: Image.Image, shape: tuple[int, int, int], resample: Image.Resampling) -> Image.Image:
    size = (shape[1], shape[0])
    return image if image.size == size else image.resize(size, resample)


_FILTERS: dict[str, Image.Resampling] = {f.name.lower(): f for f in Image.Resampling}


def light_on_dark(
    grey: np.ndarray, same_mode: bool, shape: tuple[int, int, int], resample: Image.Resampling
) -> np.ndarray:
    """A (h, w) uint8 figure on a plain ground -> (H, W) uint8 as MNIST was made.

    Dark-on-light pictures are inverted; the figure is cut out, scaled to 20/28 of the frame and placed with its centre
    of mass in the middle (LeCun et al. 1998, section III.A). A picture that already has the model's size, mode and
    polarity, or one whose figure already stands so, is returned as it is.
    """
    ground = _border_level(grey)
    inverted = ground > 127
    if inverted:
        grey, ground = 255 - grey, 255 - ground
    size = shape[:2]
    if grey.shape == size and same_mode and not inverted:
        return grey
    figure = np.maximum(grey, np.uint8(ground)) - np.uint8(ground)
    contrast = int(figure.max())
    frame = Image.fromarray(grey)
    if contrast < _MIN_CONTRAST:
        return np.asarray(_fit(frame, shape, resample))
    box = _bounding_box(figure > contrast * 0.25)
    if grey.shape == size and _stands_as_mnist(figure, box):
        return grey
    cut = Image.fromarray(figure).crop(box).point([min(255, int(level * (255 / contrast))) for level in range(256)])
    scale = FIGURE * min(size) / max(cut.size)
    small = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), resample)
    x, y = _centre_of_mass(np.asarray(small))
    left = min(max(round(size[1] / 2 - x), 0), size[1] - small.width)
    top = min(max(round(size[0] / 2 - y), 0), size[0] - small.height)
    canvas = Image.new("L", (size[1], size[0]))
    canvas.paste(small, (left, top))
    return np.asarray(canvas)


def _border_level(grey: np.ndarray) -> int:
    """The median of the outermost pixels."""
    ring = sorted(np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]]).tobytes())
    return (ring[(len(ring) - 1) // 2] + ring[len(ring) // 2]) // 2


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre_of_mass(figure: np.ndarray) -> tuple[float, float]:
    """(x, y) in pixels, a pixel's centre at .5."""
    weight = figure.astype(np.float64)
    total = weight.sum()
    x = (weight.sum(axis=0) * (np.arange(figure.shape[1]) + 0.5)).sum() / total
    y = (weight.sum(axis=1) * (np.arange(figure.shape[0]) + 0.5)).sum() / total
    return float(x), float(y)


def _stands_as_mnist(figure: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether the figure's longer side and centre of mass are within two pixels and one of where MNIST puts them."""
    height, width = figure.shape
    longer = max(box[2] - box[0], box[3] - box[1])
    x, y = _centre_of_mass(figure)
    return abs(longer - FIGURE * min(height, width)) <= 2 and abs(x - width / 2) <= 1.5 and abs(y - height / 2) <= 1.5
