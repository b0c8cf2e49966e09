"""The networks of dense layers: the notebook's residual network and its variant that adds all earlier outputs."""

from keras import layers

from training.networks.connections import dense_sum, residual
from training.networks.network import DROPOUT, Network, Tensor, stack


def dense_block(x: Tensor, name: str) -> Tensor:
    """[Dense 128, batch norm, relu, dropout] twice; (N, 128) -> (N, 128)."""
    for i in (1, 2):
        x = layers.Dense(128, name=f"{name}_dense{i}")(x)
        x = layers.BatchNormalization(name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
        x = layers.Dropout(DROPOUT, name=f"{name}_dropout{i}")(x)
    return x


def dense_family(image: Tensor, network: Network) -> Tensor:
    """Flatten, Dense 128 relu twice, the blocks, Dense 128 relu, dropout; (N, H, W, C) -> (N, 128)."""
    x = layers.Flatten(name="flatten")(image)
    for i in (1, 2):
        x = layers.Dense(128, activation="relu", name=f"stem_dense{i}")(x)
    x = stack(x, network)
    x = layers.Dense(128, activation="relu", name="head_dense")(x)
    return layers.Dropout(DROPOUT, name="head_dropout")(x)


_RESIDUAL = "He et al. 2015, 1512.03385; layer sizes of the notebook"
_SUM = "Huang et al. 2016, 1608.06993, with addition in place of concatenation; layer sizes of the notebook"

ROWS: dict[str, Network] = {
    #                       family        block        blocks  connection  datasets              smallest  source
    "dense_resnet": Network(dense_family, dense_block, 3,      residual,   ("mnist", "cifar10"), 1,        _RESIDUAL),
    "dense_sum":    Network(dense_family, dense_block, 3,      dense_sum,  ("mnist",),           1,        _SUM),
    "_tiny":        Network(dense_family, dense_block, 1,      residual,   ("digits",),          1,        _RESIDUAL),
}  # fmt: skip
