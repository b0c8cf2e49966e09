"""`digits_cnn`: a small convolutional network for figures of 28x28 pixels that is cheap to serve on any CPU.

It turns a picture into features in eight convolutions and six million multiplications. The plan is LeNet-5's, which
halves the sides and widens (LeCun et al. 1998, section II.B), with batch norm after each convolution (Ioffe and Szegedy
2015, 1502.03167) and a shortcut around pairs of them (He et al. 2015, 1512.03385, section 3.3). Knows no data set.
"""

from keras import layers

from training.networks.batch_norm import FusedBatchNormalization
from training.networks.connections import residual
from training.networks.network import Network, Tensor

SMALLEST = 8  # pixels: halved three times
WIDTHS = (16, 32, 48, 96)
DROPOUT = 0.3


def conv_bn_relu(x: Tensor, filters: int, name: str, kernel: int = 3) -> Tensor:
    """Convolution, batch norm, relu; (N, h, w, C) -> (N, h, w, filters)."""
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    x = layers.Conv2D(filters, kernel, name=f"{name}_conv", **options)(x)
    return layers.ReLU(name=f"{name}_relu")(FusedBatchNormalization(name=f"{name}_bn")(x))


def two_convolutions(x: Tensor, name: str) -> Tensor:
    """Two convolutions that keep the shape: the body F(x) of a shortcut."""
    return conv_bn_relu(conv_bn_relu(x, x.shape[-1], f"{name}_1"), x.shape[-1], f"{name}_2")


def digits_family(image: Tensor, network: Network) -> Tensor:
    """Conv 5x5 to 16, three groups of half the side, with a Conv 3x3 to 32, 48 and 96, the last two also with a
    shortcut, and the average of all places; (N, H, W, C) -> (N, 96)."""
    x = conv_bn_relu(image, WIDTHS[0], "stem", 5)
    for k, width in enumerate(WIDTHS[1:], 1):
        x = layers.MaxPooling2D(2, name=f"group{k}_pool")(x)
        x = conv_bn_relu(x, width, f"group{k}")
        if k > 1:  # at the first group's size, two more convolutions would cost as much as all the others
            x = network.connection([x], network.block(x, f"group{k}"), f"group{k}", k / len(WIDTHS[1:]))
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


_SOURCE = "LeCun et al. 1998, section II.B, with batch norm and the shortcuts of He et al. 2015"

ROWS: dict[str, Network] = {
    "digits_cnn": Network(digits_family, two_convolutions, 2, residual, ("mnist",), SMALLEST, _SOURCE),
}
