"""`python -m benchmarks.training NETWORK`: images a second of the notebook's recipe and of the tuned one, side by side.

The recipes take turns, each round an epoch of the same random images, as `training.fit` trains them; so whatever else
the machine does falls on all alike. The tuned recipe is timed in float32 too, where it computes in bfloat16. Needs
TensorFlow (.venv-dev). Knows nothing of accuracy.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import keras
import numpy as np

from training.networks.network import build
from training.networks.table import NETWORKS
from training.recipes.recipe import Recipe
from training.recipes.table import recipe_for
from training.runs.epochs import train_epoch

SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1)}
CLASSES = 10
VALIDATION = 64  # images: as good as none


def model_of(recipe: Recipe, shape: tuple[int, int, int]) -> keras.Model:
    """A new compiled model that computes in the recipe's precision."""
    model = build(NETWORKS[recipe.network], shape, CLASSES, recipe.network, recipe.precision)
    recipe.compile(model)
    return model


def rates(recipes: Sequence[Recipe], shape: tuple[int, int, int], images: int, rounds: int) -> list[list[float]]:
    """Images a second of each recipe in each round, after one round that warms up."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (images, *shape), np.uint8), rng.integers(0, CLASSES, images)
    few = pixels[:VALIDATION], labels[:VALIDATION]
    models = [model_of(recipe, shape) for recipe in recipes]
    found: list[list[float]] = [[] for _ in recipes]
    for turn in range(rounds + 1):
        for recipe, model, rate in zip(recipes, models, found, strict=True):
            began = time.perf_counter()
            train_epoch(model, recipe, (pixels, labels), few, min(turn, 1))
            if turn:
                rate.append(images / (time.perf_counter() - began))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS), metavar="NETWORK")
    parser.add_argument("--dataset", choices=sorted(SHAPES), default="cifar10", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=2560, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        plain, tuned = (recipe_for(args.network, args.dataset, name) for name in ("notebook", "tuned"))
    except ValueError as err:
        parser.error(str(err))
    compared = {"notebook": plain, f"tuned, {tuned.precision}": tuned}
    if tuned.precision != "float32":
        compared["tuned, float32"] = replace(tuned, precision="float32")
    found = rates([*compared.values()], SHAPES[args.dataset], args.images, args.rounds)
    for name, rate in zip(compared, found, strict=True):
        times = median(a / b for a, b in zip(rate, found[0], strict=True))
        print(f"{name}: {median(rate):,.0f} images/s, {times:.2f} times the notebook's (median of {args.rounds} pairs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
