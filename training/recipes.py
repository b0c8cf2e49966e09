"""The RECIPES table: every hyper-parameter of the six systems, one row each, with what it achieved as measured.

A recipe is plain data. Run a row with `python -m training.fit NETWORK --dataset DATASET`; change a field with
`dataclasses.replace`, never by copying a row. Source: the teaching notebook the networks come from; optimizer: Kingma
& Ba 2014 (Adam), algorithm 1, with the AMSGrad maximum of Reddi et al. 2018, algorithm 2, and Keras' defaults.

The loss is the notebook's `binary_crossentropy` on a softmax, as Keras 3.15 computes it: Keras remembers the
softmax's logits and takes the cross-entropy of their sigmoid (`_get_logits` in keras/src/backend/tensorflow/nn.py),
ten one-against-rest problems. Answers are the softmax's all the same; a card's loss is that of its probabilities.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import keras

from training.networks import NETWORKS


@dataclass(frozen=True)
class Recipe:
    """How one system is trained.

    `validation` is "test" (validate on the test split, as the notebook does for its dense networks) or the
    fraction at the end of the training split that is held out. `achieved` is the categorical accuracy on the whole
    real test split that the committed artifact measured, None where no full run is committed.
    """

    network: str
    dataset: str
    batch_size: int
    validation: float | Literal["test"]
    epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 0.001
    amsgrad: bool = True
    loss: str = "binary_crossentropy"
    seed: int = 0
    achieved: float | None = None

    @property
    def model_name(self) -> str:
        return f"{self.network.lstrip('_')}-{self.dataset}"

    def hyper_parameters(self) -> dict[str, Any]:
        """Every field but the result: what `card.json` keeps and what a resumed run must share."""
        fields = asdict(self)
        del fields["achieved"]
        return fields

    def compile(self, model: keras.Model) -> None:
        """Attach this recipe's optimizer, loss and metric (categorical accuracy, named so) to `model`."""
        model.compile(
            optimizer=keras.optimizers.Adam(self.learning_rate, amsgrad=self.amsgrad),
            loss=self.loss,
            metrics=["categorical_accuracy"],
        )


# `achieved` was measured on 2 cores of an AMD EPYC; the cards in models/ hold seconds and libraries. CIFAR-10 rows were
# trained on a JPEG copy of the data. dense_resnet-cifar10 swings by points from epoch to epoch and from seed to seed
# (0.4076, 0.4295 and 0.4236 for seeds 0, 1 and 2): its row holds the median seed.
_ROWS = (
    Recipe("dense_resnet", "mnist", batch_size=128, validation="test", achieved=0.9743),
    Recipe("conv_resnet_deep", "mnist", batch_size=256, validation=0.2, achieved=0.9902),
    Recipe("dense_resnet", "cifar10", batch_size=128, validation="test", seed=2, achieved=0.4236),
    Recipe("conv_resnet_shallow", "cifar10", batch_size=64, validation=0.2, achieved=0.7103),
    Recipe("conv_resnet_deep", "cifar10", batch_size=256, validation=0.2, achieved=0.7337),
    Recipe("dense_sum", "mnist", batch_size=128, validation="test", achieved=0.9766),
)

RECIPES: dict[str, Recipe] = {row.model_name: row for row in _ROWS}

# Networks that are no system of their own borrow one's recipe.
_BORROWED = {
    "plain": replace(RECIPES["conv_resnet_deep-cifar10"], network="plain", achieved=None),
    "_tiny": replace(RECIPES["dense_resnet-mnist"], network="_tiny", dataset="digits", achieved=None),
}


def recipe_for(network: str, dataset: str | None = None) -> Recipe:
    """The row of NETWORK on DATASET (default: the network's first), or its first row carried over to other data."""
    first = _BORROWED.get(network) or RECIPES[f"{network}-{NETWORKS[network].datasets[0]}"]
    if dataset is None:
        return first
    return RECIPES.get(f"{network}-{dataset}") or replace(first, dataset=dataset, achieved=None)
