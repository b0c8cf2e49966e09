"""`resnext`: residual networks whose 3x3 convolution is split into many paths of few channels each.

It turns pictures of about 32 by 32 pixels into features (Xie et al. 2016, "Aggregated Residual Transformations for Deep
Neural Networks", 1611.05431, section 3 and section 5.3, ResNeXt-29). Knows no data set.
"""

from functools import partial

import keras
import tensorflow as tf
from keras import layers

from training.networks.batch_norm import FusedBatchNormalization
from training.networks.connections import residual
from training.networks.network import Network, Tensor, stack

CARDINALITY = 8  # paths


@keras.saving.register_keras_serializable("shortcut")
class GroupedConv2D(layers.Conv2D):
    """Keras has XLA compile convolutions in groups on CPUs, which no converter to ONNX reads: TensorFlow's own here."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(inputs, kernel, list(self.strides), self.padding.upper())


def _conv_bn(x: Tensor, filters: int, name: str, kernel: int = 1, strides: int = 1, groups: int = 1) -> Tensor:
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    x = GroupedConv2D(filters, kernel, strides, groups=groups, name=f"{name}_conv", **options)(x)
    return FusedBatchNormalization(name=f"{name}_bn")(x)


def resnext_body(x: Tensor, name: str, filters: int, strides: int = 1) -> Tensor:
    """Conv 1x1 to 8 paths of filters / 4 channels, Conv 3x3 within each, Conv 1x1 to `filters` (figure 3 c)."""
    channels = CARDINALITY * (filters // 4)
    x = layers.ReLU(name=f"{name}_relu1")(_conv_bn(x, channels, f"{name}_narrow"))
    x = _conv_bn(x, channels, f"{name}_paths", 3, strides, CARDINALITY)
    return _conv_bn(layers.ReLU(name=f"{name}_relu2")(x), filters, f"{name}_wide")


def resnext_block(x: Tensor, name: str) -> Tensor:
    """The body F(x) of a block that keeps the shape (equation 3)."""
    return resnext_body(x, name, x.shape[-1])


def active_residual(earlier: list[Tensor], body: Tensor, name: str, depth: float) -> Tensor:
    """relu(F(x) + x), as in the networks before pre-activation (He et al. 2015, equation 1 and figure 2)."""
    return layers.ReLU(name=f"{name}_relu")(residual(earlier, body, name, depth))


def resnext_family(image: Tensor, network: Network, width: int) -> Tensor:
    """Conv 3x3 to 64, three stages of `width`, 2 `width` and 4 `width` channels, average of all places."""
    x = layers.ReLU(name="stem_relu")(_conv_bn(image, 64, "stem", 3))
    for k in (1, 2, 3):
        name, filters, strides = f"stage{k}_first", width << (k - 1), 1 if k == 1 else 2
        shortcut = _conv_bn(x, filters, f"{name}_shortcut", strides=strides)
        x = active_residual([shortcut], resnext_body(x, name, filters, strides), name, 0.0)
        x = stack(x, network, f"stage{k}_block", network.blocks - 1)
    return layers.GlobalAveragePooling2D(name="head_pool")(x)


_SOURCE = "Xie et al. 2016, 1611.05431, section 5.3"


def _row(width: int) -> Network:
    """ResNeXt-29 with 8 paths; its three stages give `width`, 2 `width` and 4 `width` channels."""
    family = partial(resnext_family, width=width)
    return Network(family, resnext_block, 3, active_residual, ("cifar10",), 4, _SOURCE)


ROWS: dict[str, Network] = {"resnext": _row(32), "resnext_29": _row(256)}
