"""The NETWORKS table: every network of the project by name, from the rows of each family's file.

A new family is one file with its ROWS and one line here. A name that starts with an underscore is only for tests.
"""

from training.networks import convolutional, dense, efficientnet_lite0
from training.networks.network import Network

NETWORKS: dict[str, Network] = {**dense.ROWS, **convolutional.ROWS, **efficientnet_lite0.ROWS}
