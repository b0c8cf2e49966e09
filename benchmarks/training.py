"""`python -m benchmarks.training NETWORK`: images a second of the notebook's recipe and of the tuned one, side by side.

With `--beside-keras` instead of plain `model.fit` of Keras and of the tuned recipe: the same network, data, batch,
optimizer and loss, where Keras computes in float32 and changes no images. All take turns, each round an epoch of the
same random images, as `training.fit` trains them; so whatever else the machine does falls on all alike. The tuned
recipe is timed in float32 too, where it computes in bfloat16. Needs TensorFlow (.venv-dev). Knows nothing of accuracy.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import keras
import numpy as np

from training.artifact.card import hardware
from training.networks.network import build
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.recipes.table import recipe_for
from training.runs.epochs import train_epoch
from training.runs.parts import Part

SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1)}
CLASSES = 10
VALIDATION = 64  # images: as good as none


@dataclass(frozen=True)
class Way:
    """A way to train an epoch: by a recipe, as `training.fit` does, or with its network and batch by Keras alone."""

    name: str
    recipe: Recipe
    keras_alone: bool = False

    def model(self, shape: tuple[int, int, int]) -> keras.Model:
        """A new compiled model, of the recipe's network with the weights that it begins with."""
        network, recipe = NETWORKS[self.recipe.network], self.recipe
        model = build(network, shape, CLASSES, recipe.network, "float32" if self.keras_alone else recipe.precision)
        if recipe.weights and network.pretrained:
            network.pretrained(model, recipe.weights)
        recipe.compile(model)
        return model

    def train(self, model: keras.Model, images: Part, epoch: int) -> None:
        """One epoch on images (N, H, W, C) uint8; Keras alone validates nothing, a recipe as good as nothing."""
        pixels, labels = images
        if not self.keras_alone:
            train_epoch(model, self.recipe, images, (pixels[:VALIDATION], labels[:VALIDATION]), epoch)
            return
        targets = keras.utils.to_categorical(labels, CLASSES)
        model.fit(pixels / np.float32(255), targets, batch_size=self.recipe.batch_size, verbose=0)


def rates(ways: Sequence[Way], shape: tuple[int, int, int], images: int, rounds: int) -> list[list[float]]:
    """Images a second of each way in each round, after one round that warms up."""
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (images, *shape), np.uint8), rng.integers(0, CLASSES, images)
    models = [way.model(shape) for way in ways]
    rates_of: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for way, model, rate in zip(ways, models, rates_of, strict=True):
            began = time.perf_counter()
            way.train(model, part, min(number, 1))
            if number:
                rate.append(images / (time.perf_counter() - began))
    return rates_of


def ways(network: str, dataset: str, beside_keras: bool) -> list[Way]:
    """What is compared, the reference first. Raises ValueError where a recipe has no row for the network."""
    recipe = recipe_for(network, dataset, "tuned")
    tuned = replace(recipe, reduced=0.0)  # images as large as in the last epochs, so that all do the same work
    if beside_keras:
        compared = [Way("plain Keras, float32", tuned, keras_alone=True)]
    else:
        compared = [Way("notebook", recipe_for(network, dataset, "notebook"))]
    compared.append(Way(f"tuned, {tuned.precision}", tuned))
    if recipe.reduced:
        compared.append(
            Way(f"tuned, {tuned.precision}, smaller images, as in {recipe.reduced:.0%} of its epochs", recipe)
        )
    if tuned.precision != "float32":
        compared.append(Way("tuned, float32", replace(tuned, precision="float32")))
    return compared


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS), metavar="NETWORK")
    parser.add_argument("--dataset", choices=sorted(SHAPES), default="cifar10", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=2560, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--beside-keras", action="store_true", help="plain model.fit instead of the notebook's recipe")
    args = parser.parse_args(argv)
    try:
        compared = ways(args.network, args.dataset, args.beside_keras)
    except ValueError as err:
        hint = "" if args.beside_keras else "; --beside-keras compares with plain Keras instead"
        parser.error(f"{err}{hint}")
    measured = rates(compared, SHAPES[args.dataset], args.images, args.rounds)
    against = "plain Keras'" if args.beside_keras else "the notebook's"
    for way, rate in zip(compared, measured, strict=True):
        times = median(a / b for a, b in zip(rate, measured[0], strict=True))
        pairs = f"(median of {args.rounds} pairs)"
        print(f"{way.name}: {median(rate):,.0f} images/s, {times:.2f} times {against} {pairs}")
    print(f"on {hardware()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
