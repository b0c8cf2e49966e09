"""Recipe and data -> a trained, evaluated and published model, with its run kept under runs/.

Trains epoch by epoch with a checkpoint after each, so that `--resume` continues an interrupted run to the very same
result, and tells the user what happens.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.artifact.calibration import (
    calibration,
    put_inside,
    temperature,
    tempered,
    threshold,
    threshold_by_folds,
)
from training.artifact.card import card_of_training, hardware
from training.artifact.errors import ExportError
from training.artifact.metrics import binary_accuracy, confusion_matrix
from training.artifact.publishing import export
from training.artifact.reading import run_onnx
from training.artifact.unfamiliarity import OUTPUT
from training.artifact.versions import check_name
from training.data.contents import remember
from training.data.dataset import Dataset, independent
from training.networks.network import macs_of
from training.recipes.recipe import Recipe
from training.runs.advice import Earlier
from training.runs.epochs import Lines, Progress, batches_of, train_epoch
from training.runs.familiar import familiar
from training.runs.features import features_of, trained_body
from training.runs.folds import DOUBTED, Folds, examined
from training.runs.kept import FOLDER
from training.runs.parts import Part, RunError, splits, validation_groups
from training.runs.report import write_report
from training.runs.run import Run
from training.runs.transfer import fit_head, frozen_outputs

SHOWN = 30  # classes whose counts are printed
WIDE = 0.1  # of an interval of a precision: above, the user is told
NONE = ("none", "other")  # the names of a class that holds pictures of none of the classes
TWINS = (
    "{:,} of {:,} test pictures are near-identical with training pictures, as frames of one film are: new pictures "
    "will be answered worse. {}"
)


def told_of_twins(data: Dataset) -> list[str]:
    """The warning of test pictures that were learnt from, or nearly."""
    if not data.twins:
        return []
    place = "Put what belongs together into one folder inside of its class, or name its CSV `group`"
    advice = place if data.files else "Leave them out of x_train or of x_test"
    return [TWINS.format(data.twins, len(data.x_test), advice)]


def fit(
    recipe: Recipe,
    data: Dataset,
    *,
    output: Path,
    runs: Path,
    resume: bool = False,
    asked: dict[str, Any] | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Path:
    """Train `recipe` on `data`, evaluate on the test split, publish; returns the artifact's folder.

    `runs/MODEL/VERSION/` keeps weights, history, plots and the run's record. `asked` is what the data were asked
    before, for the card. With a `strategy` the epochs run on its devices. Raises RunError, also where the loss is no
    finite number any more, and ExportError.
    """
    check_name(recipe.model_name)  # now, not after the training
    check_output(output)
    train, validation = splits(recipe, data)
    run = Run.open(runs / recipe.model_name, recipe, data, resume)
    try:
        folds = examined(recipe, data, runs)
        artifact = _fit(run, train, validation, output, asked or {}, folds, strategy)
    finally:
        run.discard_untrained()
    if recipe.frozen and data.files:
        _keep_features(run, artifact, runs)
    return artifact


def _keep_features(run: Run, artifact: Path, runs: Path) -> None:
    """Keep the trained network and its features of the pictures, so that `--quick` finds them."""
    started = time.perf_counter()
    try:
        body = trained_body(run.folder, runs)
        for images in (run.data.x_train, run.data.x_test):
            features_of(body, images)
    except ExportError as err:
        print(f"note: --quick will not know this network: {err}")
        return
    except KeyboardInterrupt as err:
        raise InterruptedAfterPublishing(f"{artifact} is published; the first --quick takes longer") from err
    print(f"features kept for --quick: {runs / FOLDER} ({time.perf_counter() - started:.0f} s)")


def _fit(
    run: Run,
    train: Part,
    validation: Part,
    output: Path,
    asked: dict[str, Any],
    folds: Folds | None,
    strategy: tf.distribute.Strategy | None,
) -> Path:
    recipe, data = run.recipe, run.data
    with nullcontext() if strategy is None else strategy.scope():
        model = run.restore()
    print(_plan(recipe, data, model, train, validation, output, run), flush=True)
    if folds:
        folds.write(run.folder, data.labels, data.files)  # now: who finds wrong labels need not wait for the end
        print(folds.told(data.labels, data.files, run.folder), flush=True)
    learnt, checked, prepared = _prepared(model, run, train, validation)
    lately: list[float] = []  # the seconds of this process' epochs, without what was prepared once
    while not run.done:
        progress = [Progress(recipe.epochs) if sys.stdout.isatty() else Lines(recipe.epochs)]
        figures, taken = train_epoch(model, recipe, learnt, checked, len(run.seconds), progress)
        if not math.isfinite(figures["loss"]):
            raise RunError(
                f"epoch {len(run.seconds) + 1}: the loss is {figures['loss']:g}, the training has diverged; "
                f"start again with a --learning-rate smaller than {recipe.learning_rate:g}"
            )
        run.save(model, figures, taken if run.seconds else taken + prepared)
        lately.append(taken)
        print(_epoch_line(figures, len(run.seconds), recipe.epochs, lately), flush=True)
    if len(run.seconds) < recipe.epochs:
        print(f"stopped early: no better validation in {recipe.early_stopping} epochs")
    if recipe.published == "best":
        print(_published_told(run))
    if strategy is not None:  # what follows is for a model of one device
        model = keras.saving.load_model(run.checkpoint)
    model = run.published_model(model)

    probabilities = model.predict(batches_of(data.x_test, data.y_test, len(data.labels)), verbose=0)
    measured = {**asked}
    if recipe.calibrated:
        held_out = model.predict(batches_of(*validation, len(data.labels)), verbose=0)
        groups = validation_groups(data, len(held_out)) if validation[0] is not data.x_test else ()
        divisor = temperature(held_out, validation[1], groups)
        put_inside(model, divisor)
        before, probabilities = probabilities, tempered(probabilities, divisor)
        measured["calibration"] = calibration(before, probabilities, data.y_test, divisor)
        held_out = tempered(held_out, divisor)
        measured["threshold"] = _threshold(held_out, validation[1], folds, groups)
    distance, known = familiar(model, data, train, validation, recipe.seed)
    rate = len(train[0]) * len(run.seconds) / sum(run.seconds)
    card = card_of_training(recipe, data, probabilities, run.train_accuracy, len(run.seconds), sum(run.seconds), rate)
    if run.head:
        card["training"]["published"] = "head" if run.best_epoch < 0 else f"epoch {run.best_epoch + 1}"
    if recipe.calibrated:
        card["warnings"] += doubts_of_threshold(measured["threshold"], len(validation[0]), groups)
    if folds:
        measured["folds"] = folds.stated
        card["warnings"] += folds.warnings
    card["warnings"] += told_of_twins(data)
    card |= {"macs": macs_of(model), **measured, **known}
    print(result_told(card, len(data.x_test)), flush=True)
    artifact = export(model, recipe.model_name, labels=data.labels, output=output, card=card, distance=distance)
    try:
        record = {
            "model": recipe.model_name,
            "version": int(artifact.name),
            **card,
            "parameters": model.count_params(),
            "binary_accuracy": binary_accuracy(probabilities, data.y_test),
            "confusion": confusion_matrix(probabilities.argmax(axis=1), data.y_test, len(data.labels)).tolist(),
            "history": run.history,
            "epoch_seconds": run.seconds,
            "best_epoch": run.best_epoch + 1,
            "notes": list(data.notes),
            "doubted": folds.listed(data.labels, data.files) if folds else [],
        }
        remember(data, run.folder, len(validation[0]) if validation[0] is not data.x_test else 0)
        write_report(run.folder, record, data, probabilities, output, earlier(artifact, data))
        run.finish(model, record, artifact.name)
        if record["doubted"]:
            print(f"labels in doubt: {run.folder / DOUBTED}")
    except KeyboardInterrupt as err:
        raise InterruptedAfterPublishing(f"{artifact} is published; {run.folder} lacks its record or report") from err
    return artifact


def check_output(output: Path) -> None:
    """Raise RunError where artifacts could not be written to `output`; nothing is left there."""
    above = next(folder for folder in (output, *output.resolve().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=above):
            pass
    except OSError as err:
        raise RunError(f"--output {output}: cannot write to {above}: {err.strerror}") from err


def _prepared(model: keras.Model, run: Run, train: Part, validation: Part) -> tuple[Part, Part, float]:
    """What `model` learns from and is validated on, and the seconds that it took to prepare them and the model's head.

    These are the images themselves, or the outputs of the layers that the recipe freezes.
    """
    recipe, started = run.recipe, time.perf_counter()
    if not recipe.frozen or run.done:
        return train, validation, 0.0
    learnt, checked = frozen_outputs(run.new_model(), recipe, train, validation, run.folder)
    print(
        f"frozen up to {recipe.frozen}: outputs of {len(learnt[0]):,} views of {len(train[0]):,} images computed once "
        f"({time.perf_counter() - started:.0f} s)",
        flush=True,
    )
    if not run.seconds:
        figures = fit_head(model, learnt, checked, recipe.class_weights)
        run.save_head(model, figures)
        seconds = time.perf_counter() - started
        print(f"head on fixed features: {_validation_told(figures)} ({seconds:.0f} s with the features)", flush=True)
    return learnt, checked, time.perf_counter() - started


def earlier(artifact: Path, data: Dataset) -> Earlier | None:
    """What the version before this one answers about the same test images; None where none could.

    Its classes are matched by name: it may not have known all of them.
    """
    versions = [int(path.name) for path in artifact.parent.iterdir() if path.name.isdecimal()]
    before = max((version for version in versions if version < int(artifact.name)), default=None)
    if before is None:
        return None
    path = artifact.parent / str(before)
    try:
        card = json.loads((path / "card.json").read_text())
        shared = [(k, data.labels.index(label)) for k, label in enumerate(card["labels"]) if label in data.labels]
        same = (list(data.input_shape), data.input_convention) == (card["input_shape"], card["input_convention"])
        if not shared or not same:
            return None
        theirs, ours = zip(*shared, strict=True)
        probabilities = np.zeros((len(data.x_test), len(data.labels)), np.float32)
        probabilities[:, list(ours)] = run_onnx(path, data.x_test)[:, list(theirs)]
        return Earlier(before, probabilities)
    except Exception as err:  # somebody else's file may be anything; the report does without
        print(f"the report has no comparison with {path}: {err}", file=sys.stderr)
        return None


def _threshold(
    held_out: np.ndarray, targets: np.ndarray, folds: Folds | None, groups: Sequence[str]
) -> dict[str, Any] | None:
    """That of the validation answers (N, K); where they name none or a vague one, and folds name one, that of both."""
    found = threshold(held_out, targets, groups)
    if folds and folds.threshold and (found is None or found["interval"][1] - found["interval"][0] >= WIDE):
        return threshold_by_folds(held_out, targets, folds.threshold, groups) or found
    return found


def doubts_of_threshold(found: dict[str, Any] | None, count: int, groups: Sequence[str] = ()) -> list[str]:
    """The warning where the answers to `count` images that were not learnt from gave no threshold, or a vague one.

    `groups` says which of them belong together."""
    more = "groups" if any(groups) else "images"
    seen = f"{count:,} validation images" + (f" of {independent(groups):,} groups" if any(groups) else "")
    if found is None:
        return [
            f"the answers to {seen} name no probability from which 95 % are right: "
            f"`min_probability=card` calls every answer unsure; add {more}"
        ]
    low, high = found["interval"]
    if high - low < WIDE:
        return []
    return [
        f"the threshold of {found['probability']:.2f} comes from {seen}: with "
        f"`min_probability=card` {low:.0%} to {high:.0%} of the sure answers will be right; add {more}"
    ]


class InterruptedAfterPublishing(KeyboardInterrupt):
    """Ctrl-C came when the artifact was already published; the message names it."""


# What the user reads


def _plan(
    recipe: Recipe, data: Dataset, model: keras.Model, train: Part, validation: Part, output: Path, run: Run
) -> str:
    own = validation[0] is not data.x_test
    held_out = f"{len(validation[0]):,} images of the training split" if own else "the test split"
    done = f", {len(run.seconds)} of them done" if run.seconds else ""
    above = f" above {recipe.frozen}" if recipe.frozen else ""
    height, width, channels = data.input_shape
    return (
        f"{recipe.model_name}: {model.count_params():,} parameters{above}, images {width}x{height}x{channels}, "
        f"{len(data.labels)} classes\n"
        f"  data        {data.origin}: {len(train[0]):,} images to train on, {len(data.x_test):,} to test on\n"
        f"  recipe      {recipe.name}: {recipe.epochs} epochs{done}, batches of {recipe.batch_size}, "
        f"{recipe.optimizer}, {recipe.loss}, seed {recipe.seed}\n"
        f"  batch norm  {recipe.batch_norm} statistics\n"
        f"  validation  {held_out}\n"
        f"  hardware    {hardware()}\n"
        f"  checkpoints {run.folder}\n"
        f"  artifact    {output / recipe.model_name}/<next version>\n"
        + classes_told(data.labels, train[1], validation[1], data.y_test)
        + "".join(f"\n  {note}" for note in data.notes)
    )


def classes_told(labels: Sequence[str], *parts: np.ndarray) -> str:
    """How many images each class has for training, validation and test; the rarest ones where there are many."""
    counts = np.stack([np.bincount(part, minlength=len(labels)) for part in parts], axis=1)
    shown = np.sort(np.argsort(counts[:, 0], kind="stable")[:SHOWN])
    lines = [f"  {'class':<20} {'train':>7} {'valid':>7} {'test':>7}"]
    lines += [f"  {labels[k][:20]:<20} {counts[k][0]:>7,} {counts[k][1]:>7,} {counts[k][2]:>7,}" for k in shown]
    if more := len(labels) - len(shown):
        lines.append(f"  and {more} classes with more")
    return "\n".join(lines)


def _epoch_line(figures: dict[str, float], done: int, epochs: int, lately: Sequence[float]) -> str:
    left = (epochs - done) * sum(lately) / len(lately)
    return (
        f"epoch {done}/{epochs}: loss {figures['loss']:.4f}, categorical accuracy "
        f"{figures['categorical_accuracy']:.4f}, {_validation_told(figures)} ({lately[-1]:.0f} s"
        + (f", about {left / 60:.0f} min left)" if left >= 60 else ")")
    )


def _validation_told(figures: dict[str, float]) -> str:
    recall = f", mean recall {figures['val_mean_recall']:.4f}" if "val_mean_recall" in figures else ""
    return f"validation {figures['val_categorical_accuracy']:.4f}{recall}"


def _published_told(run: Run) -> str:
    if run.best_epoch < 0:
        return "published is the head on fixed features: no epoch is better on the validation images"
    return f"published are the weights of epoch {run.best_epoch + 1}, as good as any on the validation images"


def result_told(card: dict[str, Any], count: int) -> str:
    """What the test split showed, and what the card warns of."""
    metrics, (low, high) = card["metrics"], card["intervals"]["accuracy"]
    recalls = "".join(
        f"\n  {label:<12} " + ("no test images" if recall is None else f"{recall:.4f}")
        for label, recall in metrics["per_class_accuracy"].items()
    )
    cautions = "".join(f"\nwarning: {text}" for text in card["warnings"])
    together = f" of {groups:,} groups" if (groups := card["dataset"].get("test_groups")) else ""
    strange = _strange_told(card[OUTPUT], metrics["per_class_accuracy"]) if OUTPUT in card else ""
    return (
        f"test split: categorical accuracy {metrics['accuracy']:.4f} ({low:.3f} to {high:.3f} with 95 % certainty, "
        f"{count:,} images{together}), loss {metrics['loss']:.4f}, "
        f"calibration error {metrics['calibration_error']:.4f}; accuracy by class:{recalls}{strange}{cautions}"
    )


def _strange_told(found: dict[str, Any], labels: Collection[str]) -> str:
    """What comes of pictures of none of the classes, and that a class of their own is better where they look alike."""
    told = (
        "\npictures unlike the training's are answered `unfamiliar`: "
        f"{found['test_share']:.1%} of the test pictures are, by mistake"
    )
    if any(label.lower() in NONE for label in labels):
        return told
    return f"{told}. What looks like your classes is not noticed: put such pictures into a class `none`"
