"""EfficientNet-Lite0: inverted residuals for 224x224 photos, and ImageNet's weights for them.

Tan and Le 2019, "EfficientNet" (1905.11946), table 1, in its Lite form (no squeeze-and-excitation, ReLU6, the stem and
the head not scaled); the block is that of Sandler et al. 2018, "MobileNetV2" (1801.04381), section 3.3 and table 1.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from training.networks.batch_norm import FusedBatchNormalization
from training.networks.connections import residual
from training.networks.network import ENLARGING, Network, Tensor

EPSILON = 1e-3  # of batch norm, as the checkpoint was trained
DROPOUT = 0.2
MOMENTUM = 0.99
ENLARGED = 4  # times, of the pictures of `efficientnet_lite0_small`: 32 pixels become 128
STILL = 3  # blocks of `efficientnet_lite0_small` that stay as they are, and the stem before them


class Stage(NamedTuple):
    """A row of table 1: how many blocks, and what each of them has; only the first strides."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def _normalised(x: Tensor, layer: layers.Layer, active: bool = True, still: bool = False) -> Tensor:
    """A convolution, its batch norm and its activation; of a layer that stays `still`, the norm is in its weights."""
    x, name = layer(x), layer.name
    if still:
        layer.trainable = False
    else:
        x = FusedBatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x) if active else x


def inverted_residual(x: Tensor, name: str, stage: Stage, stride: int, still: bool = False) -> Tensor:
    """1x1 expansion, depthwise convolution, linear 1x1 projection; x is added where the shape stays."""
    body = x
    if stage.expand > 1:
        expand = layers.Conv2D(x.shape[-1] * stage.expand, 1, use_bias=still, name=f"{name}_expand")
        body = _normalised(body, expand, still=still)
    depthwise = layers.DepthwiseConv2D(stage.kernel, stride, padding="same", use_bias=still, name=f"{name}_depthwise")
    body = _normalised(body, depthwise, still=still)
    project = layers.Conv2D(stage.filters, 1, use_bias=still, name=f"{name}_project")
    body = _normalised(body, project, active=False, still=still)
    return residual([x], body, name, 1.0) if body.shape == x.shape else body


def lite0_family(image: Tensor, network: Network, still: int = 0) -> Tensor:
    """(N, H, W, C) in [0, 1] -> (N, 1280). The first layer brings the pixels to (x - 127) / 128, x from 0 to 255.

    The stem and the first `still` blocks are not trained, where there are any.
    """
    if image.shape[-1] == 1:  # grey
        image = layers.Concatenate(name="channels")([image] * 3)
    x = layers.Rescaling(255 / 128, -127 / 128, name="rescaling")(image)
    stem = layers.Conv2D(32, 3, 2, padding="same", use_bias=still > 0, name="stem")
    x = _normalised(x, stem, still=still > 0)
    number = 0
    for stage in STAGES:
        for k in range(stage.blocks):
            x = inverted_residual(x, f"block{number}", stage, stage.stride if k == 0 else 1, number < still)
            number += 1
    x = _normalised(x, layers.Conv2D(1280, 1, use_bias=False, name="top"))
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


def small_lite0_family(image: Tensor, network: Network) -> Tensor:
    """(N, H, W, C) in [0, 1] -> (N, 1280): small pictures, enlarged, for the same layers and weights.

    The stem and the first blocks stay as they are: they see edges and textures, which are the same everywhere, at the
    largest sizes, so that training them takes more than half of a step. Depthwise kernels stay too: they are 2 % of the
    weights, and on a CPU their gradient is a third of a step.
    """
    height, width = (ENLARGED * side for side in image.shape[1:3])
    features = lite0_family(layers.Resizing(height, width, name=ENLARGING)(image), network, STILL)
    for layer in keras.Model(image, features).layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            layer.trainable = False
    return features


def _no_block(x: Tensor, name: str) -> Tensor:
    raise NotImplementedError("the blocks of this family differ from stage to stage")


# Weights

WEIGHTS = Path(__file__).with_name("efficientnet_lite0.npz")  # float16, without pickle; NOTICE says whose


def pretrained() -> dict[str, list[np.ndarray]]:
    """ImageNet's weights of each layer, the last one's too."""
    found: dict[str, list[np.ndarray]] = {}
    with np.load(WEIGHTS, allow_pickle=False) as archive:
        for key in archive.files:  # in the order in which they were written
            found.setdefault(key.partition("/")[0], []).append(archive[key])
    return found


def set_weights(model: keras.Model, weights: dict[str, list[np.ndarray]], head: bool) -> None:
    """Put `weights` into the layers of that name; `head` says whether the last layer's are among them.

    Where a convolution has no batch norm after it, the norm's weights become part of the convolution's.
    """
    names = {layer.name for layer in model.layers}
    for name in sorted(weights.keys() & names):
        if name == "probabilities" and not head:
            continue
        arrays = [np.asarray(array, np.float32) for array in weights[name]]
        if f"{name}_bn" in weights and f"{name}_bn" not in names:
            arrays = _with_norm(arrays[0], *(np.asarray(array, np.float32) for array in weights[f"{name}_bn"]))
        model.get_layer(name).set_weights(arrays)


def _with_norm(
    kernel: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> list[np.ndarray]:
    """The kernel and the bias of one convolution that does what a convolution and a batch norm after it do."""
    scale = gamma / np.sqrt(variance + EPSILON)
    by_channel = scale[:, None] if kernel.shape[-1] == 1 else scale  # (h, w, channels, 1) of a depthwise one
    return [kernel * by_channel, beta - mean * scale]


def put_weights(model: keras.Model, weights: str) -> None:
    """Put ImageNet's weights into all layers but the last one. Raises ValueError for any other ones."""
    if weights != "imagenet":
        raise ValueError(f"efficientnet_lite0 has ImageNet's weights only (--weights imagenet), not {weights}")
    set_weights(model, pretrained(), head=False)


_PHOTOS = Network(
    lite0_family,
    _no_block,
    sum(stage.blocks for stage in STAGES),
    residual,
    ("imagenet",),
    8,
    "Tan and Le 2019, 1905.11946; Sandler et al. 2018, 1801.04381",
    224,
    put_weights,
)
ROWS = {
    "efficientnet_lite0": _PHOTOS,
    "efficientnet_lite0_small": replace(_PHOTOS, family=small_lite0_family, datasets=("cifar10",), image_size=None),
}
