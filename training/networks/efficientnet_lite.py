"""EfficientNet-Lite0 to Lite2: inverted residuals for photos, and ImageNet's weights for them.

Tan and Le 2019, "EfficientNet" (1905.11946), table 1 and equation 3, in the Lite form: no squeeze-and-excitation,
ReLU6, and neither stem nor head scaled (github.com/tensorflow/tpu, models/official/efficientnet/lite). The block is
that of Sandler et al. 2018, "MobileNetV2" (1801.04381), section 3.3 and table 1.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from training.networks.batch_norm import FusedBatchNormalization
from training.networks.connections import residual
from training.networks.network import ENLARGING, Network, Tensor

EPSILON = 1e-3  # of batch norm, as the checkpoint was trained
MOMENTUM = 0.99
ENLARGED = 4  # times, of the pictures of `efficientnet_lite0_small`: 32 pixels become 128
STILL = ("stem", "block0_", "block1_", "block2_")  # layers of `efficientnet_lite0_small` that stay as they are


class Stage(NamedTuple):
    """A row of table 1: how many blocks, and what each of them has; only the first strides."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    filters: int


class Size(NamedTuple):
    """How much wider and deeper than Lite0 one is, the side of its photos in pixels, and its dropout."""

    width: float
    depth: float
    image_size: int
    dropout: float


SIZES = {
    "efficientnet_lite0": Size(1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": Size(1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": Size(1.1, 1.2, 260, 0.3),
}
LITE0 = SIZES["efficientnet_lite0"]
STAGES = (  # of Lite0
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def stages(size: Size) -> tuple[Stage, ...]:
    """STAGES with more blocks, but in the first and the last one, and more filters: whole eights, within a tenth."""

    def filters(count: int) -> int:
        wider = count * size.width
        rounded = max(8, int(wider + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wider else rounded + 8

    first, *middle, last = (stage._replace(filters=filters(stage.filters)) for stage in STAGES)
    return first, *(stage._replace(blocks=math.ceil(size.depth * stage.blocks)) for stage in middle), last


@keras.saving.register_keras_serializable("shortcut")
class ScaledConv2D(layers.Conv2D):
    """A convolution whose kernel is multiplied by a fixed scale of each output channel.

    With the scale and the shift of a batch norm in inference mode it does the work of both at the cost of one, while
    the kernel keeps the size, and so learns at the rate, that it has before a batch norm.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.scale = self.add_weight(name="scale", shape=(self.filters,), initializer="ones", trainable=False)

    # Keras' convolutions store their kernel and bias by themselves, and would leave the scale out.

    def save_own_variables(self, store: dict[str, Any]) -> None:
        super().save_own_variables(store)
        store["scale"] = self.scale

    def load_own_variables(self, store: dict[str, Any]) -> None:
        super().load_own_variables(store)
        self.scale.assign(store["scale"])

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return super().convolution_op(inputs, kernel * tf.cast(self.scale, kernel.dtype))


def _convolution(filters: int, kernel: int, stride: int, folded: bool, name: str) -> layers.Conv2D:
    kind = ScaledConv2D if folded else layers.Conv2D
    return kind(filters, kernel, stride, padding="same", use_bias=folded, name=name)


def _normalised(x: Tensor, layer: layers.Layer, active: bool = True) -> Tensor:
    """A convolution and its activation; between them its batch norm, where the convolution has no bias."""
    x, name = layer(x), layer.name
    if not layer.use_bias:
        x = FusedBatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu6", dtype=layer.dtype_policy)(x) if active else x


def inverted_residual(x: Tensor, name: str, stage: Stage, stride: int, folded: bool = False) -> Tensor:
    """1x1 expansion, depthwise convolution, linear 1x1 projection; x is added where the shape stays."""
    body = x
    if stage.expand > 1:
        expand = _convolution(x.shape[-1] * stage.expand, 1, 1, folded, f"{name}_expand")
        body = _normalised(body, expand)
    depthwise = layers.DepthwiseConv2D(
        stage.kernel,
        stride,
        padding="same",
        use_bias=folded,
        name=f"{name}_depthwise",
        # Where it strides, its gradient takes ten times as long in bfloat16.
        dtype="float32" if stride > 1 and f"{name}_" not in STILL else None,
    )
    body = _normalised(body, depthwise)
    body = _normalised(body, _convolution(stage.filters, 1, 1, folded, f"{name}_project"), active=False)
    return residual([x], body, name, 1.0) if body.shape == x.shape else body


def lite_family(image: Tensor, network: Network, size: Size, folded: bool = False) -> Tensor:
    """(N, H, W, C) in [0, 1] -> (N, 1280). The first layer brings the pixels to (x - 127) / 128, x from 0 to 255.

    If `folded`, the batch norms are part of the convolutions, as they are when a network answers.
    """
    if image.shape[-1] == 1:  # grey
        image = layers.Concatenate(name="channels")([image] * 3)
    x = layers.Rescaling(255 / 128, -127 / 128, name="rescaling")(image)
    x = _normalised(x, _convolution(32, 3, 2, folded, "stem"))
    number = 0
    for stage in stages(size):
        for k in range(stage.blocks):
            x = inverted_residual(x, f"block{number}", stage, stage.stride if k == 0 else 1, folded)
            number += 1
    x = _normalised(x, _convolution(1280, 1, 1, folded, "top"))
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    return layers.Dropout(size.dropout, name="head_dropout")(x)


def small_lite0_family(image: Tensor, network: Network) -> Tensor:
    """(N, H, W, C) in [0, 1] -> (N, 1280): small pictures, enlarged, for the same layers and weights.

    The stem and the first blocks stay as they are: they see edges and textures, which are the same everywhere, at the
    largest sizes, so that training them takes more than half of a step. Depthwise kernels stay too: they are 2 % of the
    weights, and on a CPU their gradient is a third of a step.
    """
    height, width = (ENLARGED * side for side in image.shape[1:3])
    features = lite_family(layers.Resizing(height, width, name=ENLARGING)(image), network, LITE0, folded=True)
    for layer in keras.Model(image, features).layers:
        if isinstance(layer, layers.DepthwiseConv2D) or layer.name.startswith(STILL):
            layer.trainable = False
    return features


def _no_block(x: Tensor, name: str) -> Tensor:
    raise NotImplementedError("the blocks of this family differ from stage to stage")


# Weights

WEIGHTS = Path(__file__).parent  # <network>.npz, float16, without pickle; NOTICE says whose


def pretrained(name: str) -> dict[str, list[np.ndarray]]:
    """ImageNet's weights of each layer of the network NAME, a key of SIZES; the last layer's too."""
    weights: dict[str, list[np.ndarray]] = {}
    with np.load(WEIGHTS / f"{name}.npz", allow_pickle=False) as archive:
        for key in archive.files:  # in the order in which they were written
            weights.setdefault(key.partition("/")[0], []).append(archive[key])
    return weights


def set_weights(model: keras.Model, weights: dict[str, list[np.ndarray]], head: bool) -> None:
    """Put `weights` into the layers of that name; `head` says whether the last layer's are among them.

    Where a convolution has no batch norm after it, the norm's weights become part of the convolution's.
    """
    names = {layer.name for layer in model.layers}
    for name in sorted(weights.keys() & names):
        if name == "probabilities" and not head:
            continue
        arrays = [np.asarray(array, np.float32) for array in weights[name]]
        layer = model.get_layer(name)
        if f"{name}_bn" in weights and f"{name}_bn" not in names:
            arrays = _with_norm(layer, arrays[0], *(np.asarray(a, np.float32) for a in weights[f"{name}_bn"]))
        layer.set_weights(arrays)


def _with_norm(
    layer: keras.Layer,
    kernel: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> list[np.ndarray]:
    """The weights of a convolution that does what it and a batch norm after it do."""
    scale = gamma / np.sqrt(variance + EPSILON)
    shift = beta - mean * scale
    if isinstance(layer, ScaledConv2D):
        return [kernel, shift, scale]
    return [kernel * scale[:, None], shift]  # of a depthwise one, (h, w, channels, 1)


def put_weights(model: keras.Model, weights: str, name: str = "efficientnet_lite0") -> None:
    """Put ImageNet's weights into all layers but the last one. Raises ValueError for any other ones."""
    if weights != "imagenet":
        raise ValueError(f"{name} has ImageNet's weights only (--weights imagenet), not {weights}")
    set_weights(model, pretrained(name), head=False)


def _row(name: str, size: Size) -> Network:
    return Network(
        partial(lite_family, size=size),
        _no_block,
        sum(stage.blocks for stage in stages(size)),
        residual,
        ("imagenet",),
        8,
        "Tan and Le 2019, 1905.11946; Sandler et al. 2018, 1801.04381",
        size.image_size,
        partial(put_weights, name=name),
    )


ROWS = {name: _row(name, size) for name, size in SIZES.items()}
ROWS["efficientnet_lite0_small"] = replace(
    ROWS["efficientnet_lite0"], family=small_lite0_family, datasets=("cifar10",), image_size=None
)
