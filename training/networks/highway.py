"""`highway`: deep stacks whose layers learn how much of their input they let through, dense and convolutional.

It turns pictures into features (Srivastava et al. 2015, "Highway Networks", 1505.00387, sections 2 and 3.1: layers of
50 units for MNIST; the convolutional one stands between the notebook's stem and head). Knows no data set.
"""

from keras import layers

from training.networks.connections import gate
from training.networks.convolutional import SMALLEST, conv_family
from training.networks.network import Network, Tensor, conv, stack

UNITS = 50


def dense_layer(x: Tensor, name: str) -> Tensor:
    """H(x) of equation 2: Dense 50 relu; (N, 50) -> (N, 50)."""
    return layers.Dense(UNITS, activation="relu", name=f"{name}_dense")(x)


def conv_layer(x: Tensor, name: str) -> Tensor:
    """H(x) of equation 2: Conv 64 3x3 relu; (N, h, w, 64) -> (N, h, w, 64)."""
    return conv(64, f"{name}_conv", padding="same", activation="relu")(x)


def highway_family(image: Tensor, network: Network) -> Tensor:
    """Flatten, a plain layer that sets the width, the highway layers; (N, H, W, C) -> (N, 50) (section 3.1)."""
    x = layers.Dense(UNITS, activation="relu", name="stem_dense")(layers.Flatten(name="flatten")(image))
    return stack(x, network)


_SOURCE = "Srivastava et al. 2015, 1505.00387, sections 2 and 3.1"

ROWS: dict[str, Network] = {
    "highway": Network(highway_family, dense_layer, 50, gate, ("mnist",), 1, _SOURCE),
    "highway_conv": Network(conv_family, conv_layer, 20, gate, ("cifar10",), SMALLEST, _SOURCE),
}
