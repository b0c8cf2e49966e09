"""Recipe and data -> a trained, evaluated and published model, with its run kept under runs/.

Trains epoch by epoch with a checkpoint after each, so that `--resume` continues an interrupted run to the very same
result, and tells the user what happens.
"""

import sys
from pathlib import Path
from typing import Any

import keras

from training.artifact.card import card_of_training, hardware
from training.artifact.metrics import binary_accuracy, confusion_matrix, measure
from training.artifact.publishing import check_name, export
from training.data.dataset import Dataset
from training.recipes.recipe import Recipe
from training.runs.epochs import Progress, batches_of, splits, train_epoch
from training.runs.run import Run


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
        progress = [Progress(recipe.epochs)] if sys.stdout.isatty() else []
        figures, taken = train_epoch(model, recipe, train, validation, epoch, progress)
        run.save(model, figures, taken)
        print(_epoch_line(figures, run.seconds, recipe.epochs), flush=True)

    probabilities = model.predict(batches_of(data.x_test, data.y_test, classes), verbose=0)
    metrics = measure(probabilities, data.y_test, data.labels)
    seconds = sum(run.seconds)
    card = card_of_training(recipe, data, metrics, recipe.epochs, seconds, len(train[0]) * len(run.seconds) / seconds)
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
