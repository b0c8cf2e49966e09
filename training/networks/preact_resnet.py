"""`preact_resnet`: residual networks whose blocks begin with batch norm and relu, so that the shortcut stays clean.

It turns pictures of about 32 by 32 pixels into features (He et al. 2016, "Identity Mappings in Deep Residual Networks",
1603.05027, section 4.1, figure 4 e; the stages of He et al. 2015, 1512.03385, section 4.2). Knows no data set.
"""

from keras import layers

from training.networks.batch_norm import bn_relu
from training.networks.connections import residual
from training.networks.network import Network, Tensor, stack

WIDTHS = (16, 32, 64)


def _conv(x: Tensor, filters: int, name: str, kernel: int = 3, strides: int = 1) -> Tensor:
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    return layers.Conv2D(filters, kernel, strides, name=name, **options)(x)


def preact_block(x: Tensor, name: str) -> Tensor:
    """[BN, relu, Conv 3x3] twice; the shape stays."""
    for i in (1, 2):
        x = _conv(bn_relu(x, f"{name}_{i}"), x.shape[-1], f"{name}_conv{i}")
    return x


def widening_block(x: Tensor, filters: int, name: str) -> Tensor:
    """The first block of a stage: half the side, more channels, a 1x1 convolution in place of the shortcut."""
    active = bn_relu(x, f"{name}_1")
    body = _conv(active, filters, f"{name}_conv1", strides=2)
    body = _conv(bn_relu(body, f"{name}_2"), filters, f"{name}_conv2")
    return residual([_conv(active, filters, f"{name}_shortcut", 1, 2)], body, name, 1.0)


def preact_family(image: Tensor, network: Network) -> Tensor:
    """Conv 3x3 to 16, three stages of blocks with 16, 32 and 64 channels, BN, relu, average of all places."""
    x = _conv(image, WIDTHS[0], "stem_conv")
    for k, width in enumerate(WIDTHS, 1):
        x = x if k == 1 else widening_block(x, width, f"stage{k}_first")
        x = stack(x, network, f"stage{k}_block", network.blocks - (k > 1))
    return layers.GlobalAveragePooling2D(name="head_pool")(bn_relu(x, "head"))


_SOURCE = "He et al. 2016, 1603.05027, section 4.1"


def _row(depth: int) -> Network:
    """The pre-activation ResNet of `depth` layers: each of its three stages has (depth - 2) / 6 blocks."""
    return Network(preact_family, preact_block, (depth - 2) // 6, residual, ("cifar10",), 4, _SOURCE)


ROWS: dict[str, Network] = {"preact_resnet": _row(20), "preact_resnet_110": _row(110)}
