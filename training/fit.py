"""`python -m training.fit NETWORK`: recipe + data -> a trained, evaluated and published model.

Trains epoch by epoch with a checkpoint after each, so that `--resume` continues an interrupted run to the very same
result; keeps weights, history and plots under runs/; publishes through `export`. Every random draw is a function of
(seed, epoch), never of what ran before.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from training.datasets import RESAMPLE, Dataset, DatasetError, load
from training.evaluate import binary_accuracy, confusion_matrix, measure
from training.export import ExportError, check_name, export
from training.networks import NETWORKS
from training.recipes import Recipe, recipe_for
from training.runs import Run, RunError


def fit(recipe: Recipe, data: Dataset, *, output: Path, runs: Path, resume: bool = False) -> Path:
    """Train `recipe` on `data`, evaluate on the test split, publish; returns the artifact's folder.

    `runs/MODEL/VERSION/` keeps weights, history, plots and the run's record. Raises RunError and ExportError.
    """
    check_name(recipe.model_name)  # now, not after the training
    run = Run.open(runs / recipe.model_name, recipe, data, resume)
    model = run.restore()
    train, validation = splits(recipe, data)
    classes = len(data.labels)
    print(_plan(recipe, data, model, len(train[0]), output, run), flush=True)
    while (epoch := len(run.seconds)) < recipe.epochs:
        progress = [_Progress(recipe.epochs)] if sys.stdout.isatty() else []
        figures, taken = train_epoch(model, recipe, train, validation, epoch, progress)
        run.save(model, figures, taken)
        print(_epoch_line(figures, run.seconds, recipe.epochs), flush=True)

    probabilities = model.predict(batches_of(data.x_test, data.y_test, classes), verbose=0)
    metrics = measure(probabilities, data.y_test, data.labels)
    seconds = sum(run.seconds)
    card = {
        "network": recipe.network,
        "dataset": {
            "name": data.name,
            "origin": data.origin,
            "train": len(data.x_train),
            "test": len(data.x_test),
        },
        "input_convention": data.input_convention,
        "resample": RESAMPLE.name.lower(),
        "recipe": recipe.hyper_parameters(),
        "metrics": metrics,
        "training": {
            "epochs": recipe.epochs,
            "seconds": round(seconds, 1),
            "images_per_second": round(len(train[0]) * len(run.seconds) / seconds, 1),
            "hardware": hardware(),
        },
    }
    print(_result(metrics), flush=True)
    artifact = export(model, recipe.model_name, labels=data.labels, output=output, card=card)
    record = {
        "model": recipe.model_name,
        "version": int(artifact.name),
        **card,
        "parameters": model.count_params(),
        "binary_accuracy": binary_accuracy(probabilities, data.y_test),
        "confusion": confusion_matrix(probabilities.argmax(axis=1), data.y_test, len(data.labels)).tolist(),
        "history": run.history,
        "epoch_seconds": run.seconds,
    }
    run.finish(model, record, artifact.name)
    return artifact


def train_epoch(
    model: keras.Model,
    recipe: Recipe,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    epoch: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[dict[str, float], float]:
    """One epoch on (images, labels), its order and dropout drawn from (seed, epoch); Keras' figures and the seconds."""
    seed_dropout(model, recipe.seed, epoch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(train[0]))
    classes = model.output_shape[1]
    started = time.perf_counter()
    history = model.fit(
        batches_of(*train, classes, recipe.batch_size, order),
        validation_data=batches_of(*validation, classes),
        initial_epoch=epoch,
        epochs=epoch + 1,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history
    return {key: float(values[-1]) for key, values in history.items()}, time.perf_counter() - started


def splits(recipe: Recipe, data: Dataset) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(images, labels) to train on and to validate on, as the recipe says."""
    if recipe.validation == "test":
        return (data.x_train, data.y_train), (data.x_test, data.y_test)
    held_out = int(len(data.x_train) * recipe.validation)
    if held_out == 0:
        raise RunError(f"{len(data.x_train)} training images are too few to hold out {recipe.validation:.0%} of them")
    return (data.x_train[:-held_out], data.y_train[:-held_out]), (data.x_train[-held_out:], data.y_train[-held_out:])


def batches_of(
    images: np.ndarray, targets: np.ndarray, classes: int, size: int = 256, order: np.ndarray | None = None
) -> tf.data.Dataset:
    """Batches of float32 images in [0, 1] and one-hot labels; only the batch at hand is float, the rest stays uint8."""
    pixels, labels = tf.constant(images), tf.constant(targets)

    def take(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.gather(pixels, index), tf.float32) / 255, tf.one_hot(tf.gather(labels, index), classes)

    index = np.arange(len(images)) if order is None else order
    return tf.data.Dataset.from_tensor_slices(index).batch(size).map(take).prefetch(2)


def seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Set every Dropout's random state from (seed, epoch): a .keras file does not restore it."""
    for i, layer in enumerate(layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)):
        layer.seed_generator.state.assign(np.random.SeedSequence((seed, epoch, i)).generate_state(2))


class _Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, counting to the whole run's epochs instead of the one that `fit` is called for."""

    def __init__(self, epochs: int):
        super().__init__()
        self.total = epochs

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "verbose": 1, "epochs": self.total})


# What the user reads


def _plan(recipe: Recipe, data: Dataset, model: keras.Model, train: int, output: Path, run: Run) -> str:
    held_out = "the test split" if recipe.validation == "test" else f"the last {recipe.validation:.0%} of train"
    done = f", {len(run.seconds)} of them done" if run.seconds else ""
    height, width, channels = data.input_shape
    return (
        f"{recipe.model_name}: {model.count_params():,} parameters, images {width}x{height}x{channels}, "
        f"{len(data.labels)} classes\n"
        f"  data        {data.origin}: {train:,} images to train on, {len(data.x_test):,} to test on\n"
        f"  recipe      {recipe.epochs} epochs{done}, batches of {recipe.batch_size}, {recipe.optimizer}, "
        f"{recipe.loss}, seed {recipe.seed}\n"
        f"  validation  {held_out}\n"
        f"  hardware    {hardware()}\n"
        f"  checkpoints {run.folder}\n"
        f"  artifact    {output / recipe.model_name}/<next version>"
    )


def _epoch_line(figures: dict[str, float], seconds: list[float], epochs: int) -> str:
    left = (epochs - len(seconds)) * sum(seconds) / len(seconds)
    return (
        f"epoch {len(seconds)}/{epochs}: loss {figures['loss']:.4f}, categorical accuracy "
        f"{figures['categorical_accuracy']:.4f}, validation {figures['val_categorical_accuracy']:.4f} "
        f"({seconds[-1]:.0f} s" + (f", about {left / 60:.0f} min left)" if left >= 60 else ")")
    )


def _result(metrics: dict[str, Any]) -> str:
    recalls = "".join(
        f"\n  {label:<12} " + ("no test images" if recall is None else f"{recall:.4f}")
        for label, recall in metrics["per_class_accuracy"].items()
    )
    return (
        f"test split: categorical accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}, "
        f"calibration error {metrics['calibration_error']:.4f}; accuracy by class:{recalls}"
    )


def hardware() -> str:
    """The accelerators TensorFlow sees, else the CPU and how many cores this process may use."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    if gpus:
        return ", ".join(str(gpu.get("device_name", "GPU")) for gpu in gpus)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.fit",
        description="Train a network with its recipe, evaluate it and publish it as an artifact that can be served.",
    )
    networks = [name for name in NETWORKS if not name.startswith("_")]
    parser.add_argument("network", choices=list(NETWORKS), metavar="NETWORK", help=", ".join(networks))
    parser.add_argument(
        "--dataset", help="mnist, cifar10, digits; with --data: its name (default: the network's first)"
    )
    parser.add_argument(
        "--data", type=Path, help="an .npz with Keras' keys, or a folder train/<class>/*, test/<class>/*"
    )
    parser.add_argument("--labels", help="class names a,b,… in index order")
    parser.add_argument("--image-size", type=_positive, help="resize to N pixels square (default: the common size)")
    parser.add_argument("--epochs", type=_positive, help="default: the recipe's")
    parser.add_argument("--batch-size", type=_positive, help="default: the recipe's")
    parser.add_argument("--seed", type=_not_negative, help="default: the recipe's")
    parser.add_argument("--output", type=Path, default=Path("models"), help="where artifacts go (default: models)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, weights, plots (default: runs)")
    parser.add_argument("--origin", help="where the data came from, for the card (default: the data set or file)")
    parser.add_argument("--resume", action="store_true", help="continue the newest interrupted run of this model")
    args = parser.parse_args(argv)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` cleans up as for Ctrl-C
    tf.config.experimental.enable_op_determinism()  # costs nothing measurable on the CPU; exact --resume needs it
    overrides = {"epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed}
    try:
        name = args.dataset or (None if args.data else recipe_for(args.network).dataset)
        seed = recipe_for(args.network).seed if args.seed is None else args.seed
        data = load(
            name,
            args.data,
            seed=seed,
            labels=tuple(args.labels.split(",")) if args.labels else None,
            image_size=args.image_size,
            origin=args.origin,
        )
        recipe = recipe_for(args.network, data.name)
        recipe = replace(recipe, **{key: value for key, value in overrides.items() if value is not None})
        artifact = fit(recipe, data, output=args.output, runs=args.runs, resume=args.resume)
    except (DatasetError, RunError, ExportError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was published; the same command with --resume continues", file=sys.stderr)
        return 130
    models = "" if args.output == Path("models") else f"SHORTCUT_MODELS={args.output} "
    print(f"published {artifact}\nserve it: {models}SHORTCUT_DEFAULT_MODEL={recipe.model_name} make serve")
    return 0


def _positive(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from err
    if value < least:
        raise argparse.ArgumentTypeError(f"must {'not be negative' if least == 0 else 'be at least 1'}, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
