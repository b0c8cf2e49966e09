"""`resnet9`: a wide, shallow residual network for small pictures in colour that is cheap to train and to serve.

It turns a picture of about 32 by 32 pixels into features in nine convolutions. The plan is that of Jordan 2024, "94% on
CIFAR-10 in 3.29 Seconds on a Single GPU" (2404.00498), sections 3.1 to 3.3, with the shortcut of its 96 % network.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import initializers, layers

from training.networks.batch_norm import FusedBatchNormalization
from training.networks.connections import residual
from training.networks.network import Network, Tensor

SMALLEST = 9  # pixels: halved three times after the stem
WIDTHS = (64, 192, 256)
SHIFT_RATE = 64.0  # of batch norm: it learns its shifts this many times faster than the kernels


@keras.saving.register_keras_serializable("shortcut")
class Whitening(layers.Conv2D):
    """A frozen 2x2 convolution whose outputs on natural pictures are uncorrelated (Jordan 2024, section 3.2).

    (N, h, w, C) -> (N, h - 1, w - 1, 8C): each eigenvector of the covariance of 2x2 patches, and its negative, over
    the root of its eigenvalue. `adapt` takes them from training images; before that the kernel is random.
    """

    def __init__(self, filters: int, **options: Any):
        super().__init__(filters, options.pop("kernel_size", 2), **{**options, "trainable": False})

    def adapt(self, images: np.ndarray) -> None:
        """Set kernel and bias from `images` (N, H, W, C) uint8 with pixels in [0, 255]."""
        x = images.astype(np.float32) / 255
        shifted = [x[:, i : x.shape[1] - 1 + i, j : x.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1)]
        patches = np.stack(shifted, axis=3).reshape(-1, 4 * x.shape[3])
        scale = x.std()
        values, vectors = np.linalg.eigh(np.cov(patches / scale, rowvar=False))
        filters = vectors / np.sqrt(values + 5e-4) / scale
        filters = np.concatenate([filters, -filters], axis=1)
        self.kernel.assign(filters.reshape(self.kernel.shape))
        self.bias.assign(-patches.mean(axis=0) @ filters)


@keras.saving.register_keras_serializable("shortcut")
class Dirac(initializers.VarianceScaling):
    """As many filters as there are inputs begin as the identity, the others random (Jordan 2024, section 3.3)."""

    def __init__(self, scale: float = 1 / 3, seed: int | None = None):
        super().__init__(scale, mode="fan_in", distribution="uniform", seed=seed)

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
        height, width, inputs, outputs = shape
        kernel = np.array(super().__call__(shape, dtype="float32"))
        same = min(inputs, outputs)
        kernel[..., :same] = 0
        kernel[height // 2, width // 2, range(same), range(same)] = 1
        return tf.cast(kernel, dtype or "float32")

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale, "seed": self.seed}


def conv_pool_bn_relu(x: Tensor, filters: int, name: str, pool: bool = False) -> Tensor:
    """Conv 3x3, max pool of 2 where asked for, batch norm, relu; (N, h, w, C) -> (N, h or h // 2, …, filters)."""
    options = {"padding": "same", "use_bias": False, "kernel_initializer": Dirac()}
    x = layers.Conv2D(filters, 3, name=f"{name}_conv", **options)(x)
    x = layers.MaxPooling2D(2, name=f"{name}_pool")(x) if pool else x
    x = FusedBatchNormalization(SHIFT_RATE, scale=False, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def two_convolutions(x: Tensor, name: str) -> Tensor:
    """Two convolutions that keep the shape: the body F(x) of a shortcut."""
    for i in (1, 2):
        x = conv_pool_bn_relu(x, x.shape[-1], f"{name}_{i}")
    return x


def resnet9_family(image: Tensor, network: Network) -> Tensor:
    """Whitening and three groups that halve the sides, the last two with a shortcut; (N, H, W, C) -> (N, 256)."""
    x = Whitening(8 * image.shape[-1], dtype="float32", name="stem_whitening")(image)
    x = layers.ReLU(name="stem_relu")(x)
    for k, width in enumerate(WIDTHS, 1):
        x = conv_pool_bn_relu(x, width, f"group{k}", pool=True)
        if k == 1:
            x = conv_pool_bn_relu(x, width, f"group{k}_1")
        else:
            x = network.connection([x], network.block(x, f"group{k}"), f"group{k}", k / len(WIDTHS))
    x = layers.GlobalMaxPooling2D(name="head_pool")(x)
    return layers.Rescaling(1 / 9, name="head_scale")(x)


_SOURCE = "Jordan 2024, 2404.00498, with the shortcuts of its 96 % network"

ROWS: dict[str, Network] = {
    "resnet9": Network(resnet9_family, two_convolutions, 2, residual, ("cifar10",), SMALLEST, _SOURCE),
}
