"""Pictures of which most are known -> the next version in seconds: a new classifier on a network's fixed features.

The network is that of the last version that was trained as a whole, or one with ImageNet's weights. The classifier is
cross-fitted, so that every training picture that the network has not learnt from tells how good it is: that gives the
temperature, the threshold and the accuracy by folds. The test pictures of the last version stay test pictures.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.artifact.body import Body
from training.artifact.calibration import calibration, temperature, tempered, threshold
from training.artifact.card import card_of_training, hardware
from training.artifact.errors import ExportError
from training.artifact.headed import publish_headed
from training.artifact.metrics import binary_accuracy, confusion_matrix
from training.artifact.reference import reference
from training.artifact.unfamiliarity import OUTPUT, Distance, fit, stated
from training.artifact.versions import check_name
from training.data.contents import Memory, digests, memory, remember
from training.data.dataset import Dataset
from training.data.pictures import RESIZES
from training.data.roles import test_pictures
from training.data.twins import with_twins
from training.recipes.recipe import Recipe
from training.runs.advice import Earlier
from training.runs.features import features_of, pretrained_body, trained_body
from training.runs.fitting import check_output, classes_told, doubts_of_threshold, earlier, result_told, told_of_twins
from training.runs.folds import judged
from training.runs.linear import Linear, cross_fitted, fitted, folds_of, parts_of
from training.runs.parts import RunError
from training.runs.report import write_report

HEAD = "head.npz"  # of a run's folder: the classifier, and its network's key
MOST = 3000  # training pictures that are cross-fitted: more change what they tell by less than it is known by
LEFT_AND_RIGHT = (
    "labels are doubted on fixed features, which hardly tell left from right, as your classes may have to: look at the "
    "pictures before you change a label"
)


@dataclass(frozen=True)
class _Network:
    """The body, the version whose training made it (None: ImageNet's weights), and what that version remembers."""

    body: Body
    version: int | None
    known: Memory | None


def quick(recipe: Recipe, data: Dataset, *, output: Path, runs: Path, asked: dict[str, Any] | None = None) -> Path:
    """Fit the classifier, evaluate on the test split, publish; returns the artifact's folder.

    `asked` is what the data were asked before, for the card.
    `runs/MODEL/VERSION/` keeps the record and the report. Raises RunError and ExportError.
    """
    started = time.perf_counter()
    check_name(recipe.model_name)
    check_output(output)
    network = _network(recipe, data, output, runs)
    data, fresh = _parts(data, network, _versions(output, runs, recipe.model_name), recipe.seed)
    count = len(data.x_train)
    print(_plan(recipe, data, network, fresh), flush=True)

    def report(known: int, new: int) -> None:
        print(f"features: {known:,} of {len(data.x_train) + len(data.x_test):,} pictures are known, {new:,} to compute")

    features = features_of(network.body, np.concatenate([data.x_train, data.x_test]), report)
    train, test = features[:count], features[count:]
    few = min(count, MOST)
    classes = len(data.labels)
    folds = folds_of(data.y_train[:few], data.groups[:few], recipe.seed)
    answers, strength = cross_fitted(train[:few], data.y_train[:few], classes, folds, fresh[:few], recipe.class_weights)
    linear = fitted(train, data.y_train, classes, strength, recipe.class_weights)
    counted = np.flatnonzero(fresh[:few])
    held_out, targets = answers[counted], data.y_train[counted]
    groups = [data.groups[i] for i in counted] if data.groups else []
    divisor = temperature(held_out, targets, groups) if len(counted) else 1.0
    before = linear.answers(test)
    probabilities, held_out = tempered(before, divisor), tempered(held_out, divisor)
    measured: dict[str, Any] = {**(asked or {})}
    measured["calibration"] = calibration(before, probabilities, data.y_test, divisor)
    measured["threshold"] = threshold(held_out, targets, groups) if len(counted) else None
    distance, values = _distance(train[:few], data.y_train[:few], folds)
    if distance is not None and len(counted):
        measured[OUTPUT] = stated(distance, values[counted], np.asarray(distance(test)), groups)
        limit = measured[OUTPUT]["threshold"]
        measured["reference"] = reference(held_out, data.labels, values[counted], limit)
    accuracy = float((linear.answers(train).argmax(axis=1) == data.y_train).mean())
    seconds = time.perf_counter() - started
    card = card_of_training(recipe, data, probabilities, accuracy, 0, seconds, count / seconds)
    card["training"]["inverse_penalty"] = strength
    files = [data.files[i] for i in counted] if data.files else []
    judgement = judged(held_out, targets, groups) if len(counted) else None
    if judgement:
        measured["folds"] = judgement.stated
        card["warnings"] += judgement.warnings
        if judgement.doubted and _left_and_right(output / recipe.model_name):
            card["warnings"].append(LEFT_AND_RIGHT)
    card["warnings"] += doubts_of_threshold(measured["threshold"], len(counted), groups)
    card["warnings"] += told_of_twins(data)
    card |= {"macs": network.body.macs + linear.kernel.size, "network_of_version": network.version, **measured}
    print(result_told(card, len(data.x_test)), flush=True)
    artifact = publish_headed(
        network.body,
        recipe.model_name,
        labels=data.labels,
        kernel=linear.kernel / divisor,
        bias=linear.bias / divisor,
        distance=distance if OUTPUT in measured else None,
        output=output,
        card=card,
    )
    record = {
        "model": recipe.model_name,
        "version": int(artifact.name),
        **card,
        "parameters": network.body.parameters + linear.kernel.size + linear.bias.size,
        "binary_accuracy": binary_accuracy(probabilities, data.y_test),
        "confusion": confusion_matrix(probabilities.argmax(axis=1), data.y_test, classes).tolist(),
        "history": {},
        "notes": list(data.notes),
        "doubted": judgement.listed(data.labels, files, counted) if judgement else [],
    }
    folder = runs / recipe.model_name / artifact.name
    if folder.exists():  # published to another --output before: keep both
        folder = folder.with_name(f"{artifact.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True)
    remember(data, folder)
    np.savez(folder / HEAD, body=network.body.key, kernel=linear.kernel / divisor, bias=linear.bias / divisor)
    before_it = _earlier(artifact, runs, data, network.body, test) or earlier(artifact, data)
    write_report(folder, record, data, probabilities, output, before_it)
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    if judgement:
        judgement.write(folder, data.labels, files)
        print(judgement.told(data.labels, files, folder))
    print(f"run record, plots and report.html: {folder} ({time.perf_counter() - started:.0f} s)")
    return artifact


def _earlier(artifact: Path, runs: Path, data: Dataset, body: Body, features: np.ndarray) -> Earlier | None:
    """What the version before answers to the same test pictures, from their features (N, D), if its network is this."""
    before = int(artifact.name) - 1
    try:
        card = json.loads((artifact.parent / str(before) / "card.json").read_text())
        with np.load(runs / artifact.parent.name / str(before) / HEAD) as kept:
            if str(kept["body"]) != body.key or not set(card["labels"]) <= set(data.labels):
                return None
            answers = Linear(kept["kernel"], kept["bias"]).answers(features)
    except (OSError, ValueError, KeyError):
        return None
    probabilities = np.zeros((len(features), len(data.labels)), np.float32)
    probabilities[:, [data.labels.index(label) for label in card["labels"]]] = answers
    return Earlier(before, probabilities)


def _left_and_right(folder: Path) -> bool:
    """Whether the newest version of a model that was trained as a whole left mirrored copies out, and others in."""
    for path in _newest(folder):
        try:
            recipe = json.loads((path / "card.json").read_text())["recipe"]
        except (OSError, ValueError, KeyError):
            continue
        if recipe and recipe["name"] != "quick":
            copies = recipe.get("augmentation", ())
            return bool(copies) and "flip" not in copies
    return False


def _newest(folder: Path) -> list[Path]:
    """A model's versions, the newest first."""
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: -int(path.name))


def last_resize(folder: Path) -> str | None:
    """How the newest version of a model has pictures resized, a name of RESIZES; None where there is no version."""
    versions = _newest(folder)
    try:
        convention = json.loads((versions[0] / "card.json").read_text())["input_convention"]
    except (IndexError, OSError, ValueError, KeyError):
        return None
    return next((name for name, known in RESIZES.items() if known == convention), None)


def _versions(output: Path, runs: Path, name: str) -> list[Path]:
    """The run folders of the published versions, the newest first."""
    folders = [
        path for path in (runs / name).glob("*") if path.name.isdecimal() and (output / name / path.name).is_dir()
    ]
    return sorted(folders, key=lambda path: -int(path.name))


def _network(recipe: Recipe, data: Dataset, output: Path, runs: Path) -> _Network:
    """That of the newest version that was trained as a whole on pictures of this form, else a pretrained one."""
    for folder in _versions(output, runs, recipe.model_name):
        known = memory(folder)
        try:
            record = json.loads((folder / "run.json").read_text())
            card = json.loads((output / recipe.model_name / folder.name / "card.json").read_text())
        except (OSError, ValueError):
            continue
        same = (list(data.input_shape), data.input_convention)
        fits = (card.get("input_shape"), card.get("input_convention")) == same and record["recipe"][
            "name"
        ] != recipe.name
        if known is None or not data.files or not fits or not (folder / "model.keras").exists():
            continue
        try:
            return _Network(trained_body(folder, runs), int(folder.name), known)
        except (ExportError, ValueError, OSError) as err:
            print(f"note: the network of {folder} cannot be used: {err}")
    try:
        return _Network(pretrained_body(recipe, data.input_shape, runs, golden=True), None, None)
    except ValueError as err:
        raise RunError(
            f"--quick needs a network that has learnt: {err}, and no version of {recipe.model_name} was trained with "
            "these pictures' size and kept its run. Train it once without --quick"
        ) from err


def _parts(data: Dataset, network: _Network, versions: list[Path], seed: int) -> tuple[Dataset, np.ndarray]:
    """The data with the test pictures of the last version, and which training pictures (N,) bool the network has not
    learnt from."""
    if not data.files:
        return data, np.ones(len(data.x_train), bool)
    file_digests = digests(data.files)
    learnt = network.known.learnt if network.known else file_digests[:0]
    last = next((known for folder in versions if (known := memory(folder))), None)
    if data.set_aside and last:
        targets = np.concatenate([data.y_train, data.y_test])
        tested = test_pictures(file_digests, targets, data.groups, last, learnt, seed)
        if tested.any() and not tested.all():
            order = np.concatenate([np.flatnonzero(~tested), np.flatnonzero(tested)])
            images, count = np.concatenate([data.x_train, data.x_test])[order], int((~tested).sum())
            file_digests, targets = file_digests[order], targets[order]
            data = with_twins(
                replace(
                    data,
                    x_train=images[:count],
                    y_train=targets[:count],
                    x_test=images[count:],
                    y_test=targets[count:],
                    files=tuple(data.files[i] for i in order),
                    groups=tuple(data.groups[i] for i in order) if data.groups else (),
                )
            )
    return data, ~np.isin(file_digests[: len(data.x_train)], learnt)


def _distance(features: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> tuple[Distance | None, np.ndarray]:
    """How far a picture is from the training pictures, and that of each of them (N,) from those of the other folds."""
    values = np.zeros(len(features), np.float32)
    try:
        distance = fit(features, targets)
        for learnt, asked in parts_of(folds):
            part = fit(features[learnt], targets[learnt], distance.method)
            values[asked] = np.asarray(part(features[asked]))
        return distance, values
    except ValueError:  # features that are no numbers
        return None, values


def _plan(recipe: Recipe, data: Dataset, network: _Network, fresh: np.ndarray) -> str:
    of = f"that of version {network.version}" if network.version else f"{recipe.network} with ImageNet's weights"
    new = f", {fresh.sum():,} of them new to the network" if network.version else ""
    height, width, channels = data.input_shape
    return (
        f"{recipe.model_name}: a classifier alone, on fixed features; images {width}x{height}x{channels}, "
        f"{len(data.labels)} classes\n"
        f"  network     {of}\n"
        f"  data        {data.origin}: {len(data.x_train):,} images to train on{new}, {len(data.x_test):,} to test on\n"
        f"  hardware    {hardware()}\n" + classes_told(data.labels, data.y_train, data.y_test[:0], data.y_test)
    ) + "".join(f"\n  {note}" for note in data.notes)
