"""The NETWORKS table: every network of the project by name, from the rows of each family's file.

A new family is one file with its ROWS and one line here. A name that starts with an underscore is only for tests.
"""

from training.networks import (
    convolutional,
    dense,
    densenet_bc,
    digits_cnn,
    efficientnet_lite0,
    highway,
    preact_resnet,
    resnet9,
    resnext,
    stochastic_depth,
)
from training.networks.network import Network

NETWORKS: dict[str, Network] = {
    name: row
    for family in (
        dense,
        convolutional,
        highway,
        stochastic_depth,
        preact_resnet,
        resnext,
        densenet_bc,
        resnet9,
        digits_cnn,
        efficientnet_lite0,
    )
    for name, row in family.ROWS.items()
}
