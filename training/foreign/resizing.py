"""How a network's author brought a picture to the network's size, and the same in plain Pillow.

The service does it by the convention that the card names; `Resizing.of` repeats it here as the author's library does,
so that the two can be compared. Knows no network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from training.data.pictures import RESIZES

# Pillow's filters that a card may name
FILTERS = {n: Image.Resampling[n.upper()] for n in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")}
CONVENTIONS = RESIZES  # the option, and what the card calls it


@dataclass(frozen=True)
class Resizing:
    """`kind` is squash, crop or pad; `to` the pixels of the shorter side before a crop, None for the crop's own.

    `fill` is the level beside a padded picture, of all channels or of each.
    """

    kind: str = "squash"
    to: int | None = None
    resample: str = "bilinear"
    fill: tuple[int, ...] = (0,)

    def of(self, image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
        """A picture -> (H, W, C) uint8, as torchvision's and transformers' preparation does it."""
        height, width, channels = shape
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() or "transparency" in upright.info:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        pixels = upright.convert("L" if channels == 1 else "RGB")
        resample = FILTERS[self.resample]
        if self.kind == "squash":
            pixels = pixels.resize((width, height), resample)
        elif self.kind == "pad":
            scale = min(width / pixels.width, height / pixels.height)
            size = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
            levels = self.fill * channels if len(self.fill) == 1 else self.fill
            pixels, small = Image.new(pixels.mode, (width, height), levels), pixels.resize(size, resample)
            pixels.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
        else:
            pixels = _cropped(pixels, (width, height), self.to, resample)
        return np.asarray(pixels).reshape(shape)

    def card(self) -> dict[str, Any]:
        """The keys of card.json that tell the service the same."""
        keys: dict[str, Any] = {"input_convention": CONVENTIONS[self.kind], "resample": self.resample}
        if self.kind == "crop" and self.to is not None:
            keys["resize_to"] = self.to
        if self.kind == "pad" and self.fill != (0,):
            keys["pad_fill"] = list(self.fill)
        return keys

    def __str__(self) -> str:
        if self.kind == "crop":
            before = f"the shorter side to {self.to} pixels, then " if self.to else ""
            return f"{before}the middle cut out ({self.resample})"
        return f"{'squashed' if self.kind == 'squash' else 'padded'} ({self.resample})"


def _cropped(pixels: Image.Image, size: tuple[int, int], to: int | None, resample: Image.Resampling) -> Image.Image:
    """torchvision's Resize(to) and CenterCrop(size); without `to`, the largest box in the middle, resized once."""
    width, height = size
    if to is None:
        scale = min(pixels.width / width, pixels.height / height)
        box = max(1, round(scale * width)), max(1, round(scale * height))
        left, top = (pixels.width - box[0]) // 2, (pixels.height - box[1]) // 2
        return pixels.crop((left, top, left + box[0], top + box[1])).resize(size, resample)
    short, long = sorted(pixels.size)
    sides = (to, int(to * long / short))
    pixels = pixels.resize(sides if pixels.width <= pixels.height else sides[::-1], resample)
    left, top = round((pixels.width - width) / 2), round((pixels.height - height) / 2)
    return pixels.crop((left, top, left + width, top + height))
