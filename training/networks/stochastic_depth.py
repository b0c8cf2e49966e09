"""`stochastic_depth`: the notebook's deep network, trained with randomly missing blocks and used with all of them.

Huang et al. 2016, "Deep Networks with Stochastic Depth" (1603.09382), section 3: blocks survive with a probability that
falls linearly with depth to 0.5. Knows no data set.
"""

from training.networks.connections import drop
from training.networks.convolutional import SMALLEST, conv_family, conv_relu_bn_block
from training.networks.network import Network

_SOURCE = "Huang et al. 2016, 1603.09382, section 3, on the notebook's deep network"

ROWS: dict[str, Network] = {
    "stochastic_depth": Network(conv_family, conv_relu_bn_block, 19, drop(0.5), ("cifar10",), SMALLEST, _SOURCE)
}
