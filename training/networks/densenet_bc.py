"""`densenet_bc`: densely connected networks with bottlenecks and compression, which concatenate what blocks make.

It turns pictures of about 32 by 32 pixels into features (Huang et al. 2016, "Densely Connected Convolutional
Networks", 1608.06993, section 3 and section 4.2, DenseNet-BC with growth rate 12). Knows no data set.
"""

from keras import layers

from training.networks.batch_norm import bn_relu
from training.networks.connections import concatenate
from training.networks.network import Network, Tensor, stack

GROWTH = 12
COMPRESSION = 0.5


def bottleneck(x: Tensor, name: str) -> Tensor:
    """BN, relu, Conv 1x1 to 4 k; BN, relu, Conv 3x3 to k; (N, h, w, C) -> (N, h, w, 12) ("Bottleneck layers")."""
    x = layers.Conv2D(4 * GROWTH, 1, use_bias=False, name=f"{name}_narrow")(bn_relu(x, f"{name}_1"))
    return layers.Conv2D(GROWTH, 3, padding="same", use_bias=False, name=f"{name}_conv")(bn_relu(x, f"{name}_2"))


def transition(x: Tensor, name: str) -> Tensor:
    """BN, relu, Conv 1x1 to half the channels, average pool of 2 ("Pooling layers" and "Compression")."""
    filters = int(x.shape[-1] * COMPRESSION)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_conv")(bn_relu(x, name))
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)


def densenet_family(image: Tensor, network: Network) -> Tensor:
    """Conv 3x3 to 2 k, three dense blocks with transitions between them, BN, relu, average of all places."""
    x = layers.Conv2D(2 * GROWTH, 3, padding="same", use_bias=False, name="stem_conv")(image)
    for k in (1, 2, 3):
        x = stack(x, network, f"stage{k}_block")
        x = transition(x, f"transition{k}") if k < 3 else bn_relu(x, "head")
    return layers.GlobalAveragePooling2D(name="head_pool")(x)


_SOURCE = "Huang et al. 2016, 1608.06993, sections 3 and 4.2"


def _row(depth: int) -> Network:
    """DenseNet-BC of `depth` layers: each of its three dense blocks has (depth - 4) / 6 bottlenecks."""
    return Network(densenet_family, bottleneck, (depth - 4) // 6, concatenate, ("cifar10",), 4, _SOURCE)


ROWS: dict[str, Network] = {"densenet_bc": _row(40), "densenet_bc_100": _row(100)}
