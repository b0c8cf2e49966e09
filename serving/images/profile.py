"""A picture with an embedded ICC profile, or in CIE Lab -> the same colours in sRGB, which every model here expects.

A profile that is broken, or not of the picture's kind, is ignored as browsers do. Knows neither files nor models.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

Transform = Callable[[Image.Image], Image.Image]

MAX_BYTES = 4 << 20  # of a profile; a press profile has 0.5 to 2.7 MB
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC.1:2022, table 19 -> Pillow's mode
_SAME = 2  # levels by which a profile may differ from sRGB and still be taken for it
_KEPT = 16  # transforms; each holds up to 2 MB
_kept: OrderedDict[tuple[bytes, str], Transform | None] = OrderedDict()
_lock = threading.Lock()


def is_known(profile: bytes, mode: str) -> bool:
    """Whether `transform` has made this one already: the first time takes milliseconds, whatever the picture."""
    return len(profile) > MAX_BYTES or _key(profile, mode) in _kept


def transform(profile: bytes, mode: str) -> Transform | None:
    """What brings a picture of `mode` (L, RGB or CMYK) with `profile` to sRGB, as L or RGB; None where nothing is to be
    done, or nothing can be."""
    if len(profile) > MAX_BYTES:
        return None
    key = _key(profile, mode)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    try:
        made = _made(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a broken profile does not spoil a good picture
        made = None
    with _lock:
        _kept[key] = made
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    return made


def _key(profile: bytes, mode: str) -> tuple[bytes, str]:
    return hashlib.blake2b(profile, digest_size=16).digest(), mode


def _made(profile: bytes, mode: str) -> Transform | None:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if _SPACES.get(source.profile.xcolor_space) != mode:
        return None
    change = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "L":
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        levels = np.asarray(ImageCms.applyTransform(ramp, change))[0, :, 1].tolist()  # the green of a grey
        return None if _alike(np.array(levels), np.arange(256)) else lambda image: image.point(levels)
    if mode == "RGB":
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
        if _alike(np.asarray(ImageCms.applyTransform(Image.fromarray(cube), change)), cube):
            return None
    return lambda image: _apply(image, change)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return int(np.abs(one.astype(int) - other).max()) <= _SAME


def _apply(image: Image.Image, change: ImageCms.ImageCmsTransform) -> Image.Image:
    return change.apply(image)


def from_lab(image: Image.Image) -> Image.Image:
    """A picture of mode LAB as RGB: CIE L*a*b*, D50 (TIFF 6.0, section 23)."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _apply(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
