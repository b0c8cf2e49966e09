"""What decoding needs behind Pillow's public API, each with its version, reason and gain.

`tests/images/test_seams.py` asserts every name and signature that is used here.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
)

# Of damaged metadata and large sizes; each distinct text would be written to the log and remembered for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Called directly: Image.open would refuse what is over the limit without telling its size (Pillow 13.0).
OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,  # not jpeg_factory: of an MPO, the first picture is the one to take
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a picture is decoded by one core, as of every other format


def inflated(compressed: bytes, mode: str, width: int, height: int) -> Any | None:
    """The pixels of a PNG's data as Pillow's core keeps them (which knows `getbbox(False)` and `getextrema()`, as
    Image.im does); None for what Pillow's decoder does not take.

    The decoder without the layers above it takes a third of the time of Image.open and load for a 28x28 PNG (Pillow
    13.0; `python -m benchmarks.stages` prints both).
    """
    try:
        pixels = _imaging.new(mode, (width, height))
        decoder = _imaging.zip_decoder(mode, mode, False)
        decoder.setimage(pixels, (0, 0, width, height))
        left, error = decoder.decode(compressed)
    except Exception:  # as everywhere in Pillow
        return None
    return pixels if left < 0 and not error else None  # else rows are missing


def as_bytes(pixels: Any, mode: str, width: int, height: int) -> bytes:
    """The levels of `inflated`'s pixels, row by row."""
    encoder = _imaging.raw_encoder(mode, mode, 0, 1)
    encoder.setimage(pixels, (0, 0, width, height))
    raw: bytes = encoder.encode(width * height * len(mode))[2]
    return raw


def as_image(pixels: Any) -> Image.Image:
    """A picture of `inflated`'s pixels, without copying them."""
    return Image.Image()._new(pixels)
