"""The NETWORKS table: every network of the project by name, from the rows of each family's file.

A new family is one file with its ROWS and one line here. A name that starts with an underscore is only for tests.
"""

from training.networks import (
    convolutional,
    dense,
    densenet_bc,
    digits_cnn,
    efficientnet_lite,
    highway,
    keras_applications,
    preact_resnet,
    resnet9,
    resnext,
    stochastic_depth,
)
from training.networks.network import PREFIX, Network


class _Networks(dict[str, Network]):
    """Rows by name; those of keras.applications are not in it until they are asked for."""

    def __missing__(self, name: str) -> Network:
        """The row of `keras:<Name>`. Raises ValueError for a name that Keras does not know, KeyError for any other."""
        if not name.startswith(PREFIX):
            raise KeyError(name)
        return keras_applications.row(name.removeprefix(PREFIX))


NETWORKS: dict[str, Network] = _Networks(
    {
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
            efficientnet_lite,
        )
        for name, row in family.ROWS.items()
    }
)
