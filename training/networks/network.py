"""A row of the NETWORKS table -> an uncompiled Keras model.

A block is a function from tensor to tensor, a connection combines its output with earlier tensors, and a family stacks
blocks between a stem and a head. Nothing here knows data sets, recipes or training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TypeAlias

import keras
from keras import layers

Tensor: TypeAlias = keras.KerasTensor
Block: TypeAlias = Callable[[Tensor, str], Tensor]
# (outputs of the stem and of every earlier block, this block's body, layer name, depth in (0, 1]) -> block's output
Connection: TypeAlias = Callable[[list[Tensor], Tensor, str, float], Tensor]

DROPOUT = 0.5
ENLARGING = "enlarged"  # the name of a layer that enlarges small images; a recipe may let it enlarge them by less
PREFIX = "keras:"  # of the rows that keras.applications has


@dataclass(frozen=True)
class Network:
    """One row of NETWORKS.

    `datasets` are those it was designed for; the first is the default. `smallest` is the least number of pixels of an
    image's shorter side. `source` names the paper. `image_size` is the side in pixels of the square images that it
    was designed for, None where any size suits. `pretrained` puts weights that were learnt from many other images into
    a built model, all but the last layer's: ImageNet's (`imagenet`) or those of a file. It raises ValueError where
    these are not to be had.
    """

    family: Callable[[Tensor, "Network"], Tensor]
    block: Block
    blocks: int
    connection: Connection
    datasets: tuple[str, ...]
    smallest: int
    source: str
    image_size: int | None = None
    pretrained: Callable[[keras.Model, str], None] | None = None

    def macs(self, input_shape: tuple[int, int, int], classes: int = 10) -> int:
        """Multiply-accumulate operations of the convolutions and matrix products for one image (H, W, C)."""
        return _macs(self, input_shape, classes)


def build(
    network: Network, input_shape: tuple[int, int, int], classes: int, name: str, precision: str = "float32"
) -> keras.Model:
    """An uncompiled functional model: (N, H, W, C) float32 in [0, 1] -> (N, classes) probabilities.

    `precision` is the name of Keras' dtype policy in which its layers compute. Raises ValueError for an input the
    network cannot take, naming the limit and what was given.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    check_size(network, input_shape[1], input_shape[0], name)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        image = layers.Input(input_shape, name="image")
        x = network.family(image, network)
        # In float32 under any precision: bfloat16 has too few digits for probabilities.
        probabilities = layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities")(x)
        return keras.Model(image, probabilities, name=plain_name(name))
    finally:
        keras.config.set_dtype_policy(before)


def check_size(network: Network, width: int, height: int, name: str) -> None:
    """Raise ValueError for images that are too small for the network NAME; the message says what helps."""
    if min(width, height) < network.smallest:
        side = network.smallest
        raise ValueError(
            f"{name} needs images of at least {side}x{side} pixels, got {width}x{height}: --image-size {side} or more "
            "enlarges them"
        )


def plain_name(network: str) -> str:
    """A row's name as models and artifacts have it, without `keras:` and without the mark of a row for tests."""
    return network.removeprefix(PREFIX).lstrip("_")


def stack(x: Tensor, network: Network, prefix: str = "block", blocks: int | None = None) -> Tensor:
    """The row's blocks one after another, each combined with earlier tensors by the row's connection.

    The layers of block k are named PREFIXk_…. `blocks` overrides the number, for families with several stages.
    """
    count = network.blocks if blocks is None else blocks
    earlier = [x]
    for k in range(1, count + 1):
        name = f"{prefix}{k}"
        body = network.block(earlier[-1], name)
        earlier.append(network.connection(earlier, body, name, k / count))
    return earlier[-1]


def conv(
    filters: int, name: str, kernel: int = 3, padding: str = "valid", activation: str | None = None
) -> layers.Layer:
    return layers.Conv2D(filters, kernel, padding=padding, activation=activation, name=name)


@cache
def _macs(network: Network, input_shape: tuple[int, int, int], classes: int) -> int:
    return macs_of(build(network, input_shape, classes, "cost"))


def macs_of(model: keras.Model) -> int:
    """Multiply-accumulate operations of a model's convolutions and matrix products for one image; nested models too."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += macs_of(layer)
        for part in ("kernel", "depthwise_kernel", "pointwise_kernel"):  # separable convolutions have the latter two
            # Each weight of a kernel is used once at every place of the output.
            if (kernel := getattr(layer, part, None)) is not None:
                total += prod(kernel.shape) * prod(layer.output.shape[1:-1])
    return total
