"""A decoded picture of any mode -> one of 8 bits a channel in sRGB, upright and without transparency.

Knows the pictures' files by what Pillow says of them, and no model.
"""

import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image

from serving.errors import InvalidImage
from serving.images import profile

_UPRIGHT: dict[int, Image.Transpose] = {  # EXIF 2.3, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _LARGEST = 258, (341, 281)  # TIFF 6.0: BitsPerSample; SMaxSampleValue, MaxSampleValue
_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"  # ISO/IEC 10918-1, table B.1
_PHOTOMETRIC = 262  # TIFF 6.0: PhotometricInterpretation, 0 where 0 is white
_LARGE = 4_000_000  # pixels whose colours are changed in a tenth of a second
_DARK = 4096  # of 65,536 levels: below it a 16-bit picture is nearly black, or holds 12 bits or fewer


def flat(image: Image.Image, mode: str, any_range: bool = False, coloured: bool = True, shrink: int = 1) -> Image.Image:
    """`image` upright, without transparency, in `mode` (L or RGB); one that is all that already is not copied.

    With `any_range`, levels of more than 8 bits are stretched to their own range where the file does not say which they
    use; otherwise such a picture is refused: InvalidImage. With `coloured` an embedded ICC profile is followed; a large
    picture may be made smaller by the factor `shrink` for that.
    """
    bits = _bits(image)
    image.load()
    transposition = _UPRIGHT.get(orientation(image))
    upright = image if transposition is None else image.transpose(transposition)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _grey(np.asarray(upright), image, any_range)
    elif bits > 8:
        _refuse_nearly_black(upright, any_range)
    if image.format == "PNG" and "transparency" in upright.info:
        upright.info["transparency"] = _transparent(upright, bits)
    if upright.mode == "LAB":
        upright = profile.from_lab(_shrunk(upright, shrink))
    elif coloured and (embedded := image.info.get("icc_profile")):
        upright = _in_srgb(upright, embedded, shrink)
    if upright.has_transparency_data:
        upright = _laid_on_ground(upright)
    return upright if upright.mode == mode else upright.convert(mode)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it is missing or cannot be read: a broken tag does not spoil a good picture."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow raises many kinds on malformed EXIF
        return 1


# More than 8 bits


def _bits(image: Image.Image) -> int:
    """Bits of a channel as the file has them."""
    if image.format == "PNG":
        data: Any = getattr(image, "fp", None)
        at = data.tell()
        data.seek(24)  # PNG 1.2, section 4.1.1
        bits = data.read(1)[0]
        data.seek(at)
        return int(bits)
    tags = getattr(image, "tag_v2", None)
    return max(tags.get(_BITS, (8,)), default=8) if tags is not None else 8


def _largest(image: Image.Image) -> float | None:
    """The value that stands for white, where a TIFF says so."""
    tags = getattr(image, "tag_v2", {})
    for tag in _LARGEST:
        value = tags.get(tag)
        if isinstance(value, tuple):
            value = max(value, default=None)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None


def _grey(wide: np.ndarray, image: Image.Image, any_range: bool) -> Image.Image:
    """The (h, w) levels of `image` as L, or as LA where one of them is transparent."""
    levels = _eight_bits(wide, _largest(image), any_range)
    grey = Image.fromarray(255 - levels if _is_negative(image) else levels)
    if image.format == "PNG" and isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(wide == clear, np.uint8(0), np.uint8(255))))
    return grey


def _eight_bits(wide: np.ndarray, largest: float | None, any_range: bool) -> np.ndarray:
    """(h, w) of 16-bit or 32-bit integers or of floats -> uint8."""
    low, high = float(wide.min()), float(wide.max())
    if not np.isfinite([low, high]).all():
        raise InvalidImage("the image holds values that are no numbers")
    white = largest
    if white is None and wide.dtype.kind == "f" and low >= 0 and high <= 1:
        white = 1.0
    elif white is None and wide.dtype.itemsize == 2 and high >= _DARK:
        white = 65535.0
    if white is not None and high <= white and low >= 0:
        if white == 65535.0:
            return (wide >> 8).astype(np.uint8)
        return (wide * (255.0 / white)).astype(np.uint8)
    if high == low == 0:
        return np.zeros(wide.shape, np.uint8)
    if not any_range:
        raise InvalidImage(
            f"the image has values from {low:g} to {high:g} and does not say which is white: save it with 8 bits a "
            "channel, or with its whole 16 bits in use"
        )
    return ((wide - low) * (255.0 / max(high - low, 1e-30))).astype(np.uint8)


def _refuse_nearly_black(image: Image.Image, any_range: bool) -> None:
    """Pillow has kept the higher 8 of 16 bits a channel: of 10 or 12 bits in the lower ones little is left."""
    colours = image.getextrema()
    highest = max(high for _, high in (colours if isinstance(colours[0], tuple) else (colours,))[:3])
    if highest < _DARK // 256 and not any_range:
        raise InvalidImage(
            "the image has 16 bits a channel and is nearly black, or uses only the lower ones: save it with 8 bits a "
            "channel, or with its whole 16 bits in use"
        )


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow turns such a TIFF of 8 bits or fewer round, and leaves one of more as it is."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == 0


# Colours


def _in_srgb(image: Image.Image, embedded: bytes, shrink: int) -> Image.Image:
    """The colours that its ICC profile means. A profile of another kind of picture is ignored."""
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    kind = profile_mode(image.mode)
    change = profile.transform(embedded, kind) if kind else None
    if change is None:
        return image
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        image = change(image.convert(kind))
        image.putalpha(alpha)
        return image
    return change(_shrunk(image if image.mode == kind else image.convert(kind), shrink))


def profile_mode(mode: str) -> str | None:
    """Which kind of profile belongs to a picture of `mode`: that of L, RGB or CMYK."""
    if mode in ("1", "L", "LA"):
        return "L"
    return mode if mode == "CMYK" else "RGB" if mode in ("P", "RGB", "RGBA", "RGBX", "YCbCr") else None


def _shrunk(image: Image.Image, factor: int) -> Image.Image:
    """A large picture by `factor`, so that its colours are soon changed."""
    return image.reduce(factor) if factor > 1 and image.width * image.height > _LARGE else image


# Transparency


def _transparent(image: Image.Image, bits: int) -> Any:
    """The transparent colour of a PNG in levels of 8 bits. The file has it in its own `bits` (PNG 1.2, section 4.2.9),
    and so does Pillow 13.0, which scales the pixels only."""
    clear = image.info["transparency"]
    if image.mode == "L" and isinstance(clear, int):
        return (clear & (2**bits - 1)) * 255 // (2**bits - 1)
    if image.mode == "RGB" and bits == 16:
        return tuple(level >> 8 for level in clear)
    return clear


def _laid_on_ground(image: Image.Image) -> Image.Image:
    """On white, or on black where what is drawn is light: ink must not vanish."""
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    lowest, highest = alpha.getextrema()
    if lowest == 255 or (image.format == "BMP" and highest == 0):  # some programs write an alpha of 0 and mean nothing
        return rgba.convert("RGB")
    weight = np.asarray(alpha, np.float32)
    total = float(weight.sum())
    light = float((np.asarray(rgba.convert("L"), np.float32) * weight).sum()) / total if total else 0.0
    ground = "black" if light > 127.5 else "white"
    return Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba)


# JPEG files without their end


def whole_jpeg(data: bytes) -> bytes:
    """`data`; a JPEG without its end marker with it. Some cameras and downloads leave it out, and Pillow refuses such a
    file though all rows are there. Raises InvalidImage where rows are missing."""
    if not data.startswith(_JPEG) or data.rfind(_END_OF_IMAGE) > data.rfind(_START_OF_SCAN):
        return data
    # Missing blocks show in a smaller picture too: in an eighth of the size, in half of it where scans refine others.
    smaller = 8 if data.count(_START_OF_SCAN) == 1 else 2
    pictures = set()
    for rest in (b"", b"\x55" * 4096, b"\xd3\x1c\x9a" * 1366):  # where blocks are missing, they come from what follows
        with Image.open(io.BytesIO(data + rest + _END_OF_IMAGE)) as image:
            image.draft(None, (max(1, image.width // smaller), max(1, image.height // smaller)))
            pictures.add(hashlib.blake2b(image.tobytes()).digest())
    if len(pictures) > 1:
        raise InvalidImage("the JPEG image cannot be decoded: it is truncated, rows are missing")
    return data + _END_OF_IMAGE
