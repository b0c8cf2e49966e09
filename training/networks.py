"""Blocks -> families -> the NETWORKS table: every Keras network of the project, built by one row each.

A block is a function from tensor to tensor; a family stacks blocks between a stem and a head; a row of
NETWORKS names the family, the block and how many of them. Nothing here knows data sets, recipes or training.

Sources: residual connections, He et al. 2015, "Deep Residual Learning for Image Recognition", eq. 1
(y = F(x) + x); dense connectivity, Huang et al. 2016, "Densely Connected Convolutional Networks", eq. 2, here
with addition in place of concatenation. Layer sizes are those of the teaching notebook the networks come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras
from keras import layers

Tensor: TypeAlias = keras.KerasTensor
Block = Callable[[Tensor, str], Tensor]

DROPOUT = 0.5
CONV_MIN_PIXELS = 13  # two valid 3x3 convolutions, a 3x3 pool of stride 3 and one more valid 3x3 convolution


# Blocks: the body F(x) of eq. 1, without the addition.


def dense_block(x: Tensor, name: str) -> Tensor:
    """[Dense 128, batch norm, relu, dropout] twice; (N, 128) -> (N, 128)."""
    for i in (1, 2):
        x = layers.Dense(128, name=f"{name}_dense{i}")(x)
        x = layers.BatchNormalization(name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
        x = layers.Dropout(DROPOUT, name=f"{name}_dropout{i}")(x)
    return x


def conv_relu_bn_block(x: Tensor, name: str) -> Tensor:
    """Conv 64 3x3 relu, batch norm, Conv 64 3x3 relu; (N, h, w, 64) -> (N, h, w, 64)."""
    x = conv(64, f"{name}_conv1", padding="same", activation="relu")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return conv(64, f"{name}_conv2", padding="same", activation="relu")(x)


def conv_bn_relu_block(x: Tensor, name: str) -> Tensor:
    """[Conv 64 3x3, batch norm, relu] twice; (N, h, w, 64) -> (N, h, w, 64)."""
    for i in (1, 2):
        x = conv(64, f"{name}_conv{i}", padding="same")(x)
        x = layers.BatchNormalization(name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    return x


def conv(filters: int, name: str, padding: str = "valid", activation: str | None = None) -> layers.Layer:
    return layers.Conv2D(filters, 3, padding=padding, activation=activation, name=name)


# Connections: which earlier tensors a block's body is added to.


def residual(earlier: list[Tensor]) -> list[Tensor]:
    """The block's own input (He et al. eq. 1)."""
    return earlier[-1:]


def dense_sum(earlier: list[Tensor]) -> list[Tensor]:
    """The stem's output and the outputs of all earlier blocks (Huang et al. eq. 2, summed)."""
    return earlier


def no_shortcut(earlier: list[Tensor]) -> list[Tensor]:
    """Nothing: the same layers as a plain feed-forward stack."""
    return []


def stack(x: Tensor, block: Block, blocks: int, connect: Callable[[list[Tensor]], list[Tensor]]) -> Tensor:
    """Apply `block` `blocks` times, adding to each body what `connect` picks of the tensors before it."""
    earlier = [x]
    for k in range(1, blocks + 1):
        body = block(earlier[-1], f"block{k}")
        shortcuts = connect(earlier)
        earlier.append(layers.Add(name=f"block{k}_add")([body, *shortcuts]) if shortcuts else body)
    return earlier[-1]


# Families: stem, stack of blocks, head.


def dense_family(image: Tensor, network: "Network") -> Tensor:
    """Flatten, Dense 128 relu twice, the blocks, Dense 128 relu, dropout; (N, H, W, C) -> (N, 128)."""
    x = layers.Flatten(name="flatten")(image)
    for i in (1, 2):
        x = layers.Dense(128, activation="relu", name=f"stem_dense{i}")(x)
    x = stack(x, network.block, network.blocks, network.connect)
    x = layers.Dense(128, activation="relu", name="head_dense")(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


def conv_family(image: Tensor, network: "Network") -> Tensor:
    """Two valid convolutions, 3x3 max pool of stride 3, the blocks, convolution, pooling, Dense 256; -> (N, 256)."""
    x = conv(32, "stem_conv1", activation="relu")(image)
    x = conv(64, "stem_conv2", activation="relu")(x)
    x = layers.MaxPooling2D(3, strides=3, name="stem_pool")(x)
    x = stack(x, network.block, network.blocks, network.connect)
    x = conv(64, "head_conv", activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = layers.Dense(256, activation="relu", name="head_dense")(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


@dataclass(frozen=True)
class Network:
    """One row of NETWORKS. `datasets` are the systems it was designed for; the first is the default."""

    family: Callable[[Tensor, "Network"], Tensor]
    block: Block
    blocks: int
    connect: Callable[[list[Tensor]], list[Tensor]]
    datasets: tuple[str, ...]


NETWORKS: dict[str, Network] = {
    #                               family        block               blocks  connect      datasets
    "dense_resnet":         Network(dense_family, dense_block,             3, residual,    ("mnist", "cifar10")),
    "conv_resnet_deep":     Network(conv_family,  conv_relu_bn_block,     19, residual,    ("mnist", "cifar10")),
    "conv_resnet_shallow":  Network(conv_family,  conv_bn_relu_block,      2, residual,    ("cifar10",)),
    "dense_sum":            Network(dense_family, dense_block,             3, dense_sum,   ("mnist",)),
    "plain":                Network(conv_family,  conv_relu_bn_block,     19, no_shortcut, ("cifar10",)),
    "_tiny":                Network(dense_family, dense_block,             2, residual,    ("digits",)),
}  # fmt: skip


def build(network: Network, input_shape: tuple[int, int, int], classes: int, name: str) -> keras.Model:
    """An uncompiled functional model: (N, H, W, C) float32 in [0, 1] -> (N, classes) probabilities.

    Raises ValueError for an input the network cannot take, naming the limit and what was given.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    if network.family is conv_family and min(input_shape[:2]) < CONV_MIN_PIXELS:
        height, width = input_shape[:2]
        raise ValueError(
            f"{name} needs images of at least {CONV_MIN_PIXELS}x{CONV_MIN_PIXELS} pixels, got {width}x{height}"
        )
    image = layers.Input(input_shape, name="image")
    x = network.family(image, network)
    probabilities = layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(image, probabilities, name=name.lstrip("_"))
