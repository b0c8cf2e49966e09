"""A recipe: every hyper-parameter of a training as plain data, and how Keras is told of it.

Knows optimizers, losses and schedules by their names, and neither networks nor data sets. Change a field of a row with
`dataclasses.replace`, never by copying the row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import keras

from training.networks.network import plain_name

# What cards and records always state; any other field is stated where it differs from its default, so that a record
# made before the field existed still equals its recipe.
_ALWAYS = {"network", "dataset", "batch_size", "validation", "epochs", "seed", "optimizer", "learning_rate"}
_ALWAYS |= {"amsgrad", "loss"}


@dataclass(frozen=True)
class Recipe:
    """How one system is trained.

    `validation` is "test" (validate on the test split, as the notebook does for its dense networks) or the fraction at
    the end of the training split that is held out. `weight_decay` is decoupled from the loss. `drawn_ones` is how many
    figures of a 1 with a flag join the training images. `class_weights` lets every class count alike in the loss,
    however many images it has. `reduced` is the share of the training, from its start, in which a network that enlarges
    its images does so to three quarters of the side only (Tan and Le 2021, 2104.00298, section 4: growing images).
    `batch_norm` says which statistics are used outside of training: the "moving" averages, or the ones "recomputed"
    after every epoch from training images. `precision` is that of the training; what is published computes in float32.
    `published` is the epoch whose weights are published: the "last", or the "best" on the validation images.
    `weights` are those that the training begins with: "" for random ones, `imagenet`, or the path of a file.
    `frozen` names the last layer of a pretrained network that stays as it is; its outputs are computed once, for
    several augmented views of each image. `calibrated` says whether a temperature is fitted on the validation images.
    `early_stopping` is the number of epochs without a better one that ends the training; 0 never does. `achieved` is
    the categorical accuracy on the whole real test split that the committed artifact measured, None where no full run
    is committed. In a table's row `network` and `dataset` may be patterns (`*`).
    """

    network: str
    dataset: str
    batch_size: int
    validation: float | Literal["test"]
    name: str = "notebook"
    epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 0.001
    amsgrad: bool = True
    weight_decay: float = 0.0
    schedule: str = "constant"
    loss: str = "binary_crossentropy"
    label_smoothing: float = 0.0
    augmentation: tuple[str, ...] = ()
    drawn_ones: int = 0
    class_weights: bool = False
    reduced: float = 0.0
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    batch_norm: Literal["moving", "recomputed"] = "moving"
    published: Literal["last", "best"] = "last"
    early_stopping: int = 0
    weights: str = ""
    frozen: str = ""
    calibrated: bool = False
    seed: int = 0
    achieved: float | None = None

    @property
    def model_name(self) -> str:
        return f"{plain_name(self.network)}-{self.dataset}"

    def hyper_parameters(self) -> dict[str, Any]:
        """What a resumed run must share: no field's name and result, and no new field that is at its default.

        Of a file of weights it is the name alone: cards are public.
        """
        kept = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in _ALWAYS or (spec.name not in ("name", "achieved") and value != spec.default):
                kept[spec.name] = list(value) if isinstance(value, tuple) else value
        if self.weights:
            kept["weights"] = Path(self.weights).name
        return kept

    def compile(self, model: keras.Model) -> None:
        """Attach this recipe's optimizer, loss and metric (categorical accuracy, named so) to `model`."""
        model.compile(
            optimizer=_named(OPTIMIZERS, "optimizer", self.optimizer)(self),
            loss=_named(LOSSES, "loss", self.loss)(self),
            metrics=[keras.metrics.CategoricalAccuracy()],
        )
        # As the metric above, now and not inside the first step: Keras traces a step twice that makes variables.
        model.optimizer.build(model.trainable_variables)

    def rate(self, progress: float) -> float:
        """The learning rate when this share of the training, in [0, 1], is done."""
        return self.learning_rate * _named(SCHEDULES, "schedule", self.schedule)(progress)


def _named(table: dict[str, Any], what: str, name: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(table)}")
    return table[name]


def _adam(recipe: Recipe) -> keras.optimizers.Optimizer:
    """Kingma & Ba 2014, algorithm 1; with `amsgrad` the maximum of Reddi et al. 2018, algorithm 2; Keras' defaults."""
    return keras.optimizers.Adam(recipe.learning_rate, amsgrad=recipe.amsgrad, weight_decay=recipe.weight_decay or None)


def _sgd(recipe: Recipe) -> keras.optimizers.Optimizer:
    """Stochastic gradient descent with Nesterov's momentum 0.9 (Sutskever et al. 2013)."""
    decay = recipe.weight_decay or None
    return keras.optimizers.SGD(recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=decay)


OPTIMIZERS: dict[str, Callable[[Recipe], keras.optimizers.Optimizer]] = {"adam": _adam, "sgd": _sgd}

LOSSES: dict[str, Callable[[Recipe], keras.losses.Loss]] = {
    "binary_crossentropy": lambda recipe: keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing),
    "categorical_crossentropy": lambda recipe: keras.losses.CategoricalCrossentropy(
        label_smoothing=recipe.label_smoothing
    ),
}

# The factor on the learning rate when a share of the training, in [0, 1], is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    # Loshchilov & Hutter 2016, "SGDR", eq. 5, without restarts
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    # Smith & Topin 2017, "Super-Convergence": up over the first quarter, then linearly down to nothing
    "one_cycle": lambda progress: max(0.05, 4 * progress) if progress < 0.25 else max(0.0, (1 - progress) / 0.75),
}
