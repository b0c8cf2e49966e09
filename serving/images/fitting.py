"""The size of a picture and of a model's frame -> which box of the picture goes where in the frame.

The conventions differ in nothing else: `plain` squashes the whole picture, `pad` keeps its proportions and fills the
rest, `centre_crop` takes the middle. Knows sizes only, neither pixels nor files.
"""

from typing import NamedTuple

Size = tuple[int, int]  # (width, height)
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Fit(NamedTuple):
    """`box` of the picture is resized to `size` and stands at `at` (x, y) in the frame. With `cut` the box is cut out
    first; without it, the resizing filter also sees the pixels around it."""

    box: Box
    size: Size
    at: tuple[int, int] = (0, 0)
    cut: bool = False


def fit(size: Size, frame: Size, convention: str, resize_to: int | None = None) -> Fit:
    """Where a picture of `size` goes in `frame`, both (width, height) in pixels.

    `resize_to` belongs to `centre_crop`: the shorter side gets so many pixels, at least the frame's longer side, and
    then the frame is cut out of the middle, exactly as torchvision's Resize and CenterCrop do it one after the other.
    Without it the largest box of the frame's proportions is taken.
    """
    (width, height), (wide, high) = size, frame
    if convention == "pad":
        scale = min(wide / width, high / height)
        inner = (min(wide, max(1, round(width * scale))), min(high, max(1, round(height * scale))))
        return Fit((0, 0, width, height), inner, ((wide - inner[0]) // 2, (high - inner[1]) // 2))
    if convention != "centre_crop":
        return Fit((0, 0, width, height), frame)
    if resize_to is None:
        scale = min(width / wide, height / high)
        inner = (max(1, round(scale * wide)), max(1, round(scale * high)))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        return Fit((left, top, left + inner[0], top + inner[1]), frame, cut=True)
    shorter = min(size)
    whole = (resize_to * width // shorter, resize_to * height // shorter)  # the shorter side gets resize_to
    left, top = round((whole[0] - wide) / 2), round((whole[1] - high) / 2)
    x, y = width / whole[0], height / whole[1]  # pixels of the picture for one of the resized
    return Fit((left * x, top * y, min((left + wide) * x, width), min((top + high) * y, height)), frame)


def surplus(fit: Fit) -> int:
    """By how much a picture may be shrunk before it is resized, 1 or more: its box keeps enough pixels."""
    left, top, right, bottom = fit.box
    wide, high = fit.size
    return max(1, min(int(right - left) // enough(wide), int(bottom - top) // enough(high)))


def enough(side: int) -> int:
    """Pixels that are kept at least where `side` are wanted: the antialiasing that follows averages the rest. On photos
    that moves a pixel by about as much as a little less quality of the file does."""
    return side + max(64, side // 2)
