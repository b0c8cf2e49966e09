"""What a network expects of a picture's pixels: their range, mean, standard deviation and order of channels.

`Pixels.of` computes it in plain NumPy, as the network's author did; `Pixels.factors` gives a graph the same as one
multiplication and one addition. Knows no framework.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.artifact.errors import ExportError


@dataclass(frozen=True)
class Pixels:
    """The network takes (pixel / divisor - mean) / std, with one mean and std for all channels or one for each.

    They stand in the order in which the network takes the channels: blue first where `bgr`.
    """

    divisor: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def of(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8, red first -> float32 of the same shape."""
        ordered = images[..., ::-1] if self.bgr else images
        scaled = ordered.astype(np.float32) / np.float32(self.divisor)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """The same as pixel * scale + offset: two float32 arrays of one value, or of one for each channel."""
        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        scale, offset = np.broadcast_arrays(1 / (self.divisor * std), -mean / std)
        return scale.astype(np.float32), offset.astype(np.float32)

    def check(self, channels: int) -> None:
        """Raise ExportError where mean or std are for another number of channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                given = ",".join(f"{v:g}" for v in values)
                raise ExportError(f"{name} {given} is for {len(values)} channels, but the model takes {channels}")
        if self.bgr and channels != 3:
            raise ExportError(f"blue first is for pictures of 3 channels, but the model takes {channels}")

    def __str__(self) -> str:
        for name, known in RANGES.items():
            if known == self:
                return name
        mean, std = (",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        order = ", blue first" if self.bgr else ""
        return f"pixel/{self.divisor:g} minus {mean}, divided by {std}{order}"


RANGES: dict[str, Pixels] = {
    "0-1": Pixels(),
    "-1-1": Pixels(127.5, (1.0,)),
    "0-255": Pixels(1.0),
    # torchvision's, of all its networks; keras.applications calls it mode "torch"
    "imagenet": Pixels(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # keras.applications.imagenet_utils.preprocess_input, mode "caffe": ResNet50 and VGG
    "caffe": Pixels(1.0, (103.939, 116.779, 123.68), bgr=True),
}


def pixels_of(
    name: str | None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, order: str | None = None
) -> Pixels | None:
    """The range `name`, or what `mean` and `std` say; None where neither is given. Raises ExportError.

    `mean` and `std` are in the units of the range that goes before them: 0-1, or 0-255 where one is above 1. `order`
    (RGB or BGR) replaces the range's own.
    """
    given = [values for values in (mean, std) if values is not None]
    if name is None and not given:
        return None
    pixels = RANGES[name] if name is not None else Pixels(1.0 if max(map(max, given)) > 1 else 255.0)
    if given:
        if name not in (None, "0-1", "0-255"):
            raise ExportError(f"--input-range {name} has a mean and std of its own: leave out one of the two")
        pixels = Pixels(pixels.divisor, tuple(mean or (0.0,)), tuple(std or (1.0,)))
        if not all(np.isfinite(values).all() for values in given) or min(pixels.std) <= 0:
            raise ExportError("--mean and --std are finite numbers, and each std is above 0")
    if order is not None and (order == "BGR") != pixels.bgr:
        # A range's own mean and std belong to its channels, those of the options stand as the network takes them.
        mean, std = (pixels.mean, pixels.std) if given else (pixels.mean[::-1], pixels.std[::-1])
        pixels = Pixels(pixels.divisor, mean, std, order == "BGR")
    return pixels
