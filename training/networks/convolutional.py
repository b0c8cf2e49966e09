"""The notebook's convolutional networks: residual, deep and shallow, and the deep one without its shortcuts."""

from keras import layers

from training.networks.connections import dense_sum, no_shortcut, residual
from training.networks.network import DROPOUT, Network, Tensor, conv, stack

SMALLEST = 13  # pixels: two valid 3x3 convolutions, a 3x3 pool of stride 3 and one more valid 3x3 convolution


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


def bottleneck_block(x: Tensor, name: str) -> Tensor:
    """Conv 1x1 to 16, Conv 3x3, Conv 1x1 to 64, each with relu, batch norm after the first; the shape stays.

    He et al. 2015, section 4.1, figure 5 right, with the order of relu and batch norm of `conv_relu_bn_block`.
    """
    x = conv(16, f"{name}_narrow", kernel=1, activation="relu")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    x = conv(16, f"{name}_conv", padding="same", activation="relu")(x)
    return conv(64, f"{name}_wide", kernel=1, activation="relu")(x)


def conv_family(image: Tensor, network: Network) -> Tensor:
    """Two valid convolutions, 3x3 max pool of stride 3, the blocks, convolution, pooling, Dense 256; -> (N, 256)."""
    x = conv(32, "stem_conv1", activation="relu")(image)
    x = conv(64, "stem_conv2", activation="relu")(x)
    x = layers.MaxPooling2D(3, strides=3, name="stem_pool")(x)
    x = stack(x, network)
    x = conv(64, "head_conv", activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    x = layers.Dense(256, activation="relu", name="head_dense")(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


_BOTH = ("mnist", "cifar10")
_SOURCE = "He et al. 2015, 1512.03385; layer sizes of the notebook"
_PLAIN = "the notebook's deep network without its shortcuts"
_IMAGINED = "He et al. 2015, 1512.03385, section 4.1, summed as in dense_sum: what the notebook imagined at its end"

ROWS: dict[str, Network] = {
    "conv_resnet_deep": Network(conv_family, conv_relu_bn_block, 19, residual, _BOTH, SMALLEST, _SOURCE),
    "conv_resnet_shallow": Network(conv_family, conv_bn_relu_block, 2, residual, ("cifar10",), SMALLEST, _SOURCE),
    "dense_sum_bottleneck": Network(conv_family, bottleneck_block, 19, dense_sum, ("cifar10",), SMALLEST, _IMAGINED),
    "plain": Network(conv_family, conv_relu_bn_block, 19, no_shortcut, ("cifar10",), SMALLEST, _PLAIN),
}
