"""The recipe `notebook`: the six systems of the teaching notebook, one row each, with what each achieved as measured.

Run a row with `python -m training.fit NETWORK --dataset DATASET`.

The loss is the notebook's `binary_crossentropy` on a softmax, as Keras 3.15 computes it: Keras remembers the
softmax's logits and takes the cross-entropy of their sigmoid (`_get_logits` in keras/src/backend/tensorflow/nn.py),
ten one-against-rest problems. Answers are the softmax's all the same; a card's loss is that of its probabilities.
"""

from dataclasses import replace

from training.recipes.recipe import Recipe

# `achieved` was measured on 2 cores of an AMD EPYC; the cards in models/ hold seconds and libraries. CIFAR-10 rows were
# trained on a JPEG copy of the data. dense_resnet-cifar10 swings by points from epoch to epoch and from seed to seed
# (0.4076, 0.4295 and 0.4236 for seeds 0, 1 and 2): its row holds the median seed.
_SYSTEMS = (
    Recipe("dense_resnet", "mnist", batch_size=128, validation="test", achieved=0.9743),
    Recipe("conv_resnet_deep", "mnist", batch_size=256, validation=0.2, achieved=0.9902),
    Recipe("dense_resnet", "cifar10", batch_size=128, validation="test", seed=2, achieved=0.4236),
    Recipe("conv_resnet_shallow", "cifar10", batch_size=64, validation=0.2, achieved=0.7103),
    Recipe("conv_resnet_deep", "cifar10", batch_size=256, validation=0.2, achieved=0.7337),
    Recipe("dense_sum", "mnist", batch_size=128, validation="test", achieved=0.9766),
)

SYSTEMS: dict[str, Recipe] = {row.model_name: row for row in _SYSTEMS}


def _elsewhere(system: str, network: str | None = None) -> Recipe:
    """The row of a system carried over to any data set, or to a network that is no system of its own."""
    row = SYSTEMS[system]
    return replace(row, network=network or row.network, dataset="*", achieved=None)


ROWS: tuple[Recipe, ...] = (
    *_SYSTEMS,
    _elsewhere("dense_resnet-mnist"),
    _elsewhere("conv_resnet_deep-mnist"),
    _elsewhere("conv_resnet_shallow-cifar10"),
    _elsewhere("dense_sum-mnist"),
    replace(_elsewhere("conv_resnet_deep-cifar10", "plain"), dataset="cifar10"),
    _elsewhere("conv_resnet_deep-cifar10", "plain"),
    replace(_elsewhere("dense_resnet-mnist", "_tiny"), dataset="digits"),
    _elsewhere("dense_resnet-mnist", "_tiny"),
)
