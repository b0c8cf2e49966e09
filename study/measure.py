"""A row of the experiments table -> its result: trains, probes, times. Knows no claim and writes no file.

Training is the one of `training.fit` (same batches, same seeds) without checkpoints and export. Needs TensorFlow.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from study.experiments import (
    Committed,
    InitialGradients,
    PairedTiming,
    Row,
    ShiftedArtifact,
    Timed,
    Training,
    initial_networks,
)
from study.load import Load
from study.segments import accuracy_without_blocks, gradient_norms
from study.shifts import accuracy_by_shift
from training.artifact.card import hardware
from training.artifact.metrics import binary_accuracy, measure
from training.artifact.reading import latest_version, run_onnx
from training.data.dataset import Dataset
from training.networks.network import Network, build
from training.recipes.recipe import Recipe
from training.runs.epochs import batches_of, train_epoch
from training.runs.parts import splits

GRADIENT_BATCH = 256
SMALL_NETWORK = 2_000_000  # multiply-accumulate operations for an image: the dense networks have 0.2 to 0.6 million
WARM_UP = 2  # steps of each network before the timing: the first compiles


class MissingRun(RuntimeError):
    """A result that this command does not make itself; the message names the command that does."""


@dataclass
class Workplace:
    """Where data and artifacts are found. `load` gives a data set by name; each is loaded once.

    `eagerly` leaves out compiling, which takes longer than the few steps of the toy study.
    """

    load: Callable[[str], Dataset]
    models: Path
    eagerly: bool = False
    _loaded: dict[str, Dataset] = field(default_factory=dict)

    def data(self, name: str) -> Dataset:
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
        return self._loaded[name]

    def model(self, network: Network, recipe: Recipe, data: Dataset) -> keras.Model:
        """A new compiled model, initialised from the recipe's seed."""
        keras.utils.set_random_seed(recipe.seed)
        model = build(network, data.input_shape, len(data.labels), recipe.network)
        recipe.compile(model)
        model.run_eagerly = self.eagerly
        return model


def run(row: Row, workplace: Workplace) -> dict[str, Any]:
    """The result of one experiment with the load and the hardware it was measured under. Raises MissingRun."""
    load = Load()
    keras.backend.clear_session()
    match row:
        case Committed():
            raise MissingRun(f"python -m training.fit {row.model.replace('-', ' --dataset ')} makes this record")
        case Training():
            result = _train(row, workplace)
        case InitialGradients():
            result = _initial_gradients(row, workplace)
        case ShiftedArtifact():
            result = _shifted_artifact(row, workplace)
        case PairedTiming():
            result = _time(row, workplace)
    return {**result, "hardware": hardware(), "tensorflow": tf.__version__, "load": load.so_far()}


# Training


def _train(row: Training, workplace: Workplace) -> dict[str, Any]:
    recipe, data = row.recipe, workplace.data(row.recipe.dataset)
    if row.images:
        count = row.images + row.validation
        data = replace(data, x_train=data.x_train[:count], y_train=data.y_train[:count])
    train, validation = splits(recipe, data)
    classes = len(data.labels)
    model = workplace.model(row.network, recipe, data)
    history: dict[str, list[float]] = {}
    seconds: list[float] = []
    for epoch in range(recipe.epochs):
        figures, taken = train_epoch(model, recipe, train, validation, epoch)
        seconds.append(taken)
        for key, value in figures.items():
            history.setdefault(key, []).append(value)
    probabilities = model.predict(batches_of(data.x_test, data.y_test, classes), verbose=0)
    return {
        "network": recipe.network,
        "blocks": row.network.blocks,
        "parameters": model.count_params(),
        "dataset": {
            "name": data.name,
            "origin": data.origin,
            "train": len(train[0]),
            "validation": len(validation[0]),
            "test": len(data.x_test),
        },
        "recipe": recipe.hyper_parameters(),
        "metrics": measure(probabilities, data.y_test, data.labels),
        "binary_accuracy": binary_accuracy(probabilities, data.y_test),
        "history": history,
        "epoch_seconds": seconds,
        "images_per_second": len(train[0]) / statistics.median(seconds),
        **{probe: _PROBES[probe](row, model, data) for probe in row.probes},
    }


def _probe_gradients(row: Training, model: keras.Model, data: Dataset) -> dict[str, Any]:
    return gradient_norms(model, row.network.blocks, row.recipe.loss, *_gradient_batch(data))


def _probe_drops(row: Training, model: keras.Model, data: Dataset) -> dict[str, Any]:
    images = data.x_test[: row.probe_images].astype(np.float32) / 255
    return accuracy_without_blocks(model, row.network.blocks, images, data.y_test[: row.probe_images])


def _probe_shifts(row: Training, model: keras.Model, data: Dataset) -> dict[str, Any]:
    def predict(images: np.ndarray) -> np.ndarray:
        return model.predict(batches_of(images, np.zeros(len(images), int), len(data.labels)), verbose=0)

    return accuracy_by_shift(predict, data.x_test[: row.probe_images], data.y_test[: row.probe_images])


_PROBES: dict[str, Callable[[Training, keras.Model, Dataset], dict[str, Any]]] = {
    "gradients": _probe_gradients,
    "drops": _probe_drops,
    "shifts": _probe_shifts,
}


# The other kinds of rows


def _gradient_batch(data: Dataset, count: int = GRADIENT_BATCH) -> tuple[np.ndarray, np.ndarray]:
    """The first training images as float32 in [0, 1], and their one-hot labels."""
    one_hot = np.eye(len(data.labels), dtype=np.float32)[data.y_train[:count]]
    return data.x_train[:count].astype(np.float32) / 255, one_hot


def _initial_gradients(row: InitialGradients, workplace: Workplace) -> dict[str, Any]:
    data = workplace.data(row.dataset)
    recipe = Recipe("conv_resnet_deep", row.dataset, row.images, 0.2)

    def norms(network: Network, seed: int) -> dict[str, list[float]]:
        model = workplace.model(network, replace(recipe, seed=seed), data)
        return gradient_norms(model, row.blocks, recipe.loss, *_gradient_batch(data, row.images))

    networks = initial_networks(row.blocks)
    return {"gradients": {name: [norms(network, seed) for seed in row.seeds] for name, network in networks.items()}}


def _shifted_artifact(row: ShiftedArtifact, workplace: Workplace) -> dict[str, Any]:
    try:
        path = latest_version(workplace.models / row.model, "notebook")
    except FileNotFoundError as err:
        raise MissingRun(f"{err}; python -m training.fit {row.model.replace('-', ' --dataset ')} makes it") from err
    data = workplace.data(row.dataset)
    images, targets = data.x_test[: row.images], data.y_test[: row.images]
    shifts = accuracy_by_shift(lambda pictures: run_onnx(path, pictures), images, targets)
    return {"model": row.model, "version": int(path.name), "shifts": shifts}


def _time(row: PairedTiming, workplace: Workplace) -> dict[str, Any]:
    """Seconds per image of every system in every round. Within a round all take turns, so load hits them alike."""
    turns = {timed.label: _turn(timed, row.network(timed), row.turn, workplace) for timed in row.systems}
    seconds: dict[str, list[float]] = {label: [] for label in turns}
    for _ in range(row.rounds):
        for label, turn in turns.items():
            seconds[label].append(turn())
    return {
        "seconds_per_image": seconds,
        "images_per_second": {label: 1 / statistics.median(values) for label, values in seconds.items()},
    }


def _turn(timed: Timed, network: Network, images: int, workplace: Workplace) -> Callable[[], float]:
    """A function that trains on at least `images` images and returns the seconds per image."""
    data = workplace.data(timed.dataset)
    model = workplace.model(network, Recipe(timed.network, timed.dataset, timed.batch_size, 0.2), data)
    batch = [tf.constant(array) for array in _gradient_batch(data, timed.batch_size)]
    size = len(batch[0])
    # A small network's step takes milliseconds: it needs as much time per turn as the others to be timed as well.
    small = network.macs(data.input_shape) < SMALL_NETWORK
    steps = max(1, images * (16 if small and images >= 256 else 1) // size)

    def turn() -> float:
        started = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(*batch)
        return (time.perf_counter() - started) / (steps * size)

    for _ in range(WARM_UP):
        model.train_on_batch(*batch)
    return turn
