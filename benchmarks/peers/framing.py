"""A picture -> the model's frame, by Pillow alone, as the artifact's card has it.

What a tutorial would write for one network is chosen here by the card: the servers that are compared answer the same.
Knows no server. `light_on_dark_centred` is only resized: the digits that are posted stand already as MNIST's do.
"""

from typing import Any

from PIL import Image, ImageOps


def framed(image: Image.Image, card: dict[str, Any]) -> Image.Image:
    """`image` (RGB or L) in the card's `input_shape`, (height, width, channels).

    `centre_crop` with `resize_to` is torchvision's Resize and CenterCrop: the shorter side gets so many pixels.
    """
    height, width, channels = card["input_shape"]
    resample = Image.Resampling[card.get("resample", "bilinear").upper()]
    convention, shorter = card["input_convention"], card.get("resize_to")
    if convention == "centre_crop" and shorter:
        wide, high = (shorter * side // min(image.size) for side in image.size)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return image.resize((wide, high), resample).crop((left, top, left + width, top + height))
    if convention == "centre_crop":
        return ImageOps.fit(image, (width, height), resample)
    if convention == "pad":
        fill = (*card.get("pad_fill", (0,)),)
        return ImageOps.pad(image, (width, height), resample, fill * channels if len(fill) == 1 else fill)
    return image if image.size == (width, height) else image.resize((width, height), resample)
